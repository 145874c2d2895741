"""``paystream loadtest remove``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paystream.errors import UsageError
from paystream.loadtest.removal import remove as remove_run
from paystream.loadtest.report_file import parse, read_document
from paystream.output import errors, note, print_fields, print_json
from paystream.settings import load_settings


def remove(
    file: Annotated[Path, typer.Argument(help="The run's result, as `paystream loadtest run --json FILE` writes it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Remove a load test's own payments from the tables and the reports; all others stay.

    They are recognised by their ids, which follow from the result's seed. The topic keeps the messages until they
    expire: until then `paystream audit --deep` counts them as absent, and reading them again brings them back.

    Example: paystream loadtest remove result.json
    """
    result = parse(read_document(file))
    if result.seed is None or result.generator.planned is None:
        raise UsageError(f"Result '{file}': it has no seed or no number of messages. Name the result of a whole run.")
    settings = load_settings()
    doing = "Counting the load test's payments" if dry_run else "Taking the load test's payments out"
    with errors.status(doing) as status:
        done = remove_run(
            settings,
            result.seed,
            result.generator.planned,
            dry_run,
            lambda text: status.update(f"{doing}: {text}"),
        )
    if not done.payments + done.refused:
        note(
            f"database '{settings.clickhouse_database}' has nothing of this run: it was taken out before, or is in "
            "another database."
        )
    fields = {"status": "would remove" if dry_run else "removed", **asdict(done)}
    if as_json:
        print_json(fields)
    else:
        print_fields("loadtest_remove", fields)
