package paystream.rivals.contract;

import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.UUID;

/**
 * A valid message's fields.
 *
 * @param amount above 0, with 4 decimals
 * @param createdAtMicros since 1970, UTC, as {@code updatedAtMicros}
 */
public record Payment(
    UUID transactionId,
    long merchantId,
    BigDecimal amount,
    String currency,
    String status,
    long createdAtMicros,
    long updatedAtMicros)
    implements Verdict {

  /** The UTC day that its exchange rate is looked up for, counted from 1970-01-01 as {@link LocalDate#toEpochDay}. */
  public int day() {
    return (int) Math.floorDiv(createdAtMicros, 86_400_000_000L);
  }
}
