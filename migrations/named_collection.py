"""The named collections that the schema takes its connections from, kept equal to the settings.

``paystream_kafka`` is the Kafka table's: brokers, topic, group and credentials. ``paystream_dictionaries`` is how the
dictionaries log in to read their tables. Both stand there and nowhere else: not in a version, not in ``SHOW CREATE``.
A server's collections belong to no database, so those of another database are named after that: ``staging_kafka``.
The engine never shows the values it holds, so what was last written for Kafka is remembered as a salted, slow hash in
the migrations' log.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Collection

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from paystream.clickhouse import ACCESS_DENIED, cause_of, is_code
from paystream.errors import PaystreamError, ServiceUnavailable
from paystream.migrations.backend import ClickHouseBackend
from paystream.settings import Settings

KAFKA = "paystream_kafka"
DICTIONARIES = "paystream_dictionaries"
"""Their names in sql/, dictionaries/ and the versions, which are right for a database named paystream."""

# For librdkafka. They stand here, since the engine ignores the <kafka> section of its own configuration for a table
# that has a named collection.
_CLIENT = {
    # The broker gathers what comes in for so long, or until there is so much. Answering each few messages, as with the
    # default of one byte, takes a third more of its processor and no time off the latency.
    "kafka.fetch_wait_max_ms": "20",
    "kafka.fetch_min_bytes": "30000",
    # What one fetch of a partition and what is read ahead may come to. A fetch counts as it comes, compressed: at a
    # thousandth of their size, messages of a default fetch of 1 MB fill 1 GB, a block of them exceeds the server's
    # memory, and comes again and again. The engine bounds blocks by rows alone.
    "kafka.fetch_message_max_bytes": "32768",
    "kafka.queued_max_messages_kbytes": "16384",
    # How long a partition is not fetched from once so much is read ahead. At the default of a second, a backlog waits.
    "kafka.fetch_queue_backoff_ms": "100",
    # After a crash the next consumer gets the partitions only when the session ends; the default is 45 s.
    "kafka.session_timeout_ms": "6000",
    # Several heartbeats must fit into a session, so that a lost one does not cost it; the default is 3 s.
    "kafka.heartbeat_interval_ms": "1000",
    # A broker that is back is found within this time; the default lets the pauses grow to 10 s.
    "kafka.reconnect_backoff_max_ms": "500",
    # New partitions are read within this time; the default is five minutes.
    "kafka.topic_metadata_refresh_interval_ms": "5000",
    # What one batch may come to when it is decompressed; a larger one stops its partition for good. Default: 100 MB.
    "kafka.receive_message_max_bytes": "268435456",
}
_WRITTEN_BEFORE = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
"""Keys that versions may have written which did not note down the names of all they wrote."""

NOBODY = {"kafka_broker_list": "127.0.0.1:1", "kafka_topic_list": "none", "kafka_group_name": "none"}
"""Nobody listens on port 1: a Kafka table over this waits and reads nothing."""

_LOG_OPERATION = "named collection"
_LOG_TOPIC = "kafka topic"
"""The operation in the log whose comment is the topic and the consumer group that the table was attached with."""


def own(text: str, database: str) -> str:
    """Return SQL of a file or a version, with a database's own collections in it; their names alone, too."""
    return re.sub(r"\bpaystream(_kafka|_dictionaries)\b", rf"{database}\1", text)


def authored(text: str, database: str) -> str:
    """Return a database's SQL with the names of the files, the reverse of ``own``."""
    return re.sub(rf"\b{database}(_kafka|_dictionaries)\b", r"paystream\1", text)


def sync(backend: ClickHouseBackend, settings: Settings, kafka_tables: list[str], attach: bool = True) -> None:
    """Make the named collections say what the settings say.

    With ``attach``, those of ``kafka_tables`` that exist are detached and attached, since a Kafka table reads its
    collection only then; consumption goes on from the committed offsets. A dictionary reads its own at every
    load, and one whose load had failed is loaded now, since the engine tries that again late (after minutes) or never.
    What an earlier version made over the collections of a database named paystream is made anew over this database's.

    Raises:
        PaystreamError: the engine refuses it. The message holds no value.
        ServiceUnavailable: ClickHouse went away meanwhile.
    """
    values = _values(settings)
    kafka, dictionaries = (own(name, settings.clickhouse_database) for name in (KAFKA, DICTIONARIES))
    try:
        _write(backend, dictionaries, _dictionary_values(settings))
        for dictionary in _failed_dictionaries(backend):
            name = backend.quote_identifier(dictionary)
            backend.connection.command(f"SYSTEM RELOAD DICTIONARY {name}")
        written = backend.newest_comment(_LOG_OPERATION).partition(" ")[2]
        _write(backend, kafka, values, written.split(",") if written else _WRITTEN_BEFORE)
        for statement in taking_over(backend, settings):
            backend.connection.command(statement)
        if attach:
            for table in existing(backend, kafka_tables):
                name = backend.quote_identifier(table)
                backend.connection.command(f"DETACH TABLE IF EXISTS {name} SYNC")
                backend.connection.command(f"ATTACH TABLE {name}")
            backend.log(_LOG_TOPIC, kafka, f"{settings.kafka_topic} {settings.kafka_group}")
            # Last, so that whatever interrupts this, the next run does it again.
            backend.log(_LOG_OPERATION, kafka, f"{_fingerprint(values, secrets.token_hex(16))} {','.join(values)}")
    except OperationalError as error:
        raise ServiceUnavailable(
            "ClickHouse was lost while its named collections were written. Repeat `paystream migrate up`."
        ) from error
    except DatabaseError as error:
        what_next = "Correct the cause, then repeat."
        if is_code(error, ACCESS_DENIED):
            what_next = "Allow the ClickHouse user to (named_collection_control in its access settings), then repeat."
        raise PaystreamError(
            f"Named collections '{kafka}' and '{dictionaries}' cannot be written: {cause_of(error)}. {what_next}"
        ) from error


def write_of_nobody(backend: ClickHouseBackend, settings: Settings) -> None:
    """Write collections of a broker that there is not, so that a Kafka table reads nothing until ``sync``."""
    kafka, dictionaries = (own(name, settings.clickhouse_database) for name in (KAFKA, DICTIONARIES))
    _write(backend, dictionaries, _dictionary_values(settings))
    if not _keys(backend, kafka):
        _write(backend, kafka, NOBODY)


def taking_over(backend: ClickHouseBackend, settings: Settings) -> list[str]:
    """Return the statements that put this database's own collections into what is over those of paystream."""
    if own(KAFKA, settings.clickhouse_database) == KAFKA:
        return []
    rows = backend.connection.query(
        "SELECT create_table_query FROM system.tables WHERE database = currentDatabase()"
        " AND engine IN ('Kafka', 'Dictionary') AND match(create_table_query, {names:String}) ORDER BY name",
        parameters={"names": rf"\b({KAFKA}|{DICTIONARIES})\b"},
    ).result_rows
    return [re.sub("^CREATE ", "CREATE OR REPLACE ", own(create, settings.clickhouse_database)) for (create,) in rows]


def read_so_far(backend: ClickHouseBackend) -> tuple[str, str] | None:
    """Return the topic and the consumer group that the Kafka table was last attached with; None before the first."""
    topic, _, group = backend.newest_comment(_LOG_TOPIC).partition(" ")
    return (topic, group) if topic else None


def is_current(backend: ClickHouseBackend, settings: Settings) -> bool:
    """Return whether ``sync`` would leave Kafka's collection as it is. Changes nothing."""
    name = own(KAFKA, settings.clickhouse_database)
    return bool(_keys(backend, name)) and _matches(backend.newest_comment(_LOG_OPERATION), _values(settings))


def drop_unused(backend: ClickHouseBackend, settings: Settings) -> None:
    """Drop each named collection of this database, and of the files, that no table and no dictionary of any uses."""
    files = (KAFKA, DICTIONARIES)
    names = dict.fromkeys(name for file in files for name in (own(file, settings.clickhouse_database), file))
    for name in names:
        used = backend.connection.query(
            "SELECT count() FROM system.tables WHERE engine IN ('Kafka', 'Dictionary')"
            " AND match(create_table_query, {name:String})",
            parameters={"name": rf"\b{name}\b"},
        ).first_row[0]
        if not used:
            backend.connection.command(f"DROP NAMED COLLECTION IF EXISTS {name}")
            backend.log(_LOG_OPERATION, name)


def _dictionary_values(settings: Settings) -> dict[str, str]:
    return {"user": settings.clickhouse_user, "password": settings.clickhouse_password.get_secret_value()}


def _values(settings: Settings) -> dict[str, str]:
    values = {
        "kafka_broker_list": settings.clickhouse_kafka_brokers or settings.kafka_brokers,
        "kafka_topic_list": settings.kafka_topic,
        "kafka_group_name": settings.kafka_group,
    }
    return _CLIENT | values | {_key(name): value for name, value in settings.kafka_security.items()}


def _key(name: str) -> str:
    """Return the engine's key for one of librdkafka's settings: some it has a word of its own for."""
    own = {"security.protocol", "sasl.mechanism", "sasl.username", "sasl.password"}
    return f"kafka{'_' if name in own else '.'}{name.replace('.', '_')}"


def _write(backend: ClickHouseBackend, name: str, values: dict[str, str], ours: Collection[str] = ()) -> None:
    """Write a collection whatever it holds.

    Of other keys those among ``ours`` are deleted. What somebody else has added stays.
    """
    assignments = ", ".join(f"`{key}` = {format_str(value)}" for key, value in values.items())
    keys = _keys(backend, name)
    if not keys:
        backend.connection.command(f"CREATE NAMED COLLECTION {name} AS {assignments}")
        return
    superfluous = sorted(set(keys) & set(ours) - set(values))
    deletion = f" DELETE {', '.join(f'`{key}`' for key in superfluous)}" if superfluous else ""
    backend.connection.command(f"ALTER NAMED COLLECTION {name} SET {assignments}{deletion}")


def _keys(backend: ClickHouseBackend, name: str) -> list[str]:
    rows = backend.connection.query(
        "SELECT mapKeys(collection) FROM system.named_collections WHERE name = {name:String}", parameters={"name": name}
    ).result_rows
    return rows[0][0] if rows else []


def _failed_dictionaries(backend: ClickHouseBackend) -> list[str]:
    rows = backend.connection.query(
        "SELECT name FROM system.dictionaries WHERE database = currentDatabase() AND status = 'FAILED'"
    ).result_rows
    return sorted(name for (name,) in rows)


def existing(backend: ClickHouseBackend, tables: list[str]) -> list[str]:
    """Return those of some tables that exist, detached ones too."""
    # A table that an earlier run detached and could not attach counts as well.
    rows = backend.connection.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND has({tables:Array(String)}, name)"
        " UNION DISTINCT SELECT table FROM system.detached_tables"
        " WHERE database = currentDatabase() AND has({tables:Array(String)}, table)",
        parameters={"tables": tables},
    ).result_rows
    return sorted(name for (name,) in rows)


def _fingerprint(values: dict[str, str], salt: str) -> str:
    # scrypt, since the log may be readable to people who could otherwise try passwords against a plain hash.
    text = json.dumps(values, sort_keys=True).encode()
    return f"{salt}:{hashlib.scrypt(text, salt=salt.encode(), n=2**14, r=8, p=1).hex()}"


def _matches(fingerprint: str, values: dict[str, str]) -> bool:
    fingerprint, _, _ = fingerprint.partition(" ")
    salt, _, _ = fingerprint.partition(":")
    return bool(salt) and hmac.compare_digest(fingerprint, _fingerprint(values, salt))
