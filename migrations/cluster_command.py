"""``paystream cluster``."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from paystream.errors import UsageError
from paystream.migrations import runner
from paystream.nodes import each, find
from paystream.output import console, is_terminal, note, print_fields, print_json
from paystream.settings import Settings, load_settings

AHEAD_S = 10 * 60
"""So far ahead a new shard has to begin. A payment may be stamped five minutes ahead, nodes' clocks may differ, and all
nodes must know of the shard before the first payment of its time comes."""

app = typer.Typer(name="cluster", help="Grow a cluster of ClickHouse nodes.", no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Grow a cluster of ClickHouse nodes."""


@app.command("add-shard")
def add_shard(
    since: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="DATE",
            help="Payments created from this day (UTC) on, or from a time such as 2026-12-01T06:00, go to all shards.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Have new nodes take a share of the payments that are created from a day on.

    The nodes stand in every node's remote_servers already (locally: `paystream up --nodes N`). They get the schema and
    the dimensions; older payments and their later states stay where they are. Refuses a day that has begun.

    Example: paystream cluster add-shard --from 2026-12-01
    """
    settings = load_settings()
    before, shards, moment = grow(settings, since)
    fields = {"shards_before": before, "shards": shards, "from": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    if as_json:
        print_json({"status": "grown", **fields})
    elif is_terminal():
        console.print(
            f"Payments created from {moment:%Y-%m-%d %H:%M:%S} UTC on go to {shards} shards; older ones, and their "
            f"later states, stay on the {before} that they are on.",
            highlight=False,
        )
    else:
        print_fields("cluster_add_shard", {"status": "grown"} | fields)


def grow(settings: Settings, since: str) -> tuple[int, int, datetime]:
    """Spread payments that are created from a moment on over all shards; return how many there were and are, and it.

    Raises:
        UsageError: there is no new shard, or states of one payment could get to two shards; nothing was changed.
        ServiceUnavailable: a node does not answer.
        PaystreamError: as ``runner.up``.
    """
    what = f"Cluster '{settings.clickhouse_cluster}'"
    if not settings.clickhouse_cluster:
        raise UsageError("Shard cannot be added to one server. Set PAYSTREAM_CLICKHOUSE_CLUSTER; see docs/clusters.md.")
    moment = _moment(since)
    nodes = find(settings)
    nodes.require_all(what)
    sharding = runner.sharding_of(nodes)
    if nodes.shards <= sharding.shards:
        raise UsageError(
            f"{what} has no new shard: remote_servers has {nodes.shards}, and payments go to {sharding.shards} of "
            "them. Add the new node to remote_servers of every node (locally: `paystream up --nodes "
            f"{sharding.shards + 1}`), then run this again."
        )
    if nodes.behind:
        raise UsageError(
            f"{what}: node '{nodes.behind[0]}' has fewer nodes in remote_servers than others. Its rows of the new "
            "shard would go to another. Add the new node there, then run this again."
        )
    latest = max(
        now.replace(tzinfo=UTC)
        for _, now in each(nodes, what, lambda _, client: client.query("SELECT now('UTC')").first_row[0], database="")
    )
    earliest = latest + timedelta(seconds=AHEAD_S)
    if moment < earliest:
        raise UsageError(
            f"Shard cannot begin at {moment:%Y-%m-%d %H:%M:%S} UTC: payments of that time may be stored already, and "
            f"their later states would go to another shard and count twice. Give a time after "
            f"{earliest:%Y-%m-%d %H:%M:%S} UTC, such as --from {earliest + timedelta(days=1):%Y-%m-%d}."
        )
    if sharding.before and moment <= sharding.before[-1][0]:
        raise UsageError(
            f"Shard cannot begin at {moment:%Y-%m-%d %H:%M:%S} UTC: the one before it begins at "
            f"{sharding.before[-1][0]:%Y-%m-%d %H:%M:%S}. Give a later time."
        )
    runner.up(settings, grow=(nodes.shards, moment), tell=note)
    return sharding.shards, nodes.shards, moment


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"Option '--from {text}' is no day and no time. Give one such as 2026-12-01 or 2026-12-01T06:00."
        ) from None
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.replace(microsecond=0)
