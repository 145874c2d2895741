"""Databases that a test made."""

from paystream.clickhouse import connect
from paystream.settings import Settings


def drop_database(settings: Settings) -> None:
    """Drop the configured database if it exists.

    The Kafka table goes first: dropped with its view, it keeps a core busy for seconds while no broker answers, and one
    that is left keeps it busier than most tests do.
    """
    name = settings.clickhouse_database
    with connect(settings, database="") as client:
        if client.command(f"EXISTS DATABASE {name}"):
            client.command(f"DROP TABLE IF EXISTS {name}.transactions_queue SYNC")
            client.command(f"DROP DATABASE {name} SYNC")
