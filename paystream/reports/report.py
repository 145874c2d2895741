"""The reports of ``sql/4_report``, asked for a time and written as rows, CSV or Parquet."""

import time
from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from urllib3.exceptions import HTTPError

from paystream.errors import CheckFailed, PaystreamError, UsageError
from paystream.files import whole_file
from paystream.nodes import Nodes, find, naming
from paystream.schema import connected
from paystream.settings import Settings

WAIT_LIMIT_S = 180
"""Roll-ups are refreshed every 40 s; several times that is a fault and not a delay."""
ASK_EVERY_S = 1.0
CHUNK_BYTES = 1 << 20
SORT_BYTES = 1 << 28
"""More than this of a report is sorted on ClickHouse's disk, not in its memory."""

_FORMULA = r"'^[=+\\-@\\t\\r]'"

FORMATS = {"csv": "CSVWithNames", "parquet": "Parquet"}


@dataclass(frozen=True)
class Report:
    """One report: its view, what a row is, and how it is asked.

    ``order``: the columns of its key, by which rows are sorted. ``has_parameters``: the view takes the first and the
    last day as parameters instead of a condition on ``day``.
    """

    name: str
    grain: str
    order: str
    has_merchant: bool = False
    has_parameters: bool = False

    @property
    def view(self) -> str:
        return f"report_{self.name}"


REPORTS = {
    report.name: report
    for report in (
        Report(
            "settlement_by_day",
            "a merchant, day, currency and reporting currency: counts by status, gross, refunds, charge-backs, net",
            "day, merchant_id, currency, reporting_currency",
            has_merchant=True,
        ),
        Report(
            "merchant_by_day",
            "a merchant, day, currency, status and reporting currency",
            "day, merchant_id, currency, status, reporting_currency",
            has_merchant=True,
        ),
        Report(
            "merchant_ranking",
            "a merchant and reporting currency over all the days asked for, by net",
            "reporting_currency, place, merchant_id",
            has_merchant=True,
            has_parameters=True,
        ),
        Report(
            "volume_by_hour",
            "an hour, country, category and reporting currency",
            "hour, country, category_code, reporting_currency",
        ),
        Report(
            "currency_exposure_by_day",
            "a day, currency and reporting currency",
            "day, currency, reporting_currency",
        ),
        Report(
            "pending_by_day",
            "a day, what is waited for (merchant, rate, final rate), currency and reporting currency",
            "day, enrichment_status, currency, reporting_currency",
        ),
        Report(
            "latency_by_minute",
            "a minute of reading and topic: messages, late ones, percentiles",
            "minute, kafka_topic",
        ),
    )
}


_NEEDED = ["report_freshness", *(report.view for report in REPORTS.values())]


@dataclass(frozen=True)
class Asked:
    """A report for the days (UTC) from ``first`` to ``last``, both included, of one merchant or of all.

    ``for_spreadsheet``: a merchant's name that a spreadsheet would take for a formula has an apostrophe before it, as
    OWASP's "CSV Injection" advises.
    """

    report: Report
    first: date
    last: date
    merchant_id: int | None = None
    for_spreadsheet: bool = False

    def query(self) -> tuple[str, dict[str, Any]]:
        """Return the SELECT and its parameters."""
        parameters: dict[str, Any] = {"first": self.first, "last": self.last}
        source, conditions = self.report.view, []
        if self.report.has_parameters:
            source += "(first_day = {first:Date}, last_day = {last:Date})"
        else:
            conditions.append("day BETWEEN {first:Date} AND {last:Date}")
        if self.merchant_id is not None:
            conditions.append("merchant_id = {merchant_id:UInt32}")
            parameters["merchant_id"] = self.merchant_id
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        columns = "*"
        if self.for_spreadsheet and self.report.has_merchant:
            columns += f" REPLACE (if(match(merchant_name, {_FORMULA}), concat('\\'', merchant_name), merchant_name)"
            columns += " AS merchant_name)"
        return f"SELECT {columns} FROM {source}{where} ORDER BY {self.report.order}", parameters


@dataclass(frozen=True)
class Rows:
    """The first rows of a report. ``more``: whether there are further rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


def all_reports(client: Client) -> dict[str, Report]:
    """Return the reports by name: those that come with Paystream, and the project's own.

    A view ``report_…`` with a column ``day`` is one as soon as ``report_freshness`` lists it.
    """
    merchants = "hasAll(groupArray(name), ['merchant_id', 'merchant_name'])"
    rows = client.query(
        f"SELECT table, {merchants} FROM system.columns WHERE database = currentDatabase()"
        " AND table IN (SELECT report FROM report_freshness) GROUP BY table ORDER BY table"
    ).result_rows
    own = [
        Report(view.removeprefix("report_"), f"as {view} says in sql/4_report", "ALL", has_merchant=bool(has_merchant))
        for view, has_merchant in rows
    ]
    return {report.name: report for report in own} | REPORTS


def find_report(name: str, reports: Mapping[str, Report] = REPORTS) -> Report:
    """Return the report of this name, with or without ``report_``.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    short = name.lower().removeprefix("report_").replace("-", "_")
    if short in reports:
        return reports[short]
    near = get_close_matches(short, reports, 1)
    advice = f"Did you mean '{near[0]}'?" if near else f"Reports are {', '.join(reports)}."
    raise UsageError(f"Report '{name}': there is no such report. {advice}")


@contextmanager
def open_reports(settings: Settings) -> Iterator[Client]:
    """Open a client on a database that has the reports; of a cluster, on a node that answers.

    Raises:
        UsageError: the schema is older, or does not exist.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way, or no node of a shard answers.
    """
    nodes = find(settings)
    nodes.require_shards("Reports")
    with connected(nodes.entry, "Reports", "", _NEEDED) as client:
        yield client


def require_reports(nodes: Nodes) -> None:
    """Make sure that the database has the reports, on each node that answers.

    Raises:
        UsageError: the schema is older, or does not exist.
        ServiceUnavailable: ClickHouse cannot be reached.
    """
    for node in nodes.present:
        with naming(node, nodes), connected(node.settings, "Reports", "", _NEEDED):
            pass


def freshness(client: Client) -> dict[str, datetime | None]:
    """Return by view up to which time of reading it is complete; None before its first refresh."""
    rows = client.query("SELECT report, complete_until FROM report_freshness", tz_mode="aware").result_rows
    return {report: until if until.timestamp() > 0 else None for report, until in rows}


def wait_until_complete(client: Client, report: Report) -> datetime:
    """Wait until a report has everything that was read before this moment, and return up to when it is complete.

    Raises:
        CheckFailed: it still has not after ``WAIT_LIMIT_S`` seconds.
    """
    [[moment]] = client.query("SELECT now64(3, 'UTC')", tz_mode="aware").result_rows
    deadline = time.monotonic() + WAIT_LIMIT_S
    while True:
        until = freshness(client)[report.view]
        if until is not None and until >= moment:
            return until
        if time.monotonic() > deadline:
            said = f"until {until:%Y-%m-%d %H:%M:%S} UTC" if until else "for no time yet"
            raise CheckFailed(
                f"Report '{report.name}': after {WAIT_LIMIT_S} s it is complete {said} only. "
                "Look at `paystream status`; 'Reports are behind' in docs/runbook.md says what to do."
            )
        time.sleep(ASK_EVERY_S)


def check(client: Client, asked: Asked) -> None:
    """Refuse what can't have an answer.

    Raises:
        UsageError: a day that has not begun, or a merchant that neither the dimension nor a payment knows.
    """
    today = datetime.now(UTC).date()
    refuse_disorder(asked.first, asked.last)
    if asked.first > today:
        raise UsageError(
            f"Day '{asked.first}': it has not begun; days are UTC, and today is {today}. Ask for an earlier one."
        )
    if asked.merchant_id is None:
        return
    if not asked.report.has_merchant:
        able = ", ".join(report.name for report in REPORTS.values() if report.has_merchant)
        raise UsageError(f"Report '{asked.report.name}': it has no merchants. Leave --merchant out, or ask {able}.")
    known = client.query(
        "SELECT (SELECT count() FROM merchants WHERE merchant_id = {id:UInt32})"
        " + (SELECT count() FROM report_merchant_by_day WHERE merchant_id = {id:UInt32}"
        " AND day BETWEEN {first:Date} AND {last:Date})",
        parameters={"id": asked.merchant_id, "first": asked.first, "last": asked.last},
    ).result_rows[0][0]
    if not known:
        raise UsageError(
            f"Merchant '{asked.merchant_id}': it is not among the merchants, and no payment of those days is of it. "
            "Check the number."
        )


def read(client: Client, asked: Asked, limit: int) -> Rows:
    """Return the first ``limit`` rows of a report."""
    query, parameters = asked.query()
    answer = client.query(f"{query} LIMIT {limit + 1}", parameters=parameters, tz_mode="aware")
    return Rows(tuple(answer.column_names), list(answer.result_rows[:limit]), len(answer.result_rows) > limit)


def write(client: Client, asked: Asked, kind: str, target: IO[bytes], limit: int | None = None) -> int:
    """Write a report as ``kind`` of ``FORMATS``, as ClickHouse makes it, and return the bytes. Memory: a chunk.

    An error of ClickHouse halfway shows as an error here, never as a file that ends early.
    """
    query, parameters = asked.query()
    if limit is not None:
        query += f" LIMIT {limit}"
    written = 0
    settings = {
        # The whole answer is made before the first byte is sent, so that an error can still be told as one.
        "wait_end_of_query": 1,
        "output_format_parquet_string_as_string": 1,
        # What has no value is nothing between the commas: by default \N, which a spreadsheet takes for a text.
        "format_csv_null_representation": "",
        # A month of all merchants has ten million rows: as long as it is, and sorted on the disk.
        "max_result_bytes": 0,
        "max_bytes_before_external_sort": SORT_BYTES,
    }
    # A user who may only read can't change settings, and gets what the profile has.
    fixed = {name for name in settings if (known := client.server_settings.get(name)) and known.readonly}
    settings = {name: value for name, value in settings.items() if name not in fixed}
    with client.raw_stream(query, parameters=parameters, fmt=FORMATS[kind], settings=settings) as stream:
        while chunk := _read(stream):
            target.write(chunk)
            written += len(chunk)
    return written


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(CHUNK_BYTES)
    except HTTPError as error:  # which the client hands on as it is
        raise OperationalError(f"the connection was lost: {error}") from error


def export(client: Client, asked: Asked, kind: str, path: Path, limit: int | None = None) -> int:
    """Write a report into a file, which appears whole or not at all and replaces an older one. Returns its bytes.

    Raises:
        PaystreamError: the file cannot be written, as on a full disk; an older one is as it was.
    """
    try:
        with whole_file(path) as file:
            written = write(client, asked, kind, file, limit)
    except OSError as error:
        raise PaystreamError(
            f"File '{path}': it cannot be written: {error.strerror or error}. Make room, or name another with --out."
        ) from error
    return written


def stored_days(client: Client, local: Callable[[str], str] = str) -> list[date]:
    """Return the days (UTC) that there are payments of, or reports of payments that were deleted, in order.

    ``local`` turns SQL into that about the node's own share.
    """
    query = (
        "SELECT day FROM (SELECT DISTINCT toDate(created_at) AS day FROM transactions"
        " UNION DISTINCT SELECT toDate(hour) AS day FROM volume_hours FINAL WHERE notEmpty(payments)) ORDER BY day"
    )
    return [day for (day,) in client.query(local(query)).result_rows]


def refuse_disorder(first: date, last: date) -> None:
    """Raise a UsageError where the first day is after the last."""
    if first > last:
        raise UsageError(f"Days '{first}' to '{last}': the first is after the last. Exchange them.")


def month_of(text: str) -> tuple[date, date]:
    """Return the first and the last day of a month such as ``2026-11``.

    Raises:
        UsageError: it is not a month.
    """
    try:
        first = datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        raise UsageError(f"Month '{text}': not a month. Write it as 2026-11.") from None
    return first, first.replace(day=monthrange(first.year, first.month)[1])


def day_of(text: str) -> date:
    """Return a day such as ``2026-11-25``, ``today`` or ``yesterday`` (UTC).

    Raises:
        UsageError: it is not a day.
    """
    today = datetime.now(UTC).date()
    named = {"today": today, "yesterday": today - timedelta(days=1)}
    if text in named:
        return named[text]
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"Day '{text}': not a day. Write it as 2026-11-25, today or yesterday.") from None
