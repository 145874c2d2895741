"""The message and the row that the README shows."""

import json
import re

from ingest import ingest_schema

from paystream.project import CHECKOUT
from paystream.settings import Settings

README = (CHECKOUT / "README.md").read_text()


def test_the_message_of_the_readme_becomes_the_row_of_the_readme(clickhouse_server: Settings) -> None:
    [message] = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    names, _, values = re.search(r"^\| (merchant_name .*)\n(\|[-|]+)\n\| (.*)$", README, re.MULTILINE).groups()
    expected = dict(zip(names.strip("| ").split(" | "), values.strip("| ").split(" | "), strict=True))
    columns = ", ".join(f"toString({name})" for name in expected)
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants((40304, "Sato Solar", "JP", "5734"))
        ingest.load_rates(("EUR", "2026-11-27", "1.16"))
        ingest.deliver(message)
        assert ingest.rows(f"SELECT {columns} FROM transactions_current") == [tuple(expected.values())]


def test_the_contract_of_the_readme_names_each_field_of_the_message() -> None:
    [message] = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    contract = README.split("The contract, field by field.")[1].split("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", contract, re.MULTILINE) == list(json.loads(message))
