package paystream.rivals.streams;

import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.errors.TopicExistsException;
import org.slf4j.LoggerFactory;

/** The topic that is read, and those of the job's own. */
record Topics(String payments, String group) {
  /** A row is longer than its message; the largest that a broker takes by default has a MiB. */
  static final int LARGEST_ROW = 16 << 20;

  /** Valid payments, each a row of ClickHouse's table transactions in RowBinary. */
  String transactions() {
    return group + "-transactions";
  }

  /** Refused messages, each a row of ClickHouse's table quarantine in RowBinary. */
  String refused() {
    return group + "-refused";
  }

  /** The newest of each merchant. */
  String merchants() {
    return group + "-merchants";
  }

  /** The rate of each currency and day. */
  String rates() {
    return group + "-rates";
  }

  /** Create those of the job's own that there are not yet, once the broker and the payments' topic are there. */
  void create(String brokers) throws InterruptedException {
    Properties config = new Properties();
    config.put("bootstrap.servers", brokers);
    config.put("reconnect.backoff.max.ms", 500);
    try (Admin admin = Admin.create(config)) {
      while (true) {
        try {
          int partitions =
              admin.describeTopics(List.of(payments)).allTopicNames().get().get(payments).partitions().size();
          Map<String, String> output =
              Map.of(
                  // A payment keeps its old timestamp; the broker's own decides when it expires.
                  TopicConfig.MESSAGE_TIMESTAMP_TYPE_CONFIG, "LogAppendTime",
                  TopicConfig.MAX_MESSAGE_BYTES_CONFIG, String.valueOf(LARGEST_ROW));
          Map<String, String> table = Map.of(TopicConfig.CLEANUP_POLICY_CONFIG, TopicConfig.CLEANUP_POLICY_COMPACT);
          create(admin, transactions(), partitions, output);
          create(admin, refused(), partitions, output);
          create(admin, merchants(), 1, table);
          create(admin, rates(), 1, table);
          return;
        } catch (ExecutionException notYet) {
          LoggerFactory.getLogger(Topics.class).warn("Topics: {}", notYet.getCause().toString());
          Thread.sleep(1000);
        }
      }
    }
  }

  private static void create(Admin admin, String name, int partitions, Map<String, String> config)
      throws ExecutionException, InterruptedException {
    // As many replicas as the broker's default: one on a single broker.
    NewTopic topic = new NewTopic(name, Optional.of(partitions), Optional.empty()).configs(config);
    try {
      admin.createTopics(List.of(topic)).all().get();
    } catch (ExecutionException failed) {
      if (!(failed.getCause() instanceof TopicExistsException)) {
        throw failed;
      }
    }
  }
}
