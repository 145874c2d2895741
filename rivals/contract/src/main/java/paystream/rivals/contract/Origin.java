package paystream.rivals.contract;

/**
 * Where a message came from.
 *
 * @param timestampMillis since 1970; 0 or less where it has none
 * @param key null where it has none
 */
public record Origin(String topic, int partition, long offset, long timestampMillis, byte[] key) {}
