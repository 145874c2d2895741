package paystream.rivals.contract;

import java.math.BigDecimal;

/**
 * One quote of one currency and the days it holds for. Days count from 1970-01-01.
 *
 * @param rate with 12 decimals
 * @param isLatest whether it stands in for days that may still get a quote of their own
 */
public record Rate(
    int validFrom,
    int validTo,
    BigDecimal rate,
    int rateDate,
    boolean isLatest,
    String reportingCurrency,
    long snapshotId) {}
