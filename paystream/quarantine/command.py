"""``paystream quarantine``."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from paystream.errors import CheckFailed, UsageError
from paystream.nodes import find
from paystream.output import console, errors, is_terminal, print_fields, print_json, say
from paystream.quarantine.messages import Example, Group, Selection, groups, parse_time
from paystream.quarantine.replay import Plan, Replayed
from paystream.quarantine.replay import plan as plan_replay
from paystream.quarantine.replay import replay as send_again
from paystream.settings import load_settings

MOST = 10_000

app = typer.Typer(help="Refused messages: what they are, and sending them again after a fix.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Reason = Annotated[str | None, typer.Option(metavar="REASON", help="Only those refused for this reason.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only those refused since; 2026-05-31T14:00 (UTC), 90m, 2h or 7d.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only those refused before.")]


@app.command("list")
def list_groups(reason: Reason = None, since: Since = None, as_json: AsJson = False) -> None:
    """List the refused messages by reason, with an example each, and what became of those sent again.

    Times are those at which ClickHouse refused a message (quarantined_at, UTC); Kafka's timestamps are up to the
    producers. A message that was sent again and refused again stays one message, under its newest reason. Stored means
    read and not refused; in flight, not read yet.

    Example: paystream quarantine list --since 2h
    """
    now = datetime.now(UTC)
    selection = Selection(reason=reason, since=since and parse_time(since, now))
    settings = load_settings()
    nodes = find(settings)
    refused = groups(settings, selection, nodes)
    if as_json:
        print_json([asdict(group) for group in refused])
    elif is_terminal():
        _show_groups(refused)
    elif refused:
        for group in refused:
            print_fields("quarantine", _group_fields(group))
    else:
        print_fields("quarantine", {"messages": 0})
    if nodes.lacking():
        raise CheckFailed(
            f"List of refused messages: those on {nodes.told_lacking} are not in it, and replays of others "
            f"count as in flight unless they were refused here: {nodes.told_away}. "
            "Start it, then run this again."
        )


@app.command()
def replay(
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    partition: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Only those of this partition.")] = None,
    offset: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Only the one at this offset; needs --partition.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    most: Annotated[int, typer.Option("--max", min=1, help="Refuse to send more than this.")] = MOST,
    again: Annotated[
        bool, typer.Option("--again", help="Also those sent again before, unless that got them stored.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send refused messages again, after a fix of what refused them. Repeating it sends nothing twice.

    Each goes to its own partition, with its key and its bytes, and is validated again. Times are those at which
    ClickHouse refused a message (quarantined_at, UTC). `paystream quarantine list` says what became of them.

    Example: paystream quarantine replay --reason currency_unknown --since 2h --dry-run
    """
    now = datetime.now(UTC)
    selection = Selection(reason, since and parse_time(since, now), until and parse_time(until, now), partition, offset)
    if selection.is_everything:
        raise UsageError(
            "Replay without a condition would send everything that was ever refused. "
            "Choose with --reason, --since, --until or --partition, first with --dry-run."
        )
    if offset is not None and partition is None:
        raise UsageError(f"Offset '{offset}' exists in every partition. Say which with --partition.")
    settings = load_settings()
    if dry_run:
        _report(plan_replay(settings, selection, again=again), None, most, as_json)
        return
    try:
        with errors.status("Sending refused messages again") as status:

            def progress(sent: int, planned: int) -> None:
                status.update(f"Sending refused messages again: {sent:,} of {planned:,}")

            done = send_again(settings, selection, again=again, most=most, on_progress=progress)
    except KeyboardInterrupt:
        errors.print("Replay was interrupted. Run it again: that sends what is left, and nothing twice.")
        raise typer.Exit(130) from None
    _report(done.plan, done, most, as_json)
    if done.rejected:
        raise CheckFailed(
            f"Replay '{done.replay_id}': {done.rejected} messages were not taken: {done.error}. "
            "Raise max.message.bytes of the topic, then run it again."
        )


def _report(plan: Plan, done: Replayed | None, most: int, as_json: bool) -> None:
    if not plan.matched:
        status = "nothing matches"
    elif done is None:
        status = "dry run"
    else:
        status = "sent" if done.sent else "rejected" if done.rejected else "nothing to send"
    fields = {
        "status": status,
        "replay_id": done.replay_id if done and done.sent else None,
        "matched": plan.matched,
        "to_send": plan.to_send,
        "sent": done.sent if done else 0,
        "rejected": done.rejected if done else 0,
        "found_sent": done.found_sent if done else None,
        "stored_before": plan.stored,
        "refused_again_before": plan.refused_again,
        "in_flight": plan.in_flight,
        "max": most,
    }
    if as_json:
        print_json(fields | {"example": plan.example and asdict(plan.example)})
    elif is_terminal():
        _show_replay(status, plan, done, most)
    else:
        shown = {name: value for name, value in fields.items() if value is not None}
        if plan.example:
            shown |= {"example_at": _at(plan.example), "example": plan.example.text}
        print_fields("quarantine_replay", shown)


def _show_replay(status: str, plan: Plan, done: Replayed | None, most: int) -> None:
    if done and done.found_sent:
        say(f"{done.found_sent:,} messages of an interrupted replay turned out to be sent; that is recorded now.")
    if not plan.matched:
        say("Nothing matches.")
        return
    before = _outcomes(plan)
    say(f"{plan.matched:,} messages match" + (f"; of those replayed before: {', '.join(before)}." if before else "."))
    if done is None:
        over = f", which is more than --max {most} allows" if plan.to_send > most else ""
        say(f"{plan.to_send:,} would be sent{over}. Nothing was sent.")
        if plan.example:
            say(f"The first, {_at(plan.example)} with key {plan.example.key or '(none)'}: {plan.example.text}")
    elif done.sent:
        say(f"{done.sent:,} sent as replay {done.replay_id}. See what becomes of them: `paystream quarantine list`.")
    else:
        say(f"{status.capitalize()}." + (" Use --again for those not stored." if before else ""))


def _show_groups(refused: list[Group]) -> None:
    if not refused:
        console.print("Nothing was refused.")
        return
    table = Table("reason", "messages", "first, last (UTC)", "partitions", "replayed", "example", show_lines=True)
    for group in refused:
        sent = [f"{group.replayed:,} sent"] if group.replayed else []
        table.add_row(
            Text(group.reason),
            f"{group.messages:,}",
            f"{group.first:%Y-%m-%d %H:%M:%S}\n{group.last:%Y-%m-%d %H:%M:%S}",
            ", ".join(map(str, group.partitions)),
            "\n".join(sent + _outcomes(group)) or "none",
            Text(f"{_at(group.example)}\n{group.example.text}") if group.example else "",
        )
    console.print(table)


def _outcomes(replayed: Plan | Group) -> list[str]:
    counts = {"stored": replayed.stored, "refused again": replayed.refused_again, "in flight": replayed.in_flight}
    return [f"{count:,} {outcome}" for outcome, count in counts.items() if count]


def _group_fields(group: Group) -> dict[str, object]:
    fields = {
        "reason": group.reason,
        "messages": group.messages,
        "first": group.first.isoformat(),
        "last": group.last.isoformat(),
        "partitions": ",".join(map(str, group.partitions)),
        "replayed": group.replayed,
        "stored": group.stored,
        "refused_again": group.refused_again,
        "in_flight": group.in_flight,
    }
    if group.example:
        fields |= {"example_at": _at(group.example), "example": group.example.text}
    return fields


def _at(example: Example) -> str:
    """Say where a message stands, and where its refused replay does: partition/offset."""
    again = ",again:{}/{}".format(*example.refused_again_at) if example.refused_again_at else ""
    return f"{example.partition}/{example.offset}{again}"
