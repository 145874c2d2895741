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
from paystream.errors import UsageError
from paystream.output import console, errors, is_terminal, print_fields, print_json
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
    nothing but its verdict, for `paystream status`. Exit code 1 on lost or expired messages, a topic made anew, a group
    without offsets, or holes too many to look up.

    With --reports it compares the reports' roll-ups with the payments themselves, for the newest half hours and some
    older ones: exit code 1 when they differ, with the differences shown.

    Example: paystream audit --since 24h
    """
    settings = load_settings()
    if reports:
        if deep:
            raise UsageError("Audit: --deep is of messages and --reports of the reports. Ask for one of them.")
        _audit_reports(settings, older, as_json)
        return
    window = _duration(since)
    with errors.status(f"Auditing topic {settings.kafka_topic}"):
        found = run_audit(settings, window, deep)
    record(settings, found, deep)
    if as_json:
        print_json(_document(found))
    elif is_terminal():
        _show(found)
    else:
        print_fields("audit", _fields(found))
    advice = _advice(found)
    if not as_json:
        for line in advice:
            errors.print(line, soft_wrap=True, markup=False, highlight=False)
    if found.verdict != "complete":
        raise typer.Exit(1)


def _audit_reports(settings: Settings, older: int, as_json: bool) -> None:
    with errors.status("Comparing the reports with the payments"):
        found = audit_reports(settings, older)
    fields = {
        "verdict": found.verdict,
        "differences": found.differences,
        "half_hours": len(found.slots),
        "days": len(found.days),
        "complete_until": "never" if found.complete_until is None else f"{found.complete_until:%Y-%m-%dT%H:%M:%SZ}",
    }
    if as_json:
        print_json(fields | {"compared": found.slots, "examples": [asdict(one) for one in found.examples]})
    elif is_terminal() and found.examples:
        names = ("rollup", "bucket", "merchant_id", "currency", "status", "transactions", "amount", "amount_reporting")
        table = Table(*(name.replace("_", " ") for name in names), title="What the roll-ups lack", title_justify="left")
        for one in found.examples:
            table.add_row(
                *(f"{getattr(one, n):%Y-%m-%d %H:%M}" if n == "bucket" else str(getattr(one, n)) for n in names)
            )
        console.print(table)
    if not as_json:
        print_fields("audit_reports", fields)
    if not is_terminal() and not as_json:
        for one in found.examples:
            print_fields("audit_difference", asdict(one))
    if found.differences:
        errors.print(
            f"{found.differences:,} differences between reports and payments. "
            "See 'Reports differ' in docs/runbook.md.",
            soft_wrap=True, markup=False, highlight=False,
        )  # fmt: skip
        raise typer.Exit(1)


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    window = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not timedelta(0) < window <= timedelta(days=90):
        raise UsageError(f"Window '{text}': not a duration up to 90d. Name one such as --since 10m, 1h or 7d.")
    return window


def _total(found: Audit, name: str) -> int | None:
    values = [getattr(one, name) for one in found.partitions if getattr(one, name) is not None]
    return sum(values) if values else None


def _least(found: Audit, name: str) -> float | None:
    return min((value for one in found.partitions if (value := getattr(one, name)) is not None), default=None)


def _fields(found: Audit) -> dict[str, Any]:
    headroom, from_oldest = _least(found, "headroom_hours"), _least(found, "hours_from_oldest")
    fields: dict[str, Any] = {
        "topic": found.topic,
        "verdict": found.verdict,
        "read": _total(found, "stored"),
        "refused": _total(found, "refused"),
        **asdict(found.holes),
        "redelivered": _total(found, "redelivered"),
        "in_flight": _total(found, "in_flight"),
        "blocked": _total(found, "blocked"),
        "in_several_partitions": found.in_several_partitions,
        "changed_keys": found.changed_keys,
        "hours_from_oldest": "none" if from_oldest is None else f"{from_oldest:.2f}",
        "headroom_hours": "unlimited" if headroom is None else f"{headroom:.2f}",
    }
    for name in ("absent_rows", "superseded_rows"):
        if (count := _total(found, name)) is not None:
            fields[name] = count
    return fields


def _document(found: Audit) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "topic": found.topic,
        "since": found.since,
        "retention_hours": found.retention_hours,
        "holes": asdict(found.holes),
        "in_several_partitions": found.in_several_partitions,
        "changed_keys": found.changed_keys,
        "changed_key_example": found.example or None,
        "left_unread": found.left_unread,
        "partitions": [asdict(one) for one in found.partitions],
        "advice": _advice(found),
    }


def _show(found: Audit) -> None:
    # Lost always, of the other kinds of hole those there are: a sound topic fits a narrow terminal.
    holes = [name for name, count in asdict(found.holes).items() if count or name == "lost"]
    table = Table("partition", "from", "to", "read", *holes, "redelivered", "in flight", "headroom")
    for one in found.partitions:
        counts = asdict(one.holes)
        headroom = "-" if one.headroom_hours is None else f"{one.headroom_hours:,.1f} h"
        table.add_row(
            str(one.partition),
            f"{one.start:,}",
            "recreated" if one.recreated else "-" if one.committed is None else f"{one.committed:,}",
            f"{one.stored:,}",
            *(f"[red]{counts[name]:,}[/]" if counts[name] and name in _BAD else f"{counts[name]:,}" for name in holes),
            f"{one.redelivered:,}",
            f"{one.in_flight:,}" + (f" ({one.blocked:,} blocked)" if one.blocked else ""),
            headroom,
        )
    console.print(table)
    fields = _fields(found)
    rest = ["in_several_partitions", "changed_keys", "hours_from_oldest", "absent_rows", "superseded_rows"]
    console.print(f"verdict {found.verdict}", *(f"{name} {fields[name]}" for name in rest if name in fields), sep="   ")


_BAD = ("expired", "lost", "unchecked")


def _advice(found: Audit) -> list[str]:
    holes = found.holes
    lines = []
    for one in found.partitions:
        if one.recreated:
            lines.append(
                f"Partition {one.partition} of topic '{found.topic}': the ledger knows messages that the topic does not"
                " have; the topic was recreated or cut. See 'Audit says recreated' in docs/runbook.md."
            )
        if one.uncommitted:
            lines.append(
                f"Partition {one.partition} of topic '{found.topic}': the group has committed nothing, though the"
                " ledger knows what was read. Check PAYSTREAM_KAFKA_GROUP; if the group was deleted, let it read again."
            )
        lines += _lost(found, one)
    for topic, messages in found.left_unread.items():
        lines.append(
            f"{messages:,} messages of topic '{topic}', which was read before, are unread, and nobody reads them. Set "
            "PAYSTREAM_KAFKA_TOPIC back and run `paystream migrate up` until they are read."
        )
    if holes.expired:
        lines.append(
            f"{holes.expired} messages of topic '{found.topic}' expired before they were read."
            " Send them again from their source, and see 'Audit says lost' in docs/runbook.md."
        )
    if holes.unchecked:
        lines.append(
            f"{holes.unchecked} offsets were not looked up, there are too many. Repeat with a shorter --since."
        )
    if found.changed_keys:
        lines.append(
            f"{found.changed_keys} transactions were sent with different created_at or merchant_id, such as"
            f" {found.example}: readers count them more than once. Have the producer corrected."
        )
    return lines


def _lost(found: Audit, one: PartitionAudit) -> list[str]:
    lines = []
    for what, count, examples in (
        ("are lost", one.holes.lost, one.lost_examples),
        ("have no row", one.absent_rows, one.absent_examples),
    ):
        if count:
            places = ", ".join(f"{offset} of {moment:%Y-%m-%d %H:%M:%S} UTC" for offset, moment in examples)
            lines.append(
                f"{count} messages of partition {one.partition} of topic '{found.topic}' {what}"
                f"{f' (offsets {places})' if places else ''}. See 'Audit says lost' in docs/runbook.md."
            )
    return lines
