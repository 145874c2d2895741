"""``paystream audit``."""

import re
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from paystream.audit.reconcile import Audit, PartitionAudit
from paystream.audit.reconcile import audit as run_audit
from paystream.audit.record import record
from paystream.audit.reports import audit_reports
from paystream.audit.shards import Cluster
from paystream.errors import UsageError
from paystream.output import console, errors, is_terminal, print_fields, print_json, say
from paystream.settings import Settings, load_settings

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def audit(
    since: Annotated[
        str, typer.Option(help="How far back, such as 10m, 1h or 90d (as long as the ledger goes).")
    ] = "1h",
    deep: Annotated[bool, typer.Option("--deep", help="Also compare with the stored rows themselves. Slow.")] = False,
    reports: Annotated[
        bool, typer.Option("--reports", help="Instead, compare what reports are made of with the stored payments.")
    ] = False,
    older: Annotated[
        int, typer.Option(min=0, max=1000, help="With --reports: how many older half hours, chosen by chance.")
    ] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check that everything the consumer group has read from the topic was stored: exit code 1 when it was not.

    Compares the broker's offsets with the ledger, and looks every hole up in the broker: tombstone or empty message,
    transaction marker or compacted, expired before it was read, or lost. Takes nothing from the group, and writes
    nothing but its verdict, for `paystream status`. Exit code 1 on lost or expired messages, a recreated topic, a group
    without offsets, or holes too many to look up.

    Of a cluster it audits each set of nodes. It also looks for payments on a shard that they do not belong to, and
    compares the sets; exit code 1 on any of these, and where a node does not answer.

    With --reports it compares the reports' roll-ups with the payments themselves, for the newest half hours and some
    older ones: exit code 1 when they differ, with the differences shown.

    Example: paystream audit --since 24h
    """
    settings = load_settings()
    if reports:
        if deep:
            raise UsageError("Audit: --deep compares messages and --reports compares reports. Give one of them.")
        _audit_reports(settings, older, as_json)
        return
    window = _duration(since)
    with errors.status(f"Auditing topic {settings.kafka_topic}"):
        result = run_audit(settings, window, deep)
    record(settings, result, deep)
    if as_json:
        print_json(_document(result))
    elif is_terminal():
        _show(result)
    else:
        print_fields("audit", _fields(result))
    advice = _advice(result)
    if not as_json:
        for line in advice:
            say(line, errors)
    if result.verdict != "complete":
        raise typer.Exit(1)


def _audit_reports(settings: Settings, older: int, as_json: bool) -> None:
    with errors.status("Comparing the reports with the payments"):
        result = audit_reports(settings, older)
    fields = {
        "verdict": result.verdict,
        "differences": result.differences,
        "half_hours": len(result.slots),
        "days": len(result.days),
        "complete_until": "never" if result.complete_until is None else f"{result.complete_until:%Y-%m-%dT%H:%M:%SZ}",
    }
    if as_json:
        print_json(fields | {"compared": result.slots, "examples": result.examples})
    elif is_terminal() and result.examples:
        names = ("rollup", "bucket", "merchant_id", "currency", "status", "transactions", "amount", "amount_reporting")
        table = Table(*(name.replace("_", " ") for name in names), title="What the roll-ups lack", title_justify="left")
        for difference in result.examples:
            table.add_row(
                *(
                    f"{getattr(difference, n):%Y-%m-%d %H:%M}" if n == "bucket" else str(getattr(difference, n))
                    for n in names
                )
            )
        console.print(table)
    if not as_json:
        print_fields("audit_reports", fields)
    if not is_terminal() and not as_json:
        for difference in result.examples:
            print_fields("audit_difference", asdict(difference))
    for node in result.unseen:
        say(f"{_capitalized(node)}. Its reports were not compared. Start it, then audit again.", errors)
    if result.differences:
        differ = f"{result.differences:,} differences between reports and payments."
        say(f"{differ} See 'Reports differ' in docs/runbook.md.", errors)
    if result.verdict != "equal":
        raise typer.Exit(1)


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    window = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not timedelta(0) < window <= timedelta(days=90):
        raise UsageError(f"Window '{text}': not a duration up to 90d. Name one such as --since 10m, 1h or 7d.")
    return window


def _values(result: Audit, name: str) -> list[Any]:
    return [value for partition in result.partitions if (value := getattr(partition, name)) is not None]


def _total(result: Audit, name: str) -> int | None:
    values = _values(result, name)
    return sum(values) if values else None


def _fields(result: Audit) -> dict[str, Any]:
    headroom = min(_values(result, "headroom_hours"), default=None)
    from_oldest = min(_values(result, "hours_from_oldest"), default=None)
    fields: dict[str, Any] = {
        "topic": result.topic,
        "verdict": result.verdict,
        "read": _total(result, "stored"),
        "refused": _total(result, "refused"),
        **asdict(result.holes),
        "redelivered": _total(result, "redelivered"),
        "in_flight": _total(result, "in_flight"),
        "blocked": _total(result, "blocked"),
        "in_several_partitions": result.in_several_partitions,
        "changed_keys": result.changed_keys,
        "hours_from_oldest": "none" if from_oldest is None else f"{from_oldest:.2f}",
        "headroom_hours": "unlimited" if headroom is None else f"{headroom:.2f}",
    }
    for name in ("absent_rows", "superseded_rows"):
        if (count := _total(result, name)) is not None:
            fields[name] = count
    if cluster := result.cluster:
        fields["misplaced_rows"] = sum(place.rows for place in cluster.misplaced)
        fields["on_two_shards"] = cluster.on_two_shards
        if cluster.sets:
            fields["sets_differ"] = cluster.sets.differences
            fields["half_hours_compared"] = cluster.sets.half_hours
            fields["half_hours_in_motion"] = cluster.sets.in_motion
        fields["nodes_unseen"] = len(cluster.unseen)
    return fields


def _document(result: Audit) -> dict[str, Any]:
    fields = asdict(result)
    example = fields.pop("example") or None
    if result.cluster is None:
        del fields["cluster"]
    for partition in fields["partitions"]:
        if not partition["set"]:
            del partition["set"]
    head = {"verdict": result.verdict, "holes": asdict(result.holes)}
    return head | fields | {"changed_key_example": example, "advice": _advice(result)}


def _show(result: Audit) -> None:
    # Lost always, of the other kinds of hole those there are: a sound topic fits a narrow terminal.
    holes = [name for name, count in asdict(result.holes).items() if count or name == "lost"]
    in_sets = any(partition.set for partition in result.partitions)
    table = Table(*["set"] * in_sets, "partition", "from", "to", "read", *holes, "redelivered", "in flight", "headroom")
    for partition in result.partitions:
        counts = asdict(partition.holes)
        headroom = "-" if partition.headroom_hours is None else f"{partition.headroom_hours:,.1f} h"
        table.add_row(
            *[partition.set] * in_sets,
            str(partition.partition),
            f"{partition.start:,}",
            "recreated" if partition.recreated else "-" if partition.committed is None else f"{partition.committed:,}",
            f"{partition.stored:,}",
            *(f"[red]{counts[name]:,}[/]" if counts[name] and name in _BAD else f"{counts[name]:,}" for name in holes),
            f"{partition.redelivered:,}",
            f"{partition.in_flight:,}" + (f" ({partition.blocked:,} blocked)" if partition.blocked else ""),
            headroom,
        )
    console.print(table)
    fields = _fields(result)
    rest = ["in_several_partitions", "changed_keys", "hours_from_oldest", "absent_rows", "superseded_rows"]
    rest += ["misplaced_rows", "on_two_shards", "sets_differ", "half_hours_in_motion", "nodes_unseen"]
    console.print(
        f"verdict {result.verdict}", *(f"{name} {fields[name]}" for name in rest if name in fields), sep="   "
    )


_BAD = ("expired", "lost", "unchecked")


def _advice(result: Audit) -> list[str]:
    holes = result.holes
    lines = []
    for partition in result.partitions:
        place = f"Partition {partition.partition} of topic '{result.topic}'{_in_set(partition)}"
        if partition.recreated:
            lines.append(
                f"{place}: the ledger knows messages that the topic does not have; "
                "the topic was recreated or cut. See 'Audit says recreated' in docs/runbook.md."
            )
        if partition.uncommitted:
            lines.append(
                f"{place}: the group has committed nothing, though the ledger knows what was read. "
                "Check PAYSTREAM_KAFKA_GROUP; if the group was deleted, let it read again."
            )
        lines += _lost(result, partition)
    for topic, messages in result.left_unread.items():
        lines.append(
            f"{messages:,} messages of topic '{topic}', which was read before, are unread, and nobody reads them. Set "
            "PAYSTREAM_KAFKA_TOPIC back and run `paystream migrate up` until they are read."
        )
    if holes.expired:
        lines.append(
            f"{holes.expired} messages of topic '{result.topic}' expired before they were read."
            " Send them again from their source, and see 'Audit says lost' in docs/runbook.md."
        )
    if result.cluster:
        lines += _of_cluster(result.cluster)
    if holes.unchecked and not (result.cluster and result.cluster.unseen):
        lines.append(
            f"{holes.unchecked} offsets were not looked up, there are too many. Repeat with a shorter --since."
        )
    if result.changed_keys:
        lines.append(
            f"{result.changed_keys} transactions were sent with different created_at or merchant_id, such as"
            f" {result.example}: readers count them more than once. Have the producer corrected."
        )
    return lines


def _lost(result: Audit, partition: PartitionAudit) -> list[str]:
    lines = []
    for what, count, examples in (
        ("are lost", partition.holes.lost, partition.lost_examples),
        ("have no row", partition.absent_rows, partition.absent_examples),
    ):
        if count:
            places = ", ".join(f"{offset} of {moment:%Y-%m-%d %H:%M:%S} UTC" for offset, moment in examples)
            lines.append(
                f"{count} messages of partition {partition.partition} of topic '{result.topic}' {what}"
                f"{_in_set(partition)}"
                f"{f' (offsets {places})' if places else ''}. See 'Audit says lost' in docs/runbook.md."
            )
    return lines


def _in_set(partition: PartitionAudit) -> str:
    return f" in set {partition.set}" if partition.set else ""


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _of_cluster(cluster: Cluster) -> list[str]:
    lines = [
        f"{_capitalized(node)}. Its rows could not be seen: what it read counts as unchecked, and payments on a "
        "wrong shard were sought on the others alone. Start it, then audit again."
        for node in cluster.unseen
    ]
    for place in cluster.misplaced:
        lines.append(
            f"{place.rows:,} rows of payments lie on node '{place.node}' (shard {place.shard}) and belong to another, "
            f"such as transaction {place.example}: where that has a row too, the payment counts twice in reports, and "
            "it may have an old state. See 'Audit says misplaced' in docs/runbook.md."
        )
    if cluster.on_two_shards:
        lines.append(
            f"{cluster.on_two_shards:,} transactions have rows on two shards, such as {cluster.example}: each counts "
            "twice in reports. See 'Audit says misplaced' in docs/runbook.md."
        )
    if not (sets := cluster.sets):
        return lines
    for difference in sets.examples:
        (here, there), (amount, other) = difference.transactions, difference.amount
        one, two = difference.sets
        lines.append(
            f"Sets {one} and {two} differ on {difference.day}, shard {difference.shard}, {difference.currency} "
            f"{difference.status}: {here:,} payments of {amount} against {there:,} of {other}."
        )
    if sets.differences:
        lines.append(
            f"{sets.differences:,} sums of a day differ between sets: one of them lacks payments or has an old state. "
            "See 'Audit says misplaced' in docs/runbook.md."
        )
    if sets.enriched_otherwise:
        lines.append(
            f"{sets.enriched_otherwise:,} half hours have the same payments in the sets and other reporting amounts: "
            "they were enriched with other snapshots of rates. `paystream dims repair` makes them equal."
        )
    return lines
