"""Keep what an audit found, so that `paystream status` can say when the last one was and what it said."""

from clickhouse_connect.driver.exceptions import ClickHouseError

from paystream.audit.reconcile import Audit
from paystream.clickhouse import cause_of, connect
from paystream.errors import PaystreamError
from paystream.nodes import find, naming
from paystream.output import note
from paystream.settings import Settings


def record(settings: Settings, result: Audit, deep: bool) -> None:
    """Write one row to ``audits``, on each node that answers. A failure is a line on stderr: the verdict stands."""
    holes = result.holes
    row = [result.topic, result.since, deep, result.verdict, holes.lost, holes.expired, holes.unchecked]
    columns = ["kafka_topic", "since", "is_deep", "verdict", "lost", "expired", "unchecked"]
    try:
        nodes = find(settings)
        for node in nodes.present:
            with naming(node, nodes), connect(node.settings) as client:
                client.insert("audits", [row], column_names=columns)
    except (ClickHouseError, PaystreamError) as error:
        why = str(error) if isinstance(error, PaystreamError) else cause_of(error)
        note(
            f"the audit of topic '{result.topic}' was not recorded: {why.rstrip('.')}. "
            "`paystream status` will not know of it; bring the schema up with `paystream migrate up`."
        )
