package paystream.rivals.streams;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.function.Supplier;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import paystream.rivals.contract.ClickHouse;
import paystream.rivals.contract.Dimensions;
import paystream.rivals.contract.Rate;
import paystream.rivals.contract.Rates;

/**
 * Fills the two compacted topics from ClickHouse: a snapshot in one transaction, with tombstones for what it lacks. The
 * global tables read committed messages only, so that they never hold half of a snapshot for longer than it takes to
 * apply one.
 */
final class DimensionPublisher {
  private static final Logger LOG = LoggerFactory.getLogger(DimensionPublisher.class);
  private static final Duration LOOK_EVERY = Duration.ofSeconds(5);
  /** A payment that is older is refused: 96 months before this one, and some days. */
  private static final int OLDEST_MONTHS = 97;
  /** The newest rate holds on; so long the job knows it for the coming days while ClickHouse is away. */
  private static final int DAYS_AHEAD = 35;

  private final ClickHouse clickhouse;
  private final String brokers;
  private final Topics topics;
  private final Path file;
  private Published published = Published.NOTHING;

  DimensionPublisher(ClickHouse clickhouse, String brokers, Topics topics, Path state) {
    this.clickhouse = clickhouse;
    this.brokers = brokers;
    this.topics = topics;
    this.file = state.resolve("published");
  }

  /** Wait until the tables' topics have a snapshot. After a restart they have: payments need not wait for ClickHouse. */
  void publishFirst() throws InterruptedException {
    while (!isPublished()) {
      if (!publish(Dimensions.load(clickhouse), null)) {
        Thread.sleep(1000);
      }
    }
    published = Published.read(file);
  }

  /** Publish from now on, in a daemon thread, what is new: merchants, rates, or the day. */
  void follow(Supplier<KafkaStreams> streams) {
    Thread thread = new Thread(() -> {
      try {
        for (; ; Thread.sleep(LOOK_EVERY.toMillis())) {
          Dimensions known = published.dimensions(today());
          Dimensions read = known.refreshed(clickhouse);
          if (read != known && !read.isPartial() && streams.get() != null) {
            publish(read, streams.get());
          }
        }
      } catch (InterruptedException ended) {
        Thread.currentThread().interrupt();
      }
    }, "dimensions");
    thread.setDaemon(true);
    thread.start();
  }

  private boolean publish(Dimensions read, KafkaStreams streams) {
    LocalDate day = today();
    Dimensions known = published.dimensions(day);
    // A producer a snapshot: what went wrong with one, such as being fenced, is no matter of the next.
    try (Producer<byte[], byte[]> producer = new KafkaProducer<>(producerConfig())) {
      producer.initTransactions();
      producer.beginTransaction();
      if (read.merchantsSnapshot() != known.merchantsSnapshot()) {
        send(producer, topics.merchants(), Serdes.Long(), Tables.MERCHANT, read.merchants(), streams, Tables.MERCHANTS);
      }
      if (read.ratesSnapshot() != known.ratesSnapshot()) {
        Map<String, Rate> byDay = byDay(read.rates(), day);
        send(producer, topics.rates(), Serdes.String(), Tables.RATE, byDay, streams, Tables.RATES);
      }
      producer.commitTransaction();
      published = new Published(read.merchantsSnapshot(), read.ratesSnapshot(), day);
      published.write(file);
      return true;
    } catch (KafkaException | IllegalStateException | IOException away) {
      LOG.warn("Dimensions are published later: {}", away.toString());
      return false;
    }
  }

  private static <K, V> void send(
      Producer<byte[], byte[]> producer,
      String topic,
      Serde<K> keys,
      Serde<V> values,
      Map<K, V> rows,
      KafkaStreams streams,
      String store) {
    rows.forEach((key, value) -> producer.send(record(topic, keys, key, values.serializer().serialize(topic, value))));
    if (streams == null) {
      return;
    }
    // What a snapshot lacks is gone, also where an earlier process published it.
    ReadOnlyKeyValueStore<K, V> table =
        streams.store(StoreQueryParameters.fromNameAndType(store, QueryableStoreTypes.keyValueStore()));
    try (KeyValueIterator<K, V> entries = table.all()) {
      entries.forEachRemaining(entry -> {
        if (!rows.containsKey(entry.key)) {
          producer.send(record(topic, keys, entry.key, null));
        }
      });
    }
  }

  private static <K> ProducerRecord<byte[], byte[]> record(String topic, Serde<K> keys, K key, byte[] value) {
    return new ProducerRecord<>(topic, keys.serializer().serialize(topic, key), value);
  }

  /** The rate of each currency and day that a payment may have. */
  private static Map<String, Rate> byDay(Map<String, Rates> rates, LocalDate day) {
    int oldest = (int) day.minusMonths(OLDEST_MONTHS).toEpochDay();
    int newest = (int) day.plusDays(DAYS_AHEAD).toEpochDay();
    Map<String, Rate> byDay = new HashMap<>();
    rates.forEach((currency, ofCurrency) -> {
      for (Rate rate : ofCurrency.periods()) {
        for (int on = Math.max(oldest, rate.validFrom()); on <= Math.min(newest, rate.validTo()); on++) {
          byDay.put(Tables.rateKey(currency, on), rate);
        }
      }
    });
    return byDay;
  }

  /** The first transaction fills both topics, so that one tells of both. */
  private boolean isPublished() {
    Properties config = new Properties();
    config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    config.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
    ByteArrayDeserializer bytes = new ByteArrayDeserializer();
    try (Consumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, bytes, bytes)) {
      TopicPartition partition = new TopicPartition(topics.rates(), 0);
      consumer.assign(List.of(partition));
      consumer.seekToBeginning(List.of(partition));
      long end = consumer.endOffsets(List.of(partition)).get(partition);
      while (consumer.position(partition) < end) {
        if (!consumer.poll(Duration.ofMillis(100)).isEmpty()) {
          return true;
        }
      }
      return false;
    } catch (KafkaException away) {
      LOG.warn("Dimensions: {}", away.toString());
      return false;
    }
  }

  private Properties producerConfig() {
    Properties config = new Properties();
    config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    config.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    config.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    // Ends what a predecessor that was killed left open.
    config.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, topics.group() + "-dimensions");
    config.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, "lz4");
    config.put(ProducerConfig.LINGER_MS_CONFIG, 20);
    config.put(ProducerConfig.BATCH_SIZE_CONFIG, 256 * 1024);
    return config;
  }

  /** What the topics hold, kept in a file, so that a restart publishes only what is new. */
  private record Published(long merchants, long rates, LocalDate day) {
    static final Published NOTHING = new Published(0, 0, LocalDate.EPOCH);

    static Published read(Path file) {
      try {
        String[] parts = Files.readString(file).split(" ");
        return new Published(Long.parseLong(parts[0]), Long.parseLong(parts[1]), LocalDate.parse(parts[2]));
      } catch (IOException | RuntimeException none) {
        return NOTHING;
      }
    }

    void write(Path file) throws IOException {
      Files.createDirectories(file.getParent());
      Files.writeString(file, merchants + " " + rates + " " + day);
    }

    /** Their numbers, without their contents. On another day all rates are new, since their keys have days. */
    Dimensions dimensions(LocalDate today) {
      return new Dimensions(merchants, Map.of(), today.equals(day) ? rates : 0, Map.of());
    }
  }

  private static LocalDate today() {
    return LocalDate.now(ZoneOffset.UTC);
  }
}
