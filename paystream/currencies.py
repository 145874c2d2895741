"""The currency codes there are: for payments, rates and settings, one list."""

from functools import cache

import pycountry

WITHDRAWN = {
    "ROL": 2005, "TRL": 2005, "SIT": 2007, "CYP": 2008, "MTL": 2008, "SKK": 2009, "EEK": 2011, "LVL": 2014, "LTL": 2015,
    "CUC": 2021, "HRK": 2023, "SLL": 2023, "ZWL": 2024, "ANG": 2025, "BGN": 2026,
}  # fmt: skip
"""Codes that ISO 4217 has withdrawn, and the year (its list three, and the amendments to it): a payment or a quote of
before then has them."""

_DECIMALS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

MINOR_UNITS = {code: decimals for decimals, codes in _DECIMALS.items() for code in codes.split()}
"""Decimals of the currencies that have other than two (ISO 4217, list one)."""

PAYMENTS_SINCE = 2018
"""Older payments are refused (``created_at_too_old``), and with them every currency that was withdrawn before."""


@cache
def iso_4217() -> frozenset[str]:
    """Return the codes in force. Reading them takes a while, so not before somebody asks."""
    return frozenset(currency.alpha_3 for currency in pycountry.currencies)


@cache
def of_rates() -> frozenset[str]:
    """Return the codes that a quote may be of."""
    return iso_4217() | WITHDRAWN.keys()


@cache
def of_payments() -> frozenset[str]:
    """Return the codes that a payment may be in: those that sql/1_ingest/transactions_parsed_mv.sql lists."""
    return iso_4217() | {code for code, year in WITHDRAWN.items() if year >= PAYMENTS_SINCE}
