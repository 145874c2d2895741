package paystream.rivals.flink;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** A message as it is in the topic. A POJO by Flink's rules, so that Flink's own serializer takes it, not Kryo. */
public class Message {
  public byte[] key;
  public byte[] value;
  public int partition;
  public long offset;
  public long timestamp;

  /** Makes messages from records. Empty ones and tombstones are skipped. */
  static final class Schema implements KafkaRecordDeserializationSchema<Message> {
    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Message> out) {
      if (record.value() == null || record.value().length == 0) {
        return;
      }
      Message message = new Message();
      message.key = record.key() == null ? new byte[0] : record.key();
      message.value = record.value();
      message.partition = record.partition();
      message.offset = record.offset();
      message.timestamp = record.timestamp();
      out.collect(message);
    }

    @Override
    public TypeInformation<Message> getProducedType() {
      return TypeInformation.of(Message.class);
    }
  }
}
