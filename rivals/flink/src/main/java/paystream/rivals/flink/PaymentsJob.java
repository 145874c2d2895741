package paystream.rivals.flink;

import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.CoreOptions;
import org.apache.flink.configuration.ExecutionOptions;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.JobManagerOptions;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.streaming.api.datastream.BroadcastStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import paystream.rivals.contract.Rows;

/** Payments from Kafka into ClickHouse. What each setting is for: README.md. */
public final class PaymentsJob {
  private static final int PARALLELISM = 2;
  private static final double POLLS_PER_SECOND = 0.1;
  private static final long STOP_S = 6;

  private static final Logger LOG = LoggerFactory.getLogger(PaymentsJob.class);

  private PaymentsJob() {}

  /** Run until SIGTERM. */
  public static void main(String[] arguments) throws Exception {
    State state = new State(Path.of(System.getenv("RIVAL_STATE")).toAbsolutePath());
    state.prepare();
    StreamExecutionEnvironment environment =
        StreamExecutionEnvironment.createLocalEnvironment(PARALLELISM, configuration(state));
    build(environment);
    JobClient job = environment.executeAsync("payments");
    Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(job, state)));
    job.getJobExecutionResult().get();
  }

  private static void build(StreamExecutionEnvironment environment) {
    String topic = System.getenv("RIVAL_TOPIC");
    KafkaSource<Message> payments =
        KafkaSource.<Message>builder()
            .setBootstrapServers(System.getenv("RIVAL_BROKERS"))
            .setTopics(topic)
            .setGroupId(System.getenv("RIVAL_GROUP"))
            .setStartingOffsets(OffsetsInitializer.committedOffsets(OffsetResetStrategy.EARLIEST))
            .setDeserializer(new Message.Schema())
            .build();
    DataGeneratorSource<Long> ticks =
        new DataGeneratorSource<>(
            tick -> tick, Long.MAX_VALUE, RateLimiterStrategy.perSecond(POLLS_PER_SECOND), Types.LONG);

    BroadcastStream<Tuple2<String, byte[]>> dimensions =
        environment
            .fromSource(ticks, WatermarkStrategy.noWatermarks(), "ticks")
            .uid("ticks")
            .setParallelism(1)
            .flatMap(new Poll())
            .returns(Types.TUPLE(Types.STRING, Enrich.BYTES))
            .uid("poll")
            .setParallelism(1)
            .broadcast(Enrich.DIMENSIONS);
    SingleOutputStreamOperator<byte[]> transactions =
        environment
            .fromSource(payments, WatermarkStrategy.noWatermarks(), "payments")
            .uid("payments")
            .connect(dimensions)
            .process(new Enrich(topic), Enrich.BYTES)
            .uid("enrich");

    transactions.sinkTo(new ClickHouseSink(Rows.INSERT_TRANSACTIONS)).uid("transactions");
    transactions
        .getSideOutput(Enrich.REFUSED)
        .sinkTo(new ClickHouseSink(Rows.INSERT_QUARANTINE))
        .uid("quarantine");
  }

  private static Configuration configuration(State state) throws Exception {
    Configuration it = new Configuration();
    it.set(PipelineOptions.OBJECT_REUSE, true);
    it.set(PipelineOptions.GENERIC_TYPES, false);
    it.set(PipelineOptions.AUTO_WATERMARK_INTERVAL, Duration.ZERO);
    it.set(ExecutionOptions.BUFFER_TIMEOUT, Duration.ofMillis(5));
    it.set(ExecutionOptions.SNAPSHOT_COMPRESSION, true);

    it.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofSeconds(10));
    it.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.AT_LEAST_ONCE);
    it.set(CheckpointingOptions.TOLERABLE_FAILURE_NUMBER, Integer.MAX_VALUE);
    it.set(CheckpointingOptions.CHECKPOINTING_TIMEOUT, Duration.ofMinutes(1));
    it.set(
        CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
        ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
    it.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, state.checkpoints().toUri().toString());
    state.newest().ifPresent(path -> it.set(StateRecoveryOptions.SAVEPOINT_PATH, path.toUri().toString()));
    it.set(StateRecoveryOptions.RESTORE_MODE, RecoveryClaimMode.CLAIM);

    it.set(RestartStrategyOptions.RESTART_STRATEGY, "exponential-delay");
    it.set(RestartStrategyOptions.RESTART_STRATEGY_EXPONENTIAL_DELAY_INITIAL_BACKOFF, Duration.ofMillis(200));
    it.set(RestartStrategyOptions.RESTART_STRATEGY_EXPONENTIAL_DELAY_MAX_BACKOFF, Duration.ofSeconds(5));

    it.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ZERO);
    it.set(CoreOptions.TMP_DIRS, state.temporary().toString());

    it.set(RestOptions.ADDRESS, "127.0.0.1");
    it.set(RestOptions.BIND_ADDRESS, "127.0.0.1");
    it.set(RestOptions.BIND_PORT, "0");
    it.set(JobManagerOptions.BIND_HOST, "127.0.0.1");
    return it;
  }

  /** Store what is read, commit the offsets, and end. Where ClickHouse is away, just end: the last checkpoint is as good. */
  private static void stop(JobClient job, State state) {
    try {
      job.stopWithSavepoint(false, state.checkpoints().toUri().toString(), SavepointFormatType.NATIVE)
          .get(STOP_S, TimeUnit.SECONDS);
      // Only then the last checkpoint is removed.
      job.getJobExecutionResult().get(1, TimeUnit.SECONDS);
    } catch (Exception late) {
      LOG.warn("Stopped without a savepoint; the next start reads from the last checkpoint: {}", late.toString());
    }
  }
}
