package paystream.rivals.contract;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.LocalDate;
import java.time.YearMonth;
import java.time.ZoneOffset;
import java.time.temporal.ChronoUnit;
import java.util.HashSet;
import java.util.Set;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Judges a message as sql/1_ingest/transactions_parsed_mv.sql does: the same reasons in the same order. Total: any bytes
 * give a verdict, and nothing is thrown. Safe for threads.
 */
public final class Judge {
  /** What is so deep must be empty, as ClickHouse's parser has it. */
  private static final int DEEPEST = 1024;

  private static final JsonFactory JSON =
      JsonFactory.builder()
          .streamReadConstraints(
              StreamReadConstraints.builder()
                  .maxNestingDepth(DEEPEST)
                  .maxNumberLength(Integer.MAX_VALUE)
                  .maxStringLength(Integer.MAX_VALUE)
                  .maxNameLength(Integer.MAX_VALUE)
                  .build())
          // Producers choose the names: a global table of them would grow for ever.
          .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
          .build();

  private static final Set<String> CURRENCIES =
      Set.of(
          ("AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND "
                  + "BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF CLP CNY "
                  + "COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP "
                  + "GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD "
                  + "IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP "
                  + "LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN "
                  + "MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN "
                  + "PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD "
                  + "SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX "
                  + "USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA "
                  + "XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XTS XUA XXX YER ZAR "
                  + "ZMW ZWG "
                  + "ANG BGN CUC HRK SLL ZWL")
              .split(" "));

  private static final Set<String> STATUSES =
      Set.of("authorized", "captured", "settled", "refunded", "charged_back", "failed");

  private static final Pattern AMOUNT = Pattern.compile("(?:0|[1-9][0-9]{0,13})(?:[.][0-9]{1,4})?");
  private static final Pattern MERCHANT = Pattern.compile("[1-9][0-9]{0,9}");
  private static final Pattern AMOUNT_LITERAL = Pattern.compile("\"amount\"[\\t\\n\\f\\r ]*:[\\t\\n\\f\\r ]*([0-9][0-9.eE+-]*)");
  private static final Pattern ESCAPE_IN_NAME = Pattern.compile("\\\\u[^\"]*\"[\\t\\n\\f\\r ]*:");

  private Judge() {}

  /** Judge a message as of now. */
  public static Verdict judge(byte[] message) {
    return judge(message, Instant.now());
  }

  /** Judge a message as of a moment, which says what is in the future and what is too old. */
  public static Verdict judge(byte[] message, Instant now) {
    Message parsed;
    try {
      parsed = Message.parse(message);
    } catch (IOException notJson) {
      return new Fault("not_json");
    }
    return parsed.judge(now.getEpochSecond());
  }

  /** A message's fields as the JSON spells them; null where the field is absent or null. */
  private static final class Message {
    private final String json;
    private boolean isObject;
    private boolean hasTwice;
    private String transactionId;
    private String merchantId;
    private boolean merchantIsDouble;
    private String amount;
    private JsonToken amountType;
    private String currency;
    private String status;
    private String createdAt;
    private String updatedAt;

    private Message(String json) {
      this.json = json;
    }

    static Message parse(byte[] bytes) throws IOException {
      Message message = new Message(decode(bytes));
      requirePairedSurrogates(message.json);
      try (JsonParser parser = JSON.createParser(message.json)) {
        message.read(parser);
      }
      return message;
    }

    private void read(JsonParser parser) throws IOException {
      JsonToken token = parser.nextToken();
      if (token == null) {
        throw new IOException("nothing but white space");
      }
      isObject = token == JsonToken.START_OBJECT;
      Set<String> names = new HashSet<>();
      int depth = 0;
      int values = 0;
      String name = null;
      // To the end, and not only through our fields: the whole message must be JSON.
      for (; token != null; token = parser.nextToken()) {
        if (token.isStructEnd()) {
          depth--;
          continue;
        }
        if (depth == DEEPEST) {
          throw new IOException("nested too deeply");
        }
        if (token == JsonToken.FIELD_NAME) {
          if (depth == 1 && isObject) {
            name = parser.currentName();
            hasTwice |= !names.add(name);
          }
          continue;
        }
        if (depth == 0 && ++values > 1) {
          throw new IOException("more than one value");
        }
        if (token == JsonToken.VALUE_NUMBER_FLOAT && Double.isInfinite(Double.parseDouble(parser.getText()))) {
          throw new IOException("larger than any double");
        }
        if (depth == 1 && isObject) {
          keep(name, token, parser);
        }
        if (token.isStructStart()) {
          depth++;
        }
      }
    }

    private void keep(String name, JsonToken token, JsonParser parser) throws IOException {
      if (token == JsonToken.VALUE_NULL) {
        return;
      }
      switch (name) {
        case "transaction_id" -> transactionId = parser.getText();
        case "merchant_id" -> {
          merchantId = parser.getText();
          merchantIsDouble = token == JsonToken.VALUE_NUMBER_FLOAT;
        }
        case "amount" -> {
          amount = parser.getText();
          amountType = token;
        }
        case "currency" -> currency = parser.getText();
        case "status" -> status = parser.getText();
        case "created_at" -> createdAt = parser.getText();
        case "updated_at" -> updatedAt = parser.getText();
        default -> {}
      }
    }

    Verdict judge(long now) {
      if (!isObject) {
        return new Fault("not_an_object");
      }
      if (hasTwice) {
        return new Fault("duplicate_field");
      }

      if (isEmpty(transactionId)) {
        return new Fault("transaction_id_missing");
      }
      UUID transaction = uuid(transactionId);
      if (transaction == null) {
        return new Fault("transaction_id_malformed");
      }

      if (isEmpty(merchantId)) {
        return new Fault("merchant_id_missing");
      }
      long merchant =
          merchantIsDouble || !MERCHANT.matcher(merchantId).matches() ? -1 : Long.parseLong(merchantId);
      if (merchant < 0 || merchant > 0xFFFF_FFFFL) {
        return new Fault("merchant_id_malformed");
      }

      if (isEmpty(amount)) {
        return new Fault("amount_missing");
      }
      String amountText = amountText();
      if (!AMOUNT.matcher(amountText).matches()) {
        return new Fault("amount_malformed");
      }
      BigDecimal amountValue = new BigDecimal(amountText).setScale(4);
      if (amountValue.signum() == 0) {
        return new Fault("amount_not_positive");
      }

      if (isEmpty(currency)) {
        return new Fault("currency_missing");
      }
      if (!CURRENCIES.contains(currency)) {
        return new Fault("currency_unknown");
      }

      if (isEmpty(status)) {
        return new Fault("status_missing");
      }
      if (!STATUSES.contains(status)) {
        return new Fault("status_unknown");
      }

      String fault = timeFault("created_at", createdAt, now);
      if (fault == null) {
        fault = timeFault("updated_at", updatedAt, now);
      }
      if (fault != null) {
        return new Fault(fault);
      }
      return new Payment(
          transaction, merchant, amountValue, currency, status, Times.micros(createdAt), Times.micros(updatedAt));
    }

    /** The amount's own digits, '' where they can't be known for sure (as the SQL says, a number may be a double's). */
    private String amountText() {
      if (amountType == JsonToken.VALUE_STRING) {
        return amount;
      }
      if (!amountType.isNumeric()) {
        return "";
      }
      String literal = null;
      for (Matcher matcher = AMOUNT_LITERAL.matcher(json); matcher.find(); ) {
        if (literal != null && !literal.equals(matcher.group(1))) {
          return "";
        }
        literal = matcher.group(1);
      }
      boolean isIt =
          literal != null
              && AMOUNT.matcher(literal).matches()
              && Double.parseDouble(literal) == Double.parseDouble(amount)
              && !ESCAPE_IN_NAME.matcher(json).find();
      return isIt ? literal : "";
    }
  }

  private static String timeFault(String name, String text, long now) {
    if (isEmpty(text)) {
      return name + "_missing";
    }
    long micros = Times.micros(text);
    if (micros == Times.MALFORMED) {
      return name + "_malformed";
    }
    if (micros > (now + 300) * 1_000_000) {
      return name + "_in_future";
    }
    return micros < Times.oldestMicros(now) ? name + "_too_old" : null;
  }

  private static boolean isEmpty(String text) {
    return text == null || text.isEmpty();
  }

  private static UUID uuid(String text) {
    if (text.length() != 36) {
      return null;
    }
    for (int at = 0; at < 36; at++) {
      char c = text.charAt(at);
      boolean isDash = at == 8 || at == 13 || at == 18 || at == 23;
      if (isDash ? c != '-' : c > 'f' || Character.digit(c, 16) < 0) {
        return null;
      }
    }
    return UUID.fromString(text);
  }

  /** Decode UTF-8 strictly, less a byte order mark. Jackson would guess other encodings, and not look into what it skips. */
  private static String decode(byte[] bytes) throws CharacterCodingException {
    String text = new String(bytes, StandardCharsets.UTF_8);
    if (text.indexOf('\uFFFD') >= 0) {
      text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
    }
    return text.startsWith("\uFEFF") ? text.substring(1) : text;
  }

  /** Refuse escapes of half a character, which Jackson lets pass. A backslash is in a string, or Jackson refuses it. */
  private static void requirePairedSurrogates(String json) throws IOException {
    for (int at = json.indexOf('\\'); at >= 0; at = json.indexOf('\\', at)) {
      int unit = escape(json, at);
      if (unit >= 0 && Character.isHighSurrogate((char) unit)) {
        int low = escape(json, at + 6);
        if (low < 0 || !Character.isLowSurrogate((char) low)) {
          throw new IOException("half a surrogate pair");
        }
        at += 12;
      } else if (unit >= 0 && Character.isLowSurrogate((char) unit)) {
        throw new IOException("half a surrogate pair");
      } else {
        at += 2;
      }
    }
  }

  private static int escape(String json, int at) {
    if (at + 6 > json.length() || json.charAt(at) != '\\' || json.charAt(at + 1) != 'u') {
      return -1;
    }
    try {
      return Integer.parseInt(json, at + 2, at + 6, 16);
    } catch (NumberFormatException notHexadecimal) {
      return -1;
    }
  }

  /** RFC 3339, as strict as the SQL's expression. */
  static final class Times {
    static final long MALFORMED = Long.MIN_VALUE;

    private static volatile long[] oldest = {Long.MIN_VALUE, 0};

    private Times() {}

    /** The start of the month 96 months ago; remembered for a second, since each message asks twice. */
    static long oldestMicros(long now) {
      long[] known = oldest;
      if (known[0] != now) {
        var month = Instant.ofEpochSecond(now).atZone(ZoneOffset.UTC).toLocalDate().withDayOfMonth(1);
        known = new long[] {now, month.minus(96, ChronoUnit.MONTHS).toEpochDay() * 86_400_000_000L};
        oldest = known;
      }
      return known[1];
    }

    /** Microseconds since 1970, or MALFORMED. A leap second is the second after it; what is below a microsecond is cut. */
    static long micros(String text) {
      int length = text.length();
      if (length < 20
          || !is(text, 4, '-')
          || !is(text, 7, '-')
          || "Tt ".indexOf(text.charAt(10)) < 0
          || !is(text, 13, ':')
          || !is(text, 16, ':')) {
        return MALFORMED;
      }
      int year = number(text, 0, 4);
      int month = number(text, 5, 7);
      int day = number(text, 8, 10);
      int hour = number(text, 11, 13);
      int minute = number(text, 14, 16);
      int second = number(text, 17, 19);
      boolean isLeapSecond = second == 60 && (minute == 29 || minute == 59);
      if (year < 1000 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23) {
        return MALFORMED;
      }
      if (minute < 0 || minute > 59 || second < 0 || second > 59 && !isLeapSecond) {
        return MALFORMED;
      }
      if (day > YearMonth.of(year, month).lengthOfMonth()) {
        return MALFORMED;
      }

      int at = 19;
      int micro = 0;
      if (text.charAt(at) == '.') {
        int end = ++at;
        while (end < length && end < at + 9 && isDigit(text.charAt(end))) {
          end++;
        }
        if (end == at) {
          return MALFORMED;
        }
        for (int place = 0; place < 6; place++) {
          micro = micro * 10 + (at + place < end ? text.charAt(at + place) - '0' : 0);
        }
        at = end;
      }

      int offset;
      if (at + 1 == length && (text.charAt(at) == 'Z' || text.charAt(at) == 'z')) {
        offset = 0;
      } else if (at + 6 == length && (is(text, at, '+') || is(text, at, '-')) && is(text, at + 3, ':')) {
        int hours = number(text, at + 1, at + 3);
        int minutes = number(text, at + 4, at + 6);
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) {
          return MALFORMED;
        }
        offset = (hours * 60 + minutes) * (is(text, at, '-') ? -60 : 60);
      } else {
        return MALFORMED;
      }
      long seconds = LocalDate.of(year, month, day).toEpochDay() * 86_400 + hour * 3600 + minute * 60 + second;
      return (seconds - offset) * 1_000_000 + micro;
    }

    private static boolean is(String text, int at, char c) {
      return text.charAt(at) == c;
    }

    private static boolean isDigit(char c) {
      return c >= '0' && c <= '9';
    }

    private static int number(String text, int from, int to) {
      int value = 0;
      for (int at = from; at < to; at++) {
        if (!isDigit(text.charAt(at))) {
          return -1;
        }
        value = value * 10 + text.charAt(at) - '0';
      }
      return value;
    }
  }
}
