"""``paystream migrate cluster``."""

from typing import Annotated

import typer

from migrations.history import read_history
from paystream.output import print_json
from paystream.settings import load_settings


def cluster(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The cluster, as the servers' remote_servers names it.")],
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Print what takes the versions back, newest first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the statements of all versions for a replicated, sharded cluster, as one SQL script. Runs nothing.

    Example: paystream migrate cluster payments
    """
    # sqlglot, which this takes, is not for the other commands of `migrate` to wait for.
    from migrations.cluster import cluster_of, render

    target = cluster_of(name, load_settings().clickhouse_database)
    versions = reversed(read_history()) if rollback else read_history()
    rendered = {
        version.id: [
            text
            for statement in (reversed(version.rollbacks) if rollback else version.statements)
            for text in render(statement, target)
        ]
        for version in versions
    }
    if as_json:
        print_json([{"version": version, "statements": statements} for version, statements in rendered.items()])
        return
    for version, statements in rendered.items():
        print(f"-- version {version}{': rollback' if rollback else ''}\n")
        for statement in statements:
            print(f"{statement}\n;\n")
