-- One row: one attempt to send one refused message again, once deduplicated (FINAL).
-- Written by: `paystream quarantine replay`, before it sends ('sending') and after. Read by: `paystream quarantine`.
-- Guarantee: no message is sent again without a row here that came first, also when the replay is killed; what became
-- of a row left at 'sending' is found out in the topic by the next replay. Outlives the message's row in quarantine.
CREATE TABLE quarantine_replays
(
    -- the refused message, as it stands in quarantine
    kafka_topic       LowCardinality(String),
    kafka_partition   UInt32,
    kafka_offset      UInt64,
    kafka_timestamp   DateTime64(3, 'UTC'),

    -- the attempt; a later state replaces an earlier one, whenever it is written
    replay_id         UUID,
    state             Enum8('sending' = 0, 'not_sent' = 1, 'sent' = 2),
    state_version     UInt8 MATERIALIZED toUInt8(state),
    replayed_at       DateTime64(3, 'UTC'),
    replayed_by       String,

    -- where it went: while 'sending', the offset is the first that it can get; once 'sent', its own
    new_partition     UInt32,
    new_offset        UInt64,
    new_timestamp     DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(state_version)
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, replay_id)
TTL toDateTime(replayed_at) + INTERVAL 1 YEAR
