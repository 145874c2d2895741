"""One list of currencies: of payments, of quotes, and of what the generator sends."""

import re

from paystream.currencies import of_payments, of_rates
from paystream.loadtest.workload import load
from paystream.project import CHECKOUT


def test_ingest_lists_the_same_codes() -> None:
    text = (CHECKOUT / "sql" / "1_ingest" / "transactions_parsed_mv.sql").read_text()
    [listed] = re.findall(r"field\.currency NOT IN \((.*?)\)", text, re.DOTALL)
    codes = re.findall(r"'(\w+)'", listed)
    assert len(codes) == len(set(codes))
    assert set(codes) == of_payments()


def test_what_a_payment_is_in_can_be_quoted() -> None:
    assert of_payments() <= of_rates()
    assert {"ANG", "CUC", "SLL", "ZWL", "BGN", "HRK"} <= of_payments()
    assert not {"DEM", "LVL"} & of_payments()


def test_the_generator_sends_no_other() -> None:
    for path in (CHECKOUT / "loadtest" / "workloads").glob("*.yaml"):
        assert set(load(path.stem).currencies) <= of_payments(), path
