package paystream.rivals.streams;

import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsException;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import paystream.rivals.contract.ClickHouse;

/** Publishes the dimensions and runs the topology until SIGTERM. */
public final class Main {
  private static final Logger LOG = LoggerFactory.getLogger(Main.class);
  private static final Duration CLOSE_WITHIN = Duration.ofSeconds(7);
  private static final Duration PAUSE = Duration.ofSeconds(1);

  private Main() {}

  public static void main(String[] arguments) throws InterruptedException {
    String brokers = System.getenv("RIVAL_BROKERS");
    Topics topics = new Topics(System.getenv("RIVAL_TOPIC"), System.getenv("RIVAL_GROUP"));
    String state = System.getenv("RIVAL_STATE");
    Properties config = config(brokers, topics.group(), state);

    CountDownLatch ending = new CountDownLatch(1);
    Thread main = Thread.currentThread();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> end(ending, main)));

    topics.create(brokers);
    DimensionPublisher publisher = new DimensionPublisher(ClickHouse.fromEnvironment(), brokers, topics, Path.of(state));
    // Before the first payment: a global table is read to its end before processing starts.
    publisher.publishFirst();
    AtomicReference<KafkaStreams> running = new AtomicReference<>();
    publisher.follow(running::get);

    // What fails for good ends the whole client, and another begins. Replacing a thread alone is no way out for the global
    // thread, nor for a static member that was fenced, as when a broker comes back slowly.
    while (ending.getCount() > 0) {
      try (KafkaStreams streams = new KafkaStreams(Payments.topology(topics), config)) {
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(failure -> {
          LOG.warn("The client failed and begins anew", failure);
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
          if (now == KafkaStreams.State.ERROR) {
            failed.countDown();
          }
        });
        streams.start();
        running.set(streams);
        while (failed.getCount() > 0 && !ending.await(PAUSE.toMillis(), TimeUnit.MILLISECONDS)) {}
        streams.close(CLOSE_WITHIN);
      } catch (StreamsException away) {
        LOG.warn("The client did not start", away);
      }
      ending.await(PAUSE.toMillis(), TimeUnit.MILLISECONDS);
    }
  }

  private static void end(CountDownLatch ending, Thread main) {
    ending.countDown();
    try {
      main.join(CLOSE_WITHIN.plusSeconds(1).toMillis());
    } catch (InterruptedException hurried) {
      Thread.currentThread().interrupt();
    }
  }

  /** The README says what each is for. */
  private static Properties config(String brokers, String group, String state) {
    Properties config = new Properties();
    config.putAll(
        Map.of(
            StreamsConfig.APPLICATION_ID_CONFIG, group,
            StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers,
            StreamsConfig.STATE_DIR_CONFIG, state,
            StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2,
            StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2,
            StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Integer.getInteger("rival.commit", 50),
            StreamsConfig.POLL_MS_CONFIG, Integer.getInteger("rival.poll", 10),
            StreamsConfig.DEFAULT_TIMESTAMP_EXTRACTOR_CLASS_CONFIG, Payments.AnyTimestamp.class,
            StreamsConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 500,
            StreamsConfig.PROCESSING_EXCEPTION_HANDLER_GLOBAL_ENABLED_CONFIG, true));
    config.putAll(
        Map.of(
            consumer(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest",
            consumer(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), "rival",
            consumer(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 6000,
            consumer(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 1500,
            consumer(ConsumerConfig.FETCH_MIN_BYTES_CONFIG), Integer.getInteger("rival.minbytes", 1),
            consumer(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), Integer.getInteger("rival.wait", 500),
            consumer(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000));
    config.putAll(
        Map.of(
            producer(ProducerConfig.LINGER_MS_CONFIG), Integer.getInteger("rival.linger", 5),
            producer(ProducerConfig.BATCH_SIZE_CONFIG), 128 * 1024,
            producer(ProducerConfig.MAX_REQUEST_SIZE_CONFIG), Topics.LARGEST_ROW,
            producer(ProducerConfig.COMPRESSION_TYPE_CONFIG), System.getProperty("rival.compression", "lz4")));
    return config;
  }

  private static String consumer(String name) {
    return StreamsConfig.mainConsumerPrefix(name);
  }

  private static String producer(String name) {
    return StreamsConfig.producerPrefix(name);
  }
}
