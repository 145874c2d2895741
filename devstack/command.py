"""``paystream up`` and ``paystream down``."""

import signal
from typing import Annotated

import typer
from rich.table import Table

from paystream.devstack import stack
from paystream.errors import PaystreamError
from paystream.output import console, errors, is_terminal, note, print_fields, print_json, say
from paystream.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def up(
    broker: Annotated[
        stack.BrokerChoice,
        typer.Option(help="kafka: Apache Kafka. memory: a stand-in without Java. auto: kafka if it can run here."),
    ] = "auto",
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Start a cluster of so many ClickHouse nodes, or let it grow to so many."),
    ] = None,
    sets: Annotated[
        int | None,
        typer.Option(
            min=1, max=4, help="Sets of so many nodes; each holds all payments. Readers fail over to another."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the local stack: Kafka and ClickHouse on this machine's loopback, with their data under .paystream/.

    Starts only what is not running yet. Stop it with `paystream down`. A cluster has the name that
    PAYSTREAM_CLICKHOUSE_CLUSTER sets. Without --nodes it starts as it was before.

    Example: paystream up --broker kafka

    Example: PAYSTREAM_CLICKHOUSE_CLUSTER=paystream paystream up --nodes 2
    """
    settings = load_settings()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with errors.status("Starting the local stack (the first time, Apache Kafka is fetched)"):
            started = stack.start(settings, broker, nodes=nodes, sets=sets)
    except KeyboardInterrupt:
        raise PaystreamError(
            f"Local stack '{settings.home.resolve()}': starting it was interrupted, and what had been started is "
            "stopped again. Run `paystream up` to start it."
        ) from None
    for text in started.notes:
        note(text)
    status = "started" if started.started else "already running"
    if as_json:
        parts = [
            {"part": part.name, "kind": part.kind, "address": part.address, "pid": part.pid, "log": part.log}
            | ({"native_address": part.native_address} if part.native_address else {})
            | ({"set": part.set, "shard": part.shard} if part.shard else {})
            for part in started.parts
        ]
        print_json({"status": status, "started": started.started, "parts": parts})
    elif is_terminal():
        table = Table("part", "address", "pid", "log", title=f"Local stack: {status}", title_justify="left")
        for part in started.parts:
            native = f"\n{part.native_address} (native protocol)" if part.native_address else ""
            place = f"\nset {part.set}, shard {part.shard}" if part.shard else ""
            table.add_row(stack.LABELS[part.kind] + place, part.address + native, str(part.pid), part.log)
        console.print(table)
        addresses = [part.address for part in started.parts if part.shard]
        if len(addresses) > 1 and not settings.clickhouse_nodes:
            say("With this in .env, commands find the nodes also while the first one is away:")
            say(f"PAYSTREAM_CLICKHOUSE_NODES={','.join(addresses)}")
    else:
        fields = {"status": status, "started": ",".join(started.started) or "none"}
        for part in started.parts:
            fields |= {part.title: part.address}
            fields |= {f"{part.title}_native": part.native_address} if part.native_address else {}
            fields |= {f"{part.title}_set": part.set, f"{part.title}_shard": part.shard} if part.shard else {}
            fields |= {f"{part.title}_pid": part.pid, f"{part.title}_log": part.log}
        print_fields("up", fields)


def down(
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete the stack's topics, tables and logs. Asks nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the local stack. Its data stays, unless `--delete-data` says otherwise.

    Example: paystream down
    """
    settings = load_settings()
    with errors.status("Stopping the local stack"):
        stopped = stack.stop(settings)
        deleted = stack.delete_data(settings) if delete_data else []
    for stop in stopped:
        if stop.how == "killed":
            note(f"{stop.part.label} did not heed SIGTERM for {stack.STOP_TIMEOUT_S} s and was killed.")
    ended = {stop.part.title: stop.how for stop in stopped}
    status = "stopped" if {"stopped", "killed"} & set(ended.values()) else "nothing was running"
    if as_json:
        print_json({"status": status, "parts": ended, "deleted": deleted})
    elif is_terminal():
        how = "; ".join(
            f"{stop.part.label if stop.part.shard else stack.LABELS[stop.part.kind]}: {stop.how}" for stop in stopped
        )
        console.print(f"Local stack: {status}." + (f" {how}." if how else ""))
        if deleted:
            console.print(f"Deleted from {settings.home}: {', '.join(deleted)}.", markup=False, highlight=False)
    else:
        print_fields("down", {"status": status} | ended | {"deleted": ",".join(deleted) or "none"})


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
