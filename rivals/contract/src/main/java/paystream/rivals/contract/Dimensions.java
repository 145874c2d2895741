package paystream.rivals.contract;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The merchants and rates of one moment. Immutable.
 *
 * @param merchants by merchant_id
 * @param rates by currency
 */
public record Dimensions(
    long merchantsSnapshot, Map<Long, Merchant> merchants, long ratesSnapshot, Map<String, Rates> rates) {

  /** The query for all merchants. */
  public static final String MERCHANTS =
      "SELECT merchant_id, merchant_name, country, category_code, snapshot_id FROM merchants FORMAT RowBinary";

  /** The query for all rates. */
  public static final String RATES =
      "SELECT currency, valid_from, valid_to, rate, rate_date, is_latest, reporting_currency, snapshot_id"
          + " FROM fx_rate_periods FORMAT RowBinary";

  /** Before anything was read. */
  public static final Dimensions NONE = new Dimensions(0, Map.of(), 0, Map.of());

  /** Whether merchants or rates are not there yet. */
  public boolean isPartial() {
    return merchantsSnapshot == 0 || ratesSnapshot == 0;
  }

  /** Read both, and wait until neither is empty and ClickHouse answers. */
  public static Dimensions load(ClickHouse clickhouse) throws InterruptedException {
    while (true) {
      Dimensions read = NONE.refreshed(clickhouse);
      if (!read.isPartial()) {
        return read;
      }
      Thread.sleep(1000);
    }
  }

  /** What holds now: this object where nothing is new, or ClickHouse doesn't answer. */
  public Dimensions refreshed(ClickHouse clickhouse) throws InterruptedException {
    try {
      // Not the view, which computes all periods before it answers.
      long newMerchants = snapshot(clickhouse, "merchants");
      long newRates = snapshot(clickhouse, "fx_rates");
      boolean sameMerchants = newMerchants == 0 || newMerchants == merchantsSnapshot;
      boolean sameRates = newRates == 0 || newRates == ratesSnapshot;
      if (sameMerchants && sameRates) {
        return this;
      }
      return new Dimensions(
          sameMerchants ? merchantsSnapshot : newMerchants,
          sameMerchants ? merchants : readMerchants(clickhouse.query(MERCHANTS)),
          sameRates ? ratesSnapshot : newRates,
          sameRates ? rates : readRates(clickhouse.query(RATES)));
    } catch (IOException away) {
      System.getLogger("paystream.rivals").log(System.Logger.Level.WARNING, "Dimensions: {0}", away.toString());
      return this;
    }
  }

  /** The newest snapshot in a table, 0 where it is empty. */
  public static long snapshot(ClickHouse clickhouse, String table) throws IOException, InterruptedException {
    try (InputStream answer = clickhouse.query("SELECT max(snapshot_id) FROM " + table)) {
      return Long.parseLong(new String(answer.readAllBytes(), StandardCharsets.UTF_8).strip());
    }
  }

  /** Read the answer to {@link #MERCHANTS}, and close it. */
  public static Map<Long, Merchant> readMerchants(InputStream answer) throws IOException {
    Map<Long, Merchant> merchants = new HashMap<>();
    Map<String, String> shared = new HashMap<>();
    try (Reader rows = new Reader(answer)) {
      while (rows.hasMore()) {
        merchants.put(
            rows.uint32(),
            new Merchant(
                rows.text(),
                shared.computeIfAbsent(rows.text(), text -> text),
                shared.computeIfAbsent(rows.text(), text -> text),
                rows.uint32()));
      }
    }
    return merchants;
  }

  /** Read the answer to {@link #RATES}, and close it. */
  public static Map<String, Rates> readRates(InputStream answer) throws IOException {
    Map<String, List<Rate>> periods = new HashMap<>();
    try (Reader rows = new Reader(answer)) {
      while (rows.hasMore()) {
        periods
            .computeIfAbsent(rows.text(), currency -> new ArrayList<>())
            .add(
                new Rate(
                    rows.uint16(),
                    rows.uint16(),
                    rows.decimal128(12),
                    rows.uint16(),
                    rows.uint8() != 0,
                    rows.text().intern(),
                    rows.uint32()));
      }
    }
    Map<String, Rates> rates = new HashMap<>();
    periods.forEach((currency, list) -> rates.put(currency, new Rates(list)));
    return rates;
  }

  /** Reads RowBinary. */
  private static final class Reader implements AutoCloseable {
    private final DataInputStream in;

    Reader(InputStream in) {
      this.in = new DataInputStream(new BufferedInputStream(in, 1 << 16));
    }

    boolean hasMore() throws IOException {
      in.mark(1);
      int next = in.read();
      in.reset();
      return next >= 0;
    }

    int uint8() throws IOException {
      return in.readUnsignedByte();
    }

    int uint16() throws IOException {
      return Short.toUnsignedInt(Short.reverseBytes(in.readShort()));
    }

    long uint32() throws IOException {
      return Integer.toUnsignedLong(Integer.reverseBytes(in.readInt()));
    }

    BigDecimal decimal128(int scale) throws IOException {
      long low = Long.reverseBytes(in.readLong());
      BigInteger high = BigInteger.valueOf(Long.reverseBytes(in.readLong()));
      BigInteger unsignedLow = new BigInteger(Long.toUnsignedString(low));
      return new BigDecimal(high.shiftLeft(64).add(unsignedLow), scale);
    }

    String text() throws IOException {
      int length = 0;
      int shift = 0;
      int part;
      do {
        part = in.readUnsignedByte();
        length |= (part & 0x7F) << shift;
        shift += 7;
      } while (part >= 0x80);
      return new String(in.readNBytes(length), StandardCharsets.UTF_8);
    }

    @Override
    public void close() throws IOException {
      in.close();
    }
  }
}
