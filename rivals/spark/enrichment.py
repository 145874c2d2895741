"""Merchants and exchange rates in memory, and the columns that they add to a batch."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from clickhouse import ClickHouse

SNAPSHOTS = (
    "SELECT (SELECT max(snapshot_id) FROM merchants) AS merchants, (SELECT max(snapshot_id) FROM fx_rates) AS rates"
)
MERCHANTS = """
SELECT merchant_id, merchant_name, toString(country) AS country, toString(category_code) AS category_code, snapshot_id
FROM merchants ORDER BY merchant_id
"""
RATES = """
SELECT toString(currency) AS currency, toInt32(valid_from) AS valid_from, toInt32(valid_to) AS valid_to, rate,
    toInt32(rate_date) AS rate_date, is_latest, toString(reporting_currency) AS reporting_currency, snapshot_id
FROM fx_rate_periods ORDER BY currency, valid_from
"""


class Dimensions:
    """One snapshot of both, sorted for binary search. It never changes: a new one takes its place.

    Attributes:
        snapshots: the numbers of the newest merchants and rates when they were read.
        complete: whether there are any of both.
    """

    def __init__(self, clickhouse: ClickHouse) -> None:
        self.snapshots = snapshots(clickhouse)
        self._merchants = clickhouse.read(MERCHANTS).combine_chunks()
        self._rates = clickhouse.read(RATES).combine_chunks()
        self._ids = self._merchants["merchant_id"].to_numpy()
        self._currencies = pc.unique(self._rates["currency"])
        places = pc.index_in(self._rates["currency"], self._currencies).to_numpy().astype(np.int64)
        self._periods = _period(places, self._rates["valid_from"].to_numpy())
        self._ends = _period(places, self._rates["valid_to"].to_numpy())
        self.complete = len(self._merchants) > 0 and len(self._rates) > 0

    def enrich(self, rows: pa.Table) -> pa.Table:
        """Return valid rows with merchant, rate and status, as transactions_mv.sql makes them."""
        merchant = self._merchants.take(_found(self._ids, rows["merchant_id"].to_numpy(), equal=True))

        day = rows["created_at"].cast(pa.int64()).to_numpy() // 86_400_000_000
        place = pc.index_in(rows["currency"], self._currencies).fill_null(-1).to_numpy().astype(np.int64)
        wanted = _period(place, day)
        begun = _found(self._periods, wanted, equal=False)
        holds = wanted <= self._ends[begun.fill_null(0).to_numpy()]
        fx = self._rates.take(pc.if_else(pa.array(holds & (place >= 0)), begun, None))

        # Exact: 18 and 38 digits need 57. Then half away from zero, as ClickHouse rounds decimals.
        product = pc.multiply(rows["amount"].cast(pa.decimal256(18, 4)), fx["rate"].cast(pa.decimal256(38, 12)))
        reporting = pc.round(product, 4, "half_towards_infinity").cast(pa.decimal128(38, 4))
        provisional = pc.and_(pc.equal(fx["is_latest"], 1), pc.less(fx["rate_date"], pa.array(day)))
        status = pc.if_else(
            pc.is_null(merchant["snapshot_id"]),
            "merchant_pending",
            pc.if_else(
                pc.is_null(fx["rate"]), "fx_pending", pc.if_else(provisional.fill_null(False), "fx_provisional", "ok")
            ),
        )
        added = {
            "merchant_name": merchant["merchant_name"].fill_null(""),
            "merchant_country": merchant["country"].fill_null(""),
            "merchant_category_code": merchant["category_code"].fill_null(""),
            "merchant_snapshot_id": merchant["snapshot_id"].fill_null(0),
            "fx_rate": fx["rate"],
            "fx_rate_date": fx["rate_date"].cast(pa.date32()),
            "amount_reporting": reporting,
            "reporting_currency": fx["reporting_currency"].fill_null(""),
            "fx_snapshot_id": fx["snapshot_id"].fill_null(0),
            "enrichment_status": status,
        }
        for name, values in added.items():
            rows = rows.append_column(name, values)
        return rows


def snapshots(clickhouse: ClickHouse) -> dict[str, int]:
    """Return the numbers of the newest merchants and rates. Raises as ``ClickHouse.read`` does."""
    return clickhouse.read(SNAPSHOTS).to_pylist()[0]


def _period(currency: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Return numbers that sort by currency, then by day."""
    return (currency << 32) + day


def _found(keys: np.ndarray, wanted: np.ndarray, *, equal: bool) -> pa.Array:
    """Return for each wanted key the place of the last of the sorted keys that is not above it; null if none is."""
    places = np.searchsorted(keys, wanted, side="right") - 1
    fit = places >= 0
    if equal:
        fit &= keys[np.maximum(places, 0)] == wanted
    return pa.array(places, mask=~fit)
