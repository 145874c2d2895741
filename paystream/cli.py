"""The ``paystream`` command: puts the commands of each part together and turns errors into one line."""

import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from paystream.errors import PaystreamError, ServiceUnavailable
from paystream.output import errors
from paystream.settings import name_project

app = typer.Typer(
    name="paystream",
    help="Kafka payments to deduplicated, enriched rows in ClickHouse, in under a second.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    project: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The project folder; else the nearest from the working directory upward."),
    ] = None,
) -> None:
    """Kafka payments to deduplicated, enriched rows in ClickHouse, in under a second."""
    if version:
        typer.echo(f"paystream {importlib.metadata.version('paystream')}")
        raise typer.Exit
    if project:
        name_project(project)


# Where each command is: a function, or a group of them.
_COMMANDS = {
    "init": "paystream.project_command:init",
    "upgrade": "paystream.project_command:upgrade",
    "up": "paystream.devstack.command:up",
    "down": "paystream.devstack.command:down",
    "migrate": "paystream.migrations.command:app",
    "cluster": "paystream.migrations.cluster_command:app",
    "dims": "paystream.loader.command:app",
    "demo": "paystream.loadtest.demo_command:demo",
    "loadtest": "paystream.loadtest.command:app",
    "report": "paystream.reports.command:report",
    "rollup": "paystream.reports.command:rollup_app",
    "audit": "paystream.audit.command:audit",
    "quarantine": "paystream.quarantine.command:app",
    "status": "paystream.status.command:status",
    "metrics": "paystream.status.command:metrics",
    "dashboard": "paystream.status.command:dashboard",
    "cost": "paystream.cost.command:app",
}
_CLASSES: dict[str, str] = {"status": "paystream.status.command:WatchCommand"}


def _assemble(wanted: str | None = None) -> None:
    """Put the commands together: all, or the wanted one alone, since importing all takes longer than many a command."""
    for name in [wanted] if wanted in _COMMANDS else _COMMANDS:
        command = _import(_COMMANDS[name])
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, cls=_import(_CLASSES[name]) if name in _CLASSES else None)(command)


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 a check failed, 2 wrong use, 3 a service cannot be reached."""
    # The word after --project is a folder, which may have a command's name.
    words = () if "--project" in sys.argv else sys.argv[1:]
    _assemble(next((word for word in words if not word.startswith("-")), None))
    try:
        app()
    except Exception as error:
        expected = error if isinstance(error, PaystreamError) else _of_a_service(error)
        if "--debug" in sys.argv or not expected:
            raise
        errors.print(f"error: {expected}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(expected.exit_code)


def _of_a_service(error: Exception) -> PaystreamError | None:
    """Return what a user is told of an error of ClickHouse or Kafka that no command has an answer to."""
    from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError
    from confluent_kafka import KafkaException

    from paystream.clickhouse import cause_of

    if isinstance(error, OperationalError):
        return ServiceUnavailable(f"ClickHouse was lost on the way: {cause_of(error)}. Run it again when it is back.")
    if isinstance(error, ClickHouseError):
        return PaystreamError(
            f"ClickHouse refused a statement: {cause_of(error)}. Correct the cause; --debug shows where it came from."
        )
    if isinstance(error, KafkaException):
        return ServiceUnavailable(f"Kafka stopped answering: {error.args[0].str()}. Check the broker, then run again.")
    return None
