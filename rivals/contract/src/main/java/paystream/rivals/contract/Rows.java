package paystream.rivals.contract;

import java.io.ByteArrayOutputStream;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collection;

/**
 * Rows in ClickHouse's format RowBinary, without their last column, the time of the insert: {@link #body} adds it, so that
 * it is that of the insert however long a row has waited.
 */
public final class Rows {
  /** The columns of {@link #transaction}, in its order. */
  public static final String TRANSACTION_COLUMNS =
      "transaction_id, created_at, merchant_id, amount, currency, status, updated_at,"
          + " merchant_name, merchant_country, merchant_category_code, merchant_snapshot_id,"
          + " fx_rate, fx_rate_date, amount_reporting, reporting_currency, fx_snapshot_id, enrichment_status,"
          + " kafka_topic, kafka_partition, kafka_offset, kafka_timestamp";

  /** The columns of {@link #refused}, in its order. */
  public static final String QUARANTINE_COLUMNS =
      "reason, raw_message, kafka_key, kafka_topic, kafka_partition, kafka_offset, kafka_timestamp";

  /** The insert that takes a {@link #body} of transactions. */
  public static final String INSERT_TRANSACTIONS =
      "INSERT INTO transactions (" + TRANSACTION_COLUMNS + ", ingested_at) FORMAT RowBinary";

  /** The insert that takes a {@link #body} of refused messages. */
  public static final String INSERT_QUARANTINE =
      "INSERT INTO quarantine (" + QUARANTINE_COLUMNS + ", quarantined_at) FORMAT RowBinary";

  private static final Merchant NO_MERCHANT = new Merchant("", "", "", 0);

  private Rows() {}

  /** Encode a row of the table transactions. */
  public static byte[] transaction(Payment payment, Enrichment enrichment, Origin origin) {
    Merchant merchant = enrichment.merchant() == null ? NO_MERCHANT : enrichment.merchant();
    Rate rate = enrichment.rate();
    Writer row = new Writer(384);
    row.int64(payment.transactionId().getMostSignificantBits());
    row.int64(payment.transactionId().getLeastSignificantBits());
    row.int64(payment.createdAtMicros());
    row.int32((int) payment.merchantId());
    row.int64(payment.amount().unscaledValue().longValueExact());
    row.text(payment.currency());
    row.text(payment.status());
    row.int64(payment.updatedAtMicros());

    row.text(merchant.name());
    row.text(merchant.country());
    row.text(merchant.categoryCode());
    row.int32((int) merchant.snapshotId());

    row.nullableDecimal(rate == null ? null : rate.rate());
    if (row.isPresent(rate)) {
      row.int16(rate.rateDate());
    }
    row.nullableDecimal(enrichment.amountReporting());
    row.text(rate == null ? "" : rate.reportingCurrency());
    row.int32(rate == null ? 0 : (int) rate.snapshotId());
    row.text(enrichment.status());

    origin(row, origin);
    return row.toBytes();
  }

  /** Encode a row of the table quarantine. */
  public static byte[] refused(String reason, byte[] message, Origin origin) {
    Writer row = new Writer(message.length + 128);
    row.text(reason);
    row.bytes(message);
    row.bytes(origin.key() == null ? new byte[0] : origin.key());
    origin(row, origin);
    return row.toBytes();
  }

  /** Join rows into what {@link ClickHouse#insert} sends, each with the time of its insert. */
  public static byte[] body(Collection<byte[]> rows, long insertedAtMillis) {
    Writer time = new Writer(8);
    time.int64(insertedAtMillis);
    byte[] stamp = time.toBytes();
    int length = 0;
    for (byte[] row : rows) {
      length += row.length + stamp.length;
    }
    ByteArrayOutputStream body = new ByteArrayOutputStream(length);
    for (byte[] row : rows) {
      body.writeBytes(row);
      body.writeBytes(stamp);
    }
    return body.toByteArray();
  }

  private static void origin(Writer row, Origin origin) {
    row.text(origin.topic());
    row.int32(origin.partition());
    row.int64(origin.offset());
    row.int64(Math.max(0, origin.timestampMillis()));
  }

  /** Little-endian numbers and texts behind their length, in an array that grows. */
  private static final class Writer {
    private byte[] bytes;
    private int length;

    Writer(int expected) {
      bytes = new byte[expected];
    }

    byte[] toBytes() {
      return Arrays.copyOf(bytes, length);
    }

    void int16(int value) {
      littleEndian(value, 2);
    }

    void int32(int value) {
      littleEndian(value, 4);
    }

    void int64(long value) {
      littleEndian(value, 8);
    }

    boolean isPresent(Object value) {
      littleEndian(value == null ? 1 : 0, 1);
      return value != null;
    }

    void nullableDecimal(BigDecimal value) {
      if (!isPresent(value)) {
        return;
      }
      BigInteger unscaled = value.unscaledValue();
      int64(unscaled.longValue());
      int64(unscaled.bitLength() < 64 ? unscaled.signum() >> 1 : unscaled.shiftRight(64).longValueExact());
    }

    void text(String text) {
      bytes(text.getBytes(StandardCharsets.UTF_8));
    }

    void bytes(byte[] text) {
      int rest = text.length;
      for (; rest >= 0x80; rest >>>= 7) {
        littleEndian(rest & 0x7F | 0x80, 1);
      }
      littleEndian(rest, 1);
      reserve(text.length);
      System.arraycopy(text, 0, bytes, length, text.length);
      length += text.length;
    }

    private void littleEndian(long value, int size) {
      reserve(size);
      for (int at = 0; at < size; at++) {
        bytes[length++] = (byte) (value >>> 8 * at);
      }
    }

    private void reserve(int more) {
      if (length + more > bytes.length) {
        bytes = Arrays.copyOf(bytes, Math.max(length + more, 2 * bytes.length));
      }
    }
  }
}
