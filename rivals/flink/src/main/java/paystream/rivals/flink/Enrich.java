package paystream.rivals.flink;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import java.util.Map;
import org.apache.flink.api.common.state.BroadcastState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.functions.co.BroadcastProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import paystream.rivals.contract.ClickHouse;
import paystream.rivals.contract.Dimensions;
import paystream.rivals.contract.Enrichment;
import paystream.rivals.contract.Fault;
import paystream.rivals.contract.Judge;
import paystream.rivals.contract.Merchant;
import paystream.rivals.contract.Origin;
import paystream.rivals.contract.Payment;
import paystream.rivals.contract.Rates;
import paystream.rivals.contract.Rows;
import paystream.rivals.contract.Verdict;

/** Judges messages and enriches the valid ones: rows of transactions, and those of quarantine beside. */
final class Enrich extends BroadcastProcessFunction<Message, Tuple2<String, byte[]>, byte[]>
    implements CheckpointedFunction {
  static final String MERCHANTS = "merchants";
  static final String RATES = "rates";

  static final TypeInformation<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;

  static final OutputTag<byte[]> REFUSED = new OutputTag<>("refused", BYTES);

  /**
   * The rows of each dimension, as ClickHouse sends them. A checkpoint copies broadcast state while the task stands
   * still: two arrays are copied at once, 80,000 objects not.
   */
  static final MapStateDescriptor<String, byte[]> DIMENSIONS =
      new MapStateDescriptor<>("dimensions", Types.STRING, BYTES);

  private static final Logger LOG = LoggerFactory.getLogger(Enrich.class);

  private static final Shared<Map<Long, Merchant>> SHARED_MERCHANTS = new Shared<>(Dimensions::readMerchants);
  private static final Shared<Map<String, Rates>> SHARED_RATES = new Shared<>(Dimensions::readRates);

  private final String topic;
  private transient Map<Long, Merchant> merchants;
  private transient Map<String, Rates> rates;

  Enrich(String topic) {
    this.topic = topic;
  }

  @Override
  public void processElement(Message message, ReadOnlyContext context, Collector<byte[]> out) {
    Verdict verdict = Judge.judge(message.value);
    Origin origin = new Origin(topic, message.partition, message.offset, message.timestamp, message.key);
    if (verdict instanceof Payment payment) {
      Enrichment enrichment =
          Enrichment.of(payment, merchants.get(payment.merchantId()), rates.get(payment.currency()));
      out.collect(Rows.transaction(payment, enrichment, origin));
    } else if (verdict instanceof Fault fault) {
      context.output(REFUSED, Rows.refused(fault.reason(), message.value, origin));
    }
  }

  @Override
  public void processBroadcastElement(Tuple2<String, byte[]> dimension, Context context, Collector<byte[]> out)
      throws Exception {
    context.getBroadcastState(DIMENSIONS).put(dimension.f0, dimension.f1);
    use(dimension.f0, dimension.f1);
  }

  /** Payments wait until this returns, unread, by back pressure: buffered in state they would fill the memory. */
  @Override
  public void initializeState(FunctionInitializationContext context) throws Exception {
    BroadcastState<String, byte[]> state = context.getOperatorStateStore().getBroadcastState(DIMENSIONS);
    ClickHouse clickhouse = ClickHouse.fromEnvironment();
    Map<String, String> queries = Map.of(MERCHANTS, Dimensions.MERCHANTS, RATES, Dimensions.RATES);
    for (Map.Entry<String, String> dimension : queries.entrySet()) {
      byte[] rows = state.get(dimension.getKey());
      while (rows == null) {
        rows = firstSnapshot(clickhouse, dimension.getValue());
      }
      state.put(dimension.getKey(), rows);
      use(dimension.getKey(), rows);
    }
  }

  @Override
  public void snapshotState(FunctionSnapshotContext context) {}

  private static byte[] firstSnapshot(ClickHouse clickhouse, String query) throws InterruptedException {
    try (InputStream answer = clickhouse.query(query)) {
      byte[] rows = answer.readAllBytes();
      if (rows.length > 0) {
        return rows;
      }
    } catch (IOException away) {
      LOG.warn("No dimensions yet: {}", away.toString());
    }
    Thread.sleep(1000);
    return null;
  }

  private void use(String name, byte[] rows) throws IOException {
    if (name.equals(MERCHANTS)) {
      merchants = SHARED_MERCHANTS.read(rows);
    } else {
      rates = SHARED_RATES.read(rows);
    }
  }

  /** What the tasks of one TaskManager share: a million merchants are in its memory once, and read once. */
  private static final class Shared<T> {
    private final Reader<T> reader;
    private byte[] rows;
    private T read;

    Shared(Reader<T> reader) {
      this.reader = reader;
    }

    synchronized T read(byte[] newest) throws IOException {
      if (!Arrays.equals(newest, rows)) {
        read = reader.read(new ByteArrayInputStream(newest));
        rows = newest;
      }
      return read;
    }
  }

  private interface Reader<T> {
    T read(InputStream rows) throws IOException;
  }
}
