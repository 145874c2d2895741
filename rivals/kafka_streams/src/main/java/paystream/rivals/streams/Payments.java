package paystream.rivals.streams;

import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.GlobalKTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import paystream.rivals.contract.Enrichment;
import paystream.rivals.contract.Fault;
import paystream.rivals.contract.Judge;
import paystream.rivals.contract.Merchant;
import paystream.rivals.contract.Origin;
import paystream.rivals.contract.Payment;
import paystream.rivals.contract.Rate;
import paystream.rivals.contract.Rows;
import paystream.rivals.contract.Verdict;

/** The topology: judge, look up merchant and rate, and write rows of ClickHouse's tables. */
final class Payments {
  private static final Serde<byte[]> BYTES = Serdes.ByteArray();

  private Payments() {}

  /** A message on its way, with what has been found so far. */
  private record Judged(byte[] message, Origin origin, Verdict verdict, Merchant merchant) {
    boolean isRefused() {
      return verdict instanceof Fault;
    }

    Payment payment() {
      return (Payment) verdict;
    }

    Judged with(Merchant found) {
      return new Judged(message, origin, verdict, found);
    }

    byte[] row(Rate rate) {
      return Rows.transaction(payment(), Enrichment.of(payment(), merchant, rate), origin);
    }

    byte[] refusedRow() {
      return Rows.refused(((Fault) verdict).reason(), message, origin);
    }
  }

  static Topology topology(Topics topics) {
    StreamsBuilder builder = new StreamsBuilder();
    GlobalKTable<Long, Merchant> merchants =
        builder.globalTable(
            topics.merchants(), Consumed.with(Serdes.Long(), Tables.MERCHANT), Materialized.as(Tables.MERCHANTS));
    GlobalKTable<String, Rate> rates =
        builder.globalTable(
            topics.rates(), Consumed.with(Serdes.String(), Tables.RATE), Materialized.as(Tables.RATES));
    Produced<byte[], byte[]> rows = Produced.with(BYTES, BYTES);

    builder.stream(topics.payments(), Consumed.with(BYTES, BYTES))
        .filter((key, message) -> message != null && message.length > 0)
        .processValues(JudgeProcessor::new)
        .split()
        .branch(
            (key, judged) -> judged.isRefused(),
            Branched.withConsumer(refused -> refused.mapValues(Judged::refusedRow).to(topics.refused(), rows)))
        .defaultBranch(
            Branched.withConsumer(
                valid ->
                    valid
                        .leftJoin(merchants, (key, judged) -> judged.payment().merchantId(), Judged::with)
                        .leftJoin(
                            rates,
                            (key, judged) -> Tables.rateKey(judged.payment().currency(), judged.payment().day()),
                            Judged::row)
                        .to(topics.transactions(), rows)));
    return builder.build();
  }

  private static final class JudgeProcessor extends ContextualFixedKeyProcessor<byte[], byte[], Judged> {
    @Override
    public void process(FixedKeyRecord<byte[], byte[]> record) {
      RecordMetadata from = context().recordMetadata().orElseThrow();
      Origin origin = new Origin(from.topic(), from.partition(), from.offset(), record.timestamp(), record.key());
      context().forward(record.withValue(new Judged(record.value(), origin, Judge.judge(record.value()), null)));
    }
  }

  /** A message without a timestamp is not a reason to stop, as it would be by default. */
  public static final class AnyTimestamp implements TimestampExtractor {
    @Override
    public long extract(ConsumerRecord<Object, Object> record, long partitionTime) {
      return Math.max(0, record.timestamp());
    }
  }
}
