"""The ``paystream`` command: puts the commands of each part together and turns errors into one line."""

import importlib.metadata
import sys

import typer

from paystream.errors import PaystreamError
from paystream.output import errors

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
) -> None:
    """Kafka payments to deduplicated, enriched rows in ClickHouse, in under a second."""
    if version:
        typer.echo(f"paystream {importlib.metadata.version('paystream')}")
        raise typer.Exit


def _assemble() -> None:
    from devstack.commands import down, up
    from loader.commands import app as dims
    from loadtest.commands import app as loadtest
    from migrations.commands import app as migrate
    from paystream.audit_command import audit
    from paystream.quarantine_commands import app as quarantine
    from paystream.status import status

    app.command()(up)
    app.command()(down)
    app.add_typer(migrate, name="migrate")
    app.add_typer(dims, name="dims")
    app.add_typer(loadtest, name="loadtest")
    app.command()(audit)
    app.add_typer(quarantine, name="quarantine")
    app.command()(status)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 a check failed, 2 wrong use, 3 a service cannot be reached."""
    _assemble()
    try:
        app()
    except PaystreamError as error:
        if "--debug" in sys.argv:
            raise
        errors.print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(error.exit_code)
