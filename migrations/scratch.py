"""An engine of one's own, empty and thrown away: what do the versions give, and what do the files say?

It is the local stack's ClickHouse in a process of its own, with a connection to no broker, so that replaying the
versions touches no topic and no consumer group.
"""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from devstack import clickhouse_server
from migrations import named_collection
from migrations.history import Version, object_name
from migrations.schema import spelled
from migrations.sources import Source
from paystream.clickhouse import cause_of, connect
from paystream.errors import UsageError
from paystream.settings import Settings

# Nobody listens on port 1: a Kafka table over this waits and reads nothing.
_COLLECTIONS = {
    named_collection.KAFKA: "kafka_broker_list = '127.0.0.1:1', kafka_topic_list = 'none', kafka_group_name = 'none'",
    named_collection.DICTIONARIES: "user = 'default', password = ''",
}


@contextmanager
def scratch_engine() -> Iterator[Settings]:
    """Start an empty engine, yield the settings that reach it, and throw it away.

    Raises:
        UsageError: the engine is not installed.
        ServiceUnavailable: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="paystream-scratch-") as folder:
        instance = clickhouse_server.Instance.within(Path(folder))
        with clickhouse_server.running(instance) as process:
            # Constructed without the environment, which speaks of another server.
            yield Settings.model_construct(clickhouse_port=instance.http_port)
            process.kill()  # nothing in it is worth a graceful end


def replay(engine: Settings, history: list[Version]) -> dict[str, str]:
    """Apply versions to a new database and return how the engine spells each object of it.

    Raises:
        UsageError: the engine refuses a statement.
    """
    with _new_database(engine) as (client, database):
        for version in history:
            _run(client, version.id, version.statements)
        return spelled(client, database)


def replay_and_back(engine: Settings, history: list[Version], newest: Version) -> tuple[dict[str, str], dict[str, str]]:
    """Apply versions and a newest one to a new database, then take that back; return how each object is spelled after
    it and without it again.

    Raises:
        UsageError: the engine refuses a statement.
    """
    with _new_database(engine) as (client, database):
        for version in (*history, newest):
            _run(client, version.id, version.statements)
        after = spelled(client, database)
        _run(client, f"{newest.id}.rollback", tuple(reversed(newest.rollbacks)))
        return after, spelled(client, database)


def _run(client: Client, name: str, statements: tuple[str, ...]) -> None:
    for number, statement in enumerate(statements, start=1):
        try:
            client.command(statement)
        except DatabaseError as error:
            raise UsageError(
                f"Version '{name}' cannot be replayed: step {number}, {object_name(statement)}: {cause_of(error)}. "
                "Correct it."
            ) from error


def load(engine: Settings, sources: dict[str, Source]) -> tuple[list[str], dict[str, str]]:
    """Create what the files say in a new database.

    Returns:
        The objects' names in an order in which they can be created, and how the engine spells each.

    Raises:
        UsageError: the engine refuses a file.
    """
    with _new_database(engine) as (client, database):
        # Whatever order the files depend on each other in: those that fail wait for the others.
        waiting = sorted(sources, key=lambda name: (_rank(sources[name]), name))
        order: list[str] = []
        while waiting:
            failures = {}
            for name in waiting:
                try:
                    client.command(sources[name].text)
                    if sources[name].kind == "DICTIONARY":
                        client.command(f"SYSTEM RELOAD DICTIONARY {name}")
                except DatabaseError as error:
                    failures[name] = error
                    if sources[name].kind == "DICTIONARY":
                        client.command(f"DROP DICTIONARY IF EXISTS {name}")
                else:
                    order.append(name)
            if len(failures) == len(waiting):
                # The file that others wait for, not one that waits.
                causes = [name for name in failures if "UNKNOWN_TABLE" not in str(failures[name])]
                name = (causes or list(failures))[0]
                cause = cause_of(failures[name]).replace(f"{database}.", "")
                raise UsageError(f"SQL file '{sources[name].path}' cannot be used: {cause}. Correct it.")
            waiting = list(failures)
        return order, spelled(client, database)


@contextmanager
def _new_database(engine: Settings) -> Iterator[tuple[Client, str]]:
    database = f"scratch_{uuid.uuid4().hex[:12]}"
    with connect(engine, database="") as client:
        client.command(f"CREATE DATABASE {database}")
        for name, values in _COLLECTIONS.items():
            client.command(f"CREATE NAMED COLLECTION IF NOT EXISTS {name} AS {values}")
    with connect(engine, database=database) as client:
        yield client, database


def _rank(source: Source) -> int:
    # What feeds views comes before them, and views before what starts ingest.
    return ["TABLE", "VIEW", "DICTIONARY", "MATERIALIZED VIEW"].index(source.kind)
