"""A throw-away engine, empty at first: what do the versions give, and what do the files say?

It is the local stack's ClickHouse in its own process, connected to no broker, so that replaying the versions touches no
topic and no consumer group.
"""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from paystream.clickhouse import UNKNOWN_TABLE, cause_of, connect, is_code
from paystream.devstack import clickhouse_server
from paystream.errors import UsageError
from paystream.migrations import named_collection
from paystream.migrations.history import Version, object_name
from paystream.migrations.schema import spelled
from paystream.migrations.sources import Source
from paystream.migrations.statement import words_of
from paystream.settings import Settings

_COLLECTIONS = {
    named_collection.KAFKA: ", ".join(f"{key} = '{value}'" for key, value in named_collection.NOBODY.items()),
    named_collection.DICTIONARIES: "user = 'default', password = ''",
}
# There is nothing for a view to refresh from.
_FILES = {
    "users.d/scratch.xml": "<clickhouse><profiles><default>"
    "<stop_refreshable_materialized_views_on_startup>1</stop_refreshable_materialized_views_on_startup>"
    "</default></profiles></clickhouse>"
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
        with clickhouse_server.running(instance, _FILES) as process:
            # Constructed without the environment, which speaks of another server.
            yield Settings.model_construct(clickhouse_port=instance.http_port)
            process.kill()  # nothing in it is worth a graceful end


@dataclass(frozen=True)
class Replay:
    """A database that versions were applied to."""

    client: Client
    database: str

    def spelled(self) -> dict[str, str]:
        """Return how the engine spells each object of it."""
        return spelled(self.client, self.database)

    def there_and_back(self, newest: Version) -> tuple[dict[str, str], dict[str, str]]:
        """Apply a further version, and take it back; return how each object is spelled after it and without it again.

        Raises:
            UsageError: the engine refuses a statement.
        """
        _run(self.client, newest.id, newest.statements)
        after = self.spelled()
        _run(self.client, f"{newest.id}.rollback", tuple(reversed(newest.rollbacks)))
        return after, self.spelled()


@contextmanager
def replayed(engine: Settings, history: list[Version]) -> Iterator[Replay]:
    """Apply versions to a new database, yield it, and drop it.

    Raises:
        UsageError: the engine refuses a statement.
    """
    with _new_database(engine) as (client, database):
        for version in history:
            _run(client, version.id, version.statements)
        yield Replay(client, database)


def _run(client: Client, name: str, statements: tuple[str, ...]) -> None:
    for number, statement in enumerate(statements, start=1):
        try:
            with _without_consumers(client, statement):
                client.command(statement)
        except DatabaseError as error:
            raise UsageError(
                f"Version '{name}' cannot be replayed: step {number}, {object_name(statement)}: {cause_of(error)}. "
                "Correct it."
            ) from error


@contextmanager
def _without_consumers(client: Client, statement: str) -> Iterator[None]:
    """Detach the Kafka table whose view a statement drops, or the drop keeps a core busy for ten seconds."""
    tables = []
    words = words_of(statement)
    if words.begins("DROP", "VIEW"):
        tables = client.query(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'Kafka'"
            " AND has(dependencies_table, {view:String})",
            parameters={"view": words[1:].names()[0]},
        ).result_rows
    for (table,) in tables:
        client.command(f"DETACH TABLE {table} SYNC")
    yield
    for (table,) in tables:
        client.command(f"ATTACH TABLE {table}")


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
                causes = [name for name in failures if not is_code(failures[name], UNKNOWN_TABLE)]
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
        # A Kafka table that is left, and those of each further database, would keep asking for a broker, on a core.
        kafka = client.query("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'Kafka'")
        for (name,) in kafka.result_rows:
            client.command(f"DROP TABLE {name} SYNC")
    with connect(engine, database="") as client:
        client.command(f"DROP DATABASE {database}")


def _rank(source: Source) -> int:
    # What feeds views comes before them, and views before what starts ingest.
    return ["TABLE", "VIEW", "DICTIONARY", "MATERIALIZED VIEW"].index(source.kind)
