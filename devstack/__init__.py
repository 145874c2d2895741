"""The local stack: Apache Kafka and ClickHouse as processes on loopback."""
