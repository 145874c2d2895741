"""A connection to the configured database that says in one line what is missing there or went wrong."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from clickhouse_connect.driver.client import Client

from paystream.clickhouse import answering, connect
from paystream.errors import UsageError
from paystream.settings import Settings


@contextmanager
def connected(settings: Settings, what: str, state: str = "", needed: Collection[str] = ()) -> Iterator[Client]:
    """Open a client on the configured database, in which these tables, views and dictionaries exist.

    Args:
        settings: where ClickHouse is.
        what: what is being done, and to what, for messages.
        state: a sentence on how things stand after a refused statement.
        needed: the names.

    Raises:
        UsageError: one of them, or a table that is asked for meanwhile, does not exist.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
        PaystreamError: ClickHouse refused a statement.
    """
    with connect(settings) as client, answering(what, state):
        query = "SELECT name FROM system.tables WHERE database = currentDatabase()"
        if missing := needed and sorted(set(needed) - {name for (name,) in client.query(query).result_rows}):
            raise UsageError(
                f"{what}: {', '.join(missing)} do{'es' * (len(missing) == 1)} not exist in database "
                f"'{settings.clickhouse_database}'. Run `paystream migrate up`."
            )
        yield client
