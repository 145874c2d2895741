"""The nightly batch, in plain Python: every report recomputed from the messages, however they were delivered.

It shares nothing with the pipeline but the meaning of the message. Money is exact; days and hours are UTC.
"""

import json
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from clickhouse_connect.driver.client import Client

TAKEN = {"captured", "settled", "refunded", "charged_back"}
"""Money was taken, whether or not it went back later."""
KEPT = {"captured", "settled"}
REPORTING_CURRENCY = "USD"
QUOTE_HOLDS = timedelta(days=10)
"""After its own day, where no newer quote follows."""


@dataclass(frozen=True)
class Payment:
    """One payment in its newest state, enriched."""

    created_at: datetime
    merchant_id: int
    merchant_name: str
    country: str
    category_code: str
    currency: str
    status: str
    amount: Decimal
    amount_reporting: Decimal | None
    enrichment_status: str

    @property
    def day(self) -> date:
        return self.created_at.date()

    @property
    def reporting_currency(self) -> str:
        return "" if self.amount_reporting is None else REPORTING_CURRENCY


def dimensions(client: Client) -> tuple[dict[int, tuple[str, str, str]], dict[str, dict[date, Decimal]]]:
    """Return the merchants and the quotes that are loaded, as ``payments`` takes them."""
    query = "SELECT merchant_id, merchant_name, country, category_code FROM merchants"
    merchants = {row[0]: row[1:] for row in client.query(query).result_rows}
    quotes: dict[str, dict[date, Decimal]] = defaultdict(dict)
    for currency, day, rate in client.query("SELECT currency, rate_date, rate FROM fx_rates").result_rows:
        quotes[currency][day] = rate
    return merchants, dict(quotes)


def payments(
    messages: Iterable[bytes],
    merchants: Mapping[int, tuple[str, str, str]],
    quotes: Mapping[str, Mapping[date, Decimal]],
) -> list[Payment]:
    """Return what the messages come to: each payment once, in the state with the latest ``updated_at``.

    Args:
        messages: valid ones, in any order, any number of times.
        merchants: name, country and category code by id; those missing are not known yet.
        quotes: to USD, by currency and day. A payment takes the last one up to its day, if that is at most 10 days old.
            A currency's last one holds longer while the currency is still quoted, that is while the newest quote of
            all is at most 10 days younger; on later days it is provisional, but for USD itself.
    """
    newest: dict[str, dict[str, Any]] = {}
    for text in messages:
        state = json.loads(text, parse_float=Decimal)
        known = newest.get(state["transaction_id"])
        if known is None or _moment(state["updated_at"]) > _moment(known["updated_at"]):
            newest[state["transaction_id"]] = state
    payments = []
    quoted = {currency: sorted(days) for currency, days in quotes.items()}
    newest_quote = max((days[-1] for days in quoted.values() if days), default=date.min)
    for state in newest.values():
        created_at, amount = _moment(state["created_at"]), Decimal(state["amount"])
        merchant = merchants.get(state["merchant_id"])
        days = quotes.get(state["currency"], {})
        up_to = quoted.get(state["currency"], [])
        place = bisect_right(up_to, created_at.date())
        quoted_on = up_to[place - 1] if place else None
        still_quoted = quoted_on is not None and quoted_on == up_to[-1] and quoted_on + QUOTE_HOLDS >= newest_quote
        if quoted_on is not None and not still_quoted and quoted_on + QUOTE_HOLDS < created_at.date():
            quoted_on = None
        reporting = None
        if quoted_on is not None:
            reporting = (amount * days[quoted_on]).quantize(Decimal("0.0001"), rounding=ROUND_HALF_UP)
        if merchant is None:
            enrichment = "merchant_pending"
        elif quoted_on is None:
            enrichment = "fx_pending"
        elif still_quoted and quoted_on < created_at.date() and state["currency"] != REPORTING_CURRENCY:
            enrichment = "fx_provisional"
        else:
            enrichment = "ok"
        name, country, category_code = merchant or ("", "", "")
        payments.append(
            Payment(
                created_at,
                state["merchant_id"],
                name,
                country,
                category_code,
                state["currency"],
                state["status"],
                amount,
                reporting,
                enrichment,
            )
        )
    return payments


def report_merchant_by_day(payments: list[Payment]) -> dict[tuple, tuple]:
    groups = _grouped(payments, lambda p: (p.day, p.merchant_id, p.currency, p.status, p.reporting_currency))
    return {
        key: (
            group[0].merchant_name,
            len(group),
            _sum(group),
            _reporting(group, key[-1]),
            sum(p.amount_reporting is None for p in group),
            sum(p.enrichment_status == "fx_provisional" for p in group),
        )
        for key, group in groups.items()
    }


def report_settlement_by_day(payments: list[Payment]) -> dict[tuple, tuple]:
    groups = _grouped(payments, lambda p: (p.day, p.merchant_id, p.currency, p.reporting_currency))
    statuses = ["authorized", "captured", "settled", "refunded", "charged_back", "failed"]
    return {
        key: (
            len(group),
            *(sum(p.status == status for p in group) for status in statuses),
            _sum(_of(group, {"authorized"})),
            _sum(_of(group, TAKEN)),
            _sum(_of(group, {"refunded"})),
            _sum(_of(group, {"charged_back"})),
            _sum(_of(group, KEPT)),
            _reporting(_of(group, TAKEN), key[-1]),
            _reporting(_of(group, {"refunded"}), key[-1]),
            _reporting(_of(group, {"charged_back"}), key[-1]),
            _reporting(_of(group, KEPT), key[-1]),
        )
        for key, group in groups.items()
    }


def report_volume_by_hour(payments: list[Payment]) -> dict[tuple, tuple]:
    groups = _grouped(
        payments,
        lambda p: (
            f"{p.created_at:%Y-%m-%dT%H}:00:00Z",
            p.country,
            p.category_code,
            p.reporting_currency,
        ),
    )
    return {
        key: (
            len(group),
            sum(p.status == "failed" for p in group),
            _reporting(_of(group, TAKEN), key[-1]),
            _reporting(_of(group, KEPT), key[-1]),
        )
        for key, group in groups.items()
    }


def report_currency_exposure_by_day(payments: list[Payment]) -> dict[tuple, tuple]:
    groups = _grouped(payments, lambda p: (p.day, p.currency, p.reporting_currency))
    return {
        key: (
            len(group),
            _sum(_of(group, {"authorized"})),
            _sum(_of(group, TAKEN)),
            _sum(_of(group, KEPT)),
            _reporting(_of(group, KEPT), key[-1]),
            _reporting([p for p in _of(group, KEPT) if p.enrichment_status == "fx_provisional"], key[-1]),
        )
        for key, group in groups.items()
    }


def report_pending_by_day(payments: list[Payment]) -> dict[tuple, tuple]:
    groups = _grouped(
        [p for p in payments if p.enrichment_status != "ok"],
        lambda p: (p.day, p.enrichment_status, p.currency, p.reporting_currency),
    )
    return {key: (len(group), _sum(group), _reporting(group, key[-1])) for key, group in groups.items()}


def report_merchant_ranking(payments: list[Payment], first_day: date, last_day: date) -> list[tuple[int, int, Decimal]]:
    """Return (place, merchant, net in USD), the first place first."""
    inside = [p for p in payments if p.amount_reporting is not None and first_day <= p.day <= last_day]
    nets = {
        merchant_id: _sum_reporting(_of(group, KEPT))
        for merchant_id, group in _grouped(inside, lambda p: p.merchant_id).items()
    }
    ascending = sorted(nets.values())
    places = sorted(nets.items(), key=lambda item: (-item[1], item[0]))
    return [(1 + len(nets) - bisect_right(ascending, net), merchant_id, net) for merchant_id, net in places]


REPORTS = {
    "report_merchant_by_day": (
        report_merchant_by_day,
        "day, merchant_id, currency, status, reporting_currency",
        "merchant_name, transactions, amount, amount_reporting, transactions_without_rate, "
        "transactions_with_provisional_rate",
    ),
    "report_settlement_by_day": (
        report_settlement_by_day,
        "day, merchant_id, currency, reporting_currency",
        "transactions, authorized, captured, settled, refunded, charged_back, failed, authorized_amount, gross, "
        "refunds, charge_backs, net, gross_reporting, refunds_reporting, charge_backs_reporting, net_reporting",
    ),
    "report_volume_by_hour": (
        report_volume_by_hour,
        "hour, country, category_code, reporting_currency",
        "transactions, failed, gross_reporting, net_reporting",
    ),
    "report_currency_exposure_by_day": (
        report_currency_exposure_by_day,
        "day, currency, reporting_currency",
        "transactions, authorized_amount, gross, net, net_reporting, net_reporting_provisional",
    ),
    "report_pending_by_day": (
        report_pending_by_day,
        "day, enrichment_status, currency, reporting_currency",
        "transactions, amount, amount_reporting",
    ),
}
"""By report: its recomputation, the columns of its key, and those of its values."""

ROLLUPS = ["merchant_slots_mv", "merchant_days_mv", "volume_hours_mv", "latency_minutes_mv"]
"""In the order in which they build on each other."""


def complete_reports(client: Client, limit_s: float = 60, beside: Sequence[Client] = ()) -> None:
    """Refresh the roll-ups until reports have all that was stored before this moment, which takes some seconds.

    ``beside`` are the other nodes of a cluster: each computes its own share.
    """
    [[moment]] = client.query("SELECT now64(3)").result_rows
    deadline = time.monotonic() + limit_s
    while (reached := client.query("SELECT min(complete_until) FROM report_freshness").result_rows[0][0]) <= moment:
        failed = client.query("SELECT view, exception FROM system.view_refreshes WHERE exception != ''").result_rows
        assert time.monotonic() < deadline, failed
        # Reports are complete up to some seconds before a refresh: to begin one earlier would only cost its work.
        time.sleep(min(max((moment - reached).total_seconds(), 0.05), 5))
        for view in ROLLUPS:
            for node in (client, *beside):
                node.command(f"SYSTEM REFRESH VIEW {view}")
                node.command(f"SYSTEM WAIT VIEW {view}")


def compare(client: Client, payments: list[Payment]) -> None:
    """Hold every report of payments against its recomputation, to the last digit."""
    for report, (recompute, key, values) in REPORTS.items():
        width = key.count(",") + 1
        # The client gives times in UTC without saying so.
        said = key.replace("hour", "formatDateTime(hour, '%FT%TZ')")
        rows = client.query(f"SELECT {said}, {values} FROM {report}").result_rows
        assert {row[:width]: row[width:] for row in rows} == recompute(payments), report
        assert len({row[:width] for row in rows}) == len(rows), f"{report} has rows of one key twice"
    days = sorted({p.day for p in payments})
    for first, last in [(days[0], days[-1]), (days[-1], days[-1])]:
        ranking = client.query(
            "SELECT place, merchant_id, net_reporting"
            " FROM report_merchant_ranking(first_day = {first:Date}, last_day = {last:Date})",
            parameters={"first": first, "last": last},
        )
        assert ranking.result_rows == report_merchant_ranking(payments, first, last)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _grouped(payments: Iterable[Payment], key) -> dict[Any, list[Payment]]:
    groups = defaultdict(list)
    for payment in payments:
        groups[key(payment)].append(payment)
    return groups


def _of(group: list[Payment], statuses: set[str]) -> list[Payment]:
    return [p for p in group if p.status in statuses]


def _sum(group: list[Payment]) -> Decimal:
    return sum((p.amount for p in group), Decimal(0))


def _sum_reporting(group: list[Payment]) -> Decimal:
    return sum((p.amount_reporting for p in group if p.amount_reporting is not None), Decimal(0))


def _reporting(group: list[Payment], reporting_currency: str) -> Decimal | None:
    return _sum_reporting(group) if reporting_currency else None
