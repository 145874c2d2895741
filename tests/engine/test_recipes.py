"""The recipes of docs/recipes.md, walked: edit, draft, lint, apply, and a payment shows that it worked."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from checkouts import Checkout
from ingest import Ingest, ingest_schema

from paystream.migrations.history import Version, read_history
from paystream.migrations.lint import lint_files
from paystream.project import CHECKOUT
from paystream.settings import Settings

NOW = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def ingest(clickhouse_server: Settings) -> Iterator[Ingest]:
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants((1, "Bakery", "DE", "5462"))
        ingest.load_rates(("EUR", NOW[:10], "1.1"))
        yield ingest


@pytest.fixture
def migrate(checkout: Checkout, engine: Settings, ingest: Ingest) -> Callable[[str], None]:
    """A function that writes the next version from the edited files and runs it where payments are delivered."""

    def run(name: str) -> None:
        draft = checkout.new(name, engine)
        assert draft.unwritten == 0
        assert lint_files(checkout.root) == []
        version: Version = read_history(checkout.versions)[-1]
        for statement in version.statements:
            ingest.client.command(statement)

    return run


def payment(**fields: str) -> str:
    standard = {"transaction_id": str(uuid.uuid4()), "merchant_id": 1, "amount": "10.00", "currency": "EUR"}
    return json.dumps(standard | {"status": "captured", "created_at": NOW, "updated_at": NOW} | fields)


def test_add_a_status(checkout: Checkout, ingest: Ingest, migrate: Callable[[str], None]) -> None:
    ingest.deliver(payment(status="disputed"))
    assert ingest.rows("SELECT reason FROM quarantine") == [("status_unknown",)]
    checkout.edit("transactions_parsed_mv", ("'charged_back', 'failed')", "'charged_back', 'failed', 'disputed')"))
    migrate("status_disputed")
    ingest.deliver(payment(status="disputed"))
    assert ingest.rows("SELECT status FROM transactions_current") == [("disputed",)]


def test_add_a_currency(checkout: Checkout, ingest: Ingest, migrate: Callable[[str], None]) -> None:
    ingest.deliver(payment(currency="XQZ"))
    assert ingest.rows("SELECT reason FROM quarantine") == [("currency_unknown",)]
    checkout.edit("transactions_parsed_mv", ("'ZMW', 'ZWG',\n", "'ZMW', 'ZWG', 'XQZ',\n"))
    migrate("currency_xqz")
    ingest.deliver(payment(currency="XQZ"))
    assert ingest.rows("SELECT currency, enrichment_status FROM transactions_current") == [("XQZ", "fx_pending")]
    ingest.load_rates(("XQZ", NOW[:10], "0.5"), snapshot_id=2)
    ingest.deliver(payment(currency="XQZ"))
    assert ingest.rows(
        "SELECT toString(amount_reporting) FROM transactions_current WHERE enrichment_status != 'fx_pending'"
    ) == [("5",)]


def test_the_page_has_these_recipes() -> None:
    headings = [line for line in (CHECKOUT / "docs/recipes.md").read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## Add a report", "## Add a currency", "## Add a transaction status"]
