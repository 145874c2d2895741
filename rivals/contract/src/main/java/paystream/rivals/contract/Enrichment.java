package paystream.rivals.contract;

import java.math.BigDecimal;
import java.math.RoundingMode;

/**
 * What sql/1_ingest/transactions_mv.sql adds to a payment.
 *
 * @param merchant null: not known
 * @param rate null: none for the payment's day
 * @param amountReporting with 4 decimals, rounded half away from zero from the exact product; null without a rate
 */
public record Enrichment(Merchant merchant, Rate rate, BigDecimal amountReporting, String status) {

  /** Enrich a payment; merchant and rates may be null. */
  public static Enrichment of(Payment payment, Merchant merchant, Rates rates) {
    return of(payment, merchant, rates == null ? null : rates.at(payment.day()));
  }

  /** Enrich a payment; merchant and the rate of its day may be null. */
  public static Enrichment of(Payment payment, Merchant merchant, Rate rate) {
    BigDecimal amount =
        rate == null ? null : payment.amount().multiply(rate.rate()).setScale(4, RoundingMode.HALF_UP);
    String status = "ok";
    if (merchant == null) {
      status = "merchant_pending";
    } else if (rate == null) {
      status = "fx_pending";
    } else if (rate.isLatest() && rate.rateDate() < payment.day()) {
      status = "fx_provisional";
    }
    return new Enrichment(merchant, rate, amount, status);
  }
}
