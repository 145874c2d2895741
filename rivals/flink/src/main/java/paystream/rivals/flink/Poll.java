package paystream.rivals.flink;

import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import org.apache.flink.api.common.functions.FlatMapFunction;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.util.Collector;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import paystream.rivals.contract.ClickHouse;
import paystream.rivals.contract.Dimensions;

/** At each tick, emits the dimensions that have a new snapshot: table and rows, in ClickHouse's own RowBinary. */
final class Poll implements FlatMapFunction<Long, Tuple2<String, byte[]>>, CheckpointedFunction {
  private static final Logger LOG = LoggerFactory.getLogger(Poll.class);

  private transient ClickHouse clickhouse;
  private transient ListState<Tuple2<String, Long>> state;
  private transient long merchants;
  private transient long rates;

  @Override
  public void flatMap(Long tick, Collector<Tuple2<String, byte[]>> out) throws InterruptedException {
    try {
      merchants = emitNew(Enrich.MERCHANTS, "merchants", Dimensions.MERCHANTS, merchants, out);
      // Not the view, which computes all periods before it answers.
      rates = emitNew(Enrich.RATES, "fx_rates", Dimensions.RATES, rates, out);
    } catch (IOException away) {
      LOG.warn("Dimensions, again at the next tick: {}", away.toString());
    }
  }

  private long emitNew(String name, String table, String query, long known, Collector<Tuple2<String, byte[]>> out)
      throws IOException, InterruptedException {
    long newest = Dimensions.snapshot(clickhouse, table);
    if (newest == 0 || newest == known) {
      return known;
    }
    try (InputStream answer = clickhouse.query(query)) {
      out.collect(Tuple2.of(name, answer.readAllBytes()));
    }
    return newest;
  }

  @Override
  public void initializeState(FunctionInitializationContext context) throws Exception {
    clickhouse = ClickHouse.fromEnvironment();
    state =
        context
            .getOperatorStateStore()
            .getListState(new ListStateDescriptor<>("snapshots", Types.TUPLE(Types.STRING, Types.LONG)));
    for (Tuple2<String, Long> known : state.get()) {
      if (known.f0.equals(Enrich.MERCHANTS)) {
        merchants = known.f1;
      } else {
        rates = known.f1;
      }
    }
  }

  @Override
  public void snapshotState(FunctionSnapshotContext context) throws Exception {
    state.update(List.of(Tuple2.of(Enrich.MERCHANTS, merchants), Tuple2.of(Enrich.RATES, rates)));
  }
}
