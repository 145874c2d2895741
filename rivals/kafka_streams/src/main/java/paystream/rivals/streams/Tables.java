package paystream.rivals.streams;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import paystream.rivals.contract.Merchant;
import paystream.rivals.contract.Rate;

/** Keys and values of the two compacted topics. */
final class Tables {
  /** The stores' names. */
  static final String MERCHANTS = "merchants";
  static final String RATES = "rates";

  static final Serde<Merchant> MERCHANT = serde(Tables::write, Tables::readMerchant);
  static final Serde<Rate> RATE = serde(Tables::write, Tables::readRate);

  private Tables() {}

  /** A rate's key has its day, so that looking up the rate as of a day is one get; days count from 1970-01-01. */
  static String rateKey(String currency, int day) {
    return currency + day;
  }

  private static void write(Merchant merchant, DataOutputStream out) throws IOException {
    out.writeUTF(merchant.name());
    out.writeUTF(merchant.country());
    out.writeUTF(merchant.categoryCode());
    out.writeLong(merchant.snapshotId());
  }

  private static Merchant readMerchant(DataInputStream in) throws IOException {
    return new Merchant(in.readUTF(), in.readUTF(), in.readUTF(), in.readLong());
  }

  private static void write(Rate rate, DataOutputStream out) throws IOException {
    out.writeInt(rate.validFrom());
    out.writeInt(rate.validTo());
    byte[] unscaled = rate.rate().unscaledValue().toByteArray();
    out.writeByte(unscaled.length);
    out.write(unscaled);
    out.writeInt(rate.rateDate());
    out.writeBoolean(rate.isLatest());
    out.writeUTF(rate.reportingCurrency());
    out.writeLong(rate.snapshotId());
  }

  private static Rate readRate(DataInputStream in) throws IOException {
    return new Rate(
        in.readInt(),
        in.readInt(),
        new BigDecimal(new BigInteger(in.readNBytes(in.readByte())), 12),
        in.readInt(),
        in.readBoolean(),
        in.readUTF(),
        in.readLong());
  }

  private interface Writer<T> {
    void write(T value, DataOutputStream out) throws IOException;
  }

  private interface Reader<T> {
    T read(DataInputStream in) throws IOException;
  }

  private static <T> Serde<T> serde(Writer<T> writer, Reader<T> reader) {
    return Serdes.serdeFrom(
        (topic, value) -> {
          if (value == null) {
            return null;
          }
          ByteArrayOutputStream bytes = new ByteArrayOutputStream(64);
          try {
            writer.write(value, new DataOutputStream(bytes));
          } catch (IOException impossible) {
            throw new UncheckedIOException(impossible);
          }
          return bytes.toByteArray();
        },
        (topic, bytes) -> {
          try {
            return bytes == null ? null : reader.read(new DataInputStream(new ByteArrayInputStream(bytes)));
          } catch (IOException impossible) {
            throw new UncheckedIOException(impossible);
          }
        });
  }
}
