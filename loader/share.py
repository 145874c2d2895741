"""What is whole on every node of a cluster, such as dimensions and their histories: copies for nodes that lack it."""

from collections.abc import Callable
from contextlib import closing

from clickhouse_connect.driver.client import Client

from paystream.clickhouse import answering, connect
from paystream.nodes import Node, Nodes

_WHOLE = """
SELECT name FROM system.tables
WHERE database = currentDatabase() AND endsWith(engine, 'MergeTree')
    -- Not a node's share of what is split, nor what belongs to a command that runs, or to its migrations.
    AND NOT match(name, '_local$|_(refresh|staging)(_[0-9a-f]{12})?$|^_')
ORDER BY name
"""


def copy_whole_tables(nodes: Nodes, new: list[Node], tell: Callable[[str], None]) -> None:
    """Give nodes that are new, and read no messages yet, all that is whole on the others, and load their dictionaries.

    Raises:
        ServiceUnavailable: a node was lost on the way.
        PaystreamError: a node refused a statement.
    """
    addresses = [node.address for node in new]
    source = next((node for node in nodes.present if node.address not in addresses), None)
    if source is None:
        return
    with answering(f"Copy from node '{source.address}'"), connect(source.settings) as origin:
        tables = [name for (name,) in origin.query(_WHOLE).result_rows]
        for node in new:
            tell(f"Node '{node.address}' gets the dimensions of '{source.address}'.")
            with answering(f"Copy to node '{node.address}'"), connect(node.settings) as target:
                for table in tables:
                    target.command(f"TRUNCATE TABLE {table}")
                    for (partition,) in origin.query(f"SELECT DISTINCT _partition_id FROM {table}").result_rows:
                        copy_rows(origin, target, table, table, f"_partition_id = '{partition}'")
                target.command("SYSTEM RELOAD DICTIONARIES")


def copy_rows(origin: Client, target: Client, table: str, into: str, condition: str = "1") -> None:
    """Add the rows of a node's table that fulfil a condition to a table of another node.

    They pass through as they come, however many. Whether all have come is the caller's to check.
    """
    with closing(origin.raw_stream(f"SELECT * FROM {table} WHERE {condition}", fmt="Native")) as rows:
        target.raw_insert(into, insert_block=rows, fmt="Native")
