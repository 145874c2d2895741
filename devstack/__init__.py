"""The local stack: Apache Kafka and the embedded ClickHouse as processes on loopback. Imported only by its commands."""
