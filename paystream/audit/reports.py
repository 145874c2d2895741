"""The audit of the reports: what the roll-ups say against what they are computed from."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from clickhouse_connect.driver.client import Client

from paystream.nodes import Node, each, find
from paystream.reports.report import require_reports, stored_days
from paystream.reports.rollup import localized
from paystream.settings import Settings

RECENT = 4
"""The newest half hours, the current one among them: these are always compared."""
SHOWN = 20
"""Differences that are listed; all are counted."""

_KEY = "merchant_id, currency, status, reporting_currency, enrichment_status, country, category_code"
_OF_PAYMENTS = ", ".join(f"p.{name} AS {name}" for name in _KEY.split(", ")[1:])
# The roll-up by day knows no more than this of a payment.
_OF_DAYS = (
    "p.currency AS currency, p.status AS status, p.reporting_currency AS reporting_currency, "
    "'' AS enrichment_status, '' AS country, '' AS category_code"
)
_SUMS = "toInt64(sum(p.transactions)) AS n, sum(p.amount) AS a, sum(p.amount_reporting) AS r"
_NEGATIVE = "-toInt64(p.transactions), -p.amount, -p.amount_reporting"
_SLOT = "toStartOfInterval(created_at, INTERVAL 30 MINUTE)"
_BUCKETS = "{buckets:Array(DateTime('UTC'))}"
_DAYS = "{days:Array(Date)}"

# Signed, so that what agrees cancels out: what a roll-up is made of, less what it says. Buckets of which something
# was written since are left out: they are computed again within a minute.
_COMPARE = f"""
SELECT
    bucket, {_KEY},
    sum(n) AS transactions, sum(a) AS amount, sum(r) AS amount_reporting,
    count() OVER () AS differences
FROM
(
    {{truth}}
    UNION ALL
    {{rollup}}
)
WHERE (bucket, merchant_id) NOT IN ({{unsettled}})
GROUP BY bucket, {_KEY}
HAVING transactions != 0 OR amount != 0 OR amount_reporting != 0
ORDER BY bucket, {_KEY}
LIMIT {SHOWN}
SETTINGS do_not_merge_across_partitions_select_final = 1
"""

_CHANGED_SLOTS = """
    SELECT {bucket}, {merchant} FROM merchant_slots
    WHERE toDate(slot) IN {days}
        AND complete_until > (SELECT max(complete_until) FROM rollup_state WHERE view = '{view}')
"""

_LEVELS = {
    "merchant_slots": {
        "truth": f"""
            SELECT
                {_SLOT} AS bucket, merchant_id, currency, status, reporting_currency, enrichment_status,
                merchant_country AS country, merchant_category_code AS category_code,
                toInt64(count()) AS n, sum(t.amount) AS a, sum(ifNull(t.amount_reporting, 0)) AS r
            FROM transactions AS t FINAL
            WHERE toDate(created_at) IN {_DAYS} AND bucket IN {_BUCKETS}
            GROUP BY bucket, {_KEY}
        """,
        "rollup": f"""
            SELECT slot, merchant_id, {_OF_PAYMENTS}, {_NEGATIVE}
            FROM merchant_slots FINAL ARRAY JOIN payments AS p
            WHERE toDate(slot) IN {_DAYS} AND slot IN {_BUCKETS}
        """,
        "unsettled": f"""
            SELECT {_SLOT}, merchant_id FROM transactions
            WHERE toDate(created_at) IN {_DAYS} AND {_SLOT} IN {_BUCKETS}
                AND enriched_at > (
                    SELECT ifNull(max(settled_until), toDateTime64(0, 3)) FROM rollup_state
                    WHERE view = 'merchant_slots_mv')
        """,
    },
    "merchant_days": {
        "truth": f"""
            SELECT
                toStartOfDay(slot) AS bucket, merchant_id, {_OF_DAYS},
                {_SUMS}
            FROM merchant_slots FINAL ARRAY JOIN payments AS p
            WHERE toDate(slot) IN {_DAYS} AND toDate(slot) < {{first_open_day:Date}}
            GROUP BY ALL
        """,
        "rollup": f"""
            SELECT toDateTime(day, 'UTC'), merchant_id, {_OF_DAYS}, {_NEGATIVE}
            FROM merchant_days FINAL ARRAY JOIN payments AS p
            WHERE day IN {_DAYS} AND day < {{first_open_day:Date}}
        """,
        "unsettled": _CHANGED_SLOTS.format(
            bucket="toStartOfDay(slot)", merchant="merchant_id", days=_DAYS, view="merchant_days_mv"
        ),
    },
    "volume_hours": {
        "truth": f"""
            SELECT toStartOfHour(slot) AS bucket, 0 AS merchant_id, {_OF_PAYMENTS}, {_SUMS}
            FROM merchant_slots FINAL ARRAY JOIN payments AS p
            WHERE toDate(slot) IN {_DAYS}
            GROUP BY ALL
        """,
        "rollup": f"""
            SELECT hour, 0, {_OF_PAYMENTS}, {_NEGATIVE}
            FROM volume_hours FINAL ARRAY JOIN payments AS p
            WHERE toDate(hour) IN {_DAYS}
        """,
        "unsettled": _CHANGED_SLOTS.format(
            bucket="toStartOfHour(slot)", merchant="0", days=_DAYS, view="volume_hours_mv"
        ),
    },
}


@dataclass(frozen=True)
class Difference:
    """One group of payments of one bucket in which a roll-up is wrong: what it lacks; negative, what it has too much.

    Amounts are in the payments' own currency and in the reporting currency.
    """

    rollup: str
    bucket: datetime
    merchant_id: int
    currency: str
    status: str
    reporting_currency: str
    enrichment_status: str
    country: str
    category_code: str
    transactions: int
    amount: Decimal
    amount_reporting: Decimal


@dataclass(frozen=True)
class ReportAudit:
    """What an audit of the reports found.

    Attributes:
        slots: half hours that were compared with the transactions themselves.
        days: days whose sums were compared with their half hours.
        differences: how many there are; ``examples`` the first of them.
        complete_until: what was written later was left out; None before the first refresh.
        unseen: which nodes did not answer, and why.
    """

    slots: list[datetime]
    days: list[date]
    differences: int
    examples: list[Difference]
    complete_until: datetime | None
    unseen: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "drift" if self.differences else "incomplete" if self.unseen else "equal"


def audit_reports(settings: Settings, older: int) -> ReportAudit:
    """Compare the newest half hours, and ``older`` ones that chance chooses, with the payments; and sums with parts.

    Each half hour costs a look at its day's transactions.

    Raises:
        UsageError: the schema is older, or does not exist.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """
    nodes = find(settings)
    local = localized(nodes)

    def compare(node: Node, client: Client) -> ReportAudit:
        return _compare(client, older, local)

    require_reports(nodes)
    audits = [audit for _, audit in each(nodes, "Reports", compare)]
    until = [audit.complete_until for audit in audits]
    return ReportAudit(
        sorted({slot for audit in audits for slot in audit.slots}),
        sorted({day for audit in audits for day in audit.days}),
        sum(audit.differences for audit in audits),
        [example for audit in audits for example in audit.examples][:SHOWN],
        None if None in until else min(until),
        [str(node) for node in nodes.away],
    )


def _compare(client: Client, older: int, local: Callable[[str], str]) -> ReportAudit:
    """Compare what one server holds."""
    slots = _choose(client, older, local)
    days = sorted({slot.date() for slot in slots})
    state = dict(client.query(local("SELECT view, complete_until FROM rollup_state"), tz_mode="aware").result_rows)
    [[first_open_day]] = client.query(
        local("SELECT toDate(max(began_at)) FROM rollup_state WHERE view = 'merchant_days_mv'")
    ).result_rows
    parameters = {"buckets": slots, "days": days, "first_open_day": first_open_day}
    total, examples = 0, []
    for rollup, level in _LEVELS.items():
        query = local(_COMPARE.format(**level))
        rows = client.query(query, parameters=parameters, tz_mode="aware").result_rows
        total += next((differences for *_, differences in rows), 0)
        examples += [Difference(rollup, *difference) for *difference, _ in rows]
    return ReportAudit(slots, days, total, examples[:SHOWN], state.get("merchant_slots_mv"))


def _choose(client: Client, older: int, local: Callable[[str], str]) -> list[datetime]:
    # Those of transactions, so that a bucket that the roll-up lacks altogether is found too, and those it alone has.
    days = stored_days(client, local)
    if not days:
        return []
    chosen = {*_slots(client, days[-2:], local)[-RECENT:], *_orphans(client, local)}
    for day in random.choices(days, k=older):
        chosen.add(random.choice(_slots(client, [day], local)))
    return sorted(chosen)


def _slots(client: Client, days: list[date], local: Callable[[str], str]) -> list[datetime]:
    query = f"""
        SELECT slot
        FROM
        (
            SELECT DISTINCT {_SLOT} AS slot FROM transactions WHERE toDate(created_at) IN {_DAYS}
            UNION DISTINCT
            SELECT slot FROM merchant_slots FINAL WHERE toDate(slot) IN {_DAYS} AND notEmpty(payments)
        )
        ORDER BY slot
    """
    return [slot for (slot,) in client.query(local(query), parameters={"days": days}, tz_mode="aware").result_rows]


def _orphans(client: Client, local: Callable[[str], str]) -> list[datetime]:
    """Return half hours that have sums and no payment any more, the newest; among them some that were emptied since."""
    query = f"""
        SELECT DISTINCT slot FROM merchant_slots WHERE slot NOT IN (SELECT {_SLOT} FROM transactions)
        ORDER BY slot DESC LIMIT {SHOWN}
    """
    return [slot for (slot,) in client.query(local(query), tz_mode="aware").result_rows]
