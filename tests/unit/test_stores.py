"""The schema and the reports for BigQuery and Snowflake, which do not run here.

Each statement is parsed in its dialect. Then all run as sqlglot translates them for DuckDB, on payments whose reports
the batch in plain Python computes too. ``on_demand``: Snowflake's run in fakesnow as well.
"""

import functools
import json
import os
import pickle
import random
import subprocess
import venv
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import batch
import duckdb
import pytest
import sqlglot
from checkouts import CHECKOUT
from sqlglot import exp

STORES = CHECKOUT / "rivals" / "stores"
DIALECTS = ["bigquery", "snowflake"]
FAKESNOW = ["fakesnow==0.12.1", "snowflake-connector-python==4.8.1"]
"""With version 5 of the connector it cannot be imported."""
ALONE = {**os.environ, "PYTHONPATH": ""}
"""So that nothing of this environment is taken for one of fakesnow's."""

Run = Callable[[list[str]], list[list[tuple]]]

MERCHANTS = {
    7: ("Sato Solar", "JP", "1711"),
    8: ("O'Neill Books", "IE", "5942"),
    9: ("Müller & Söhne", "DE", "5411"),
}
UNKNOWN_MERCHANT = 404
QUOTES = {
    "EUR": {
        date(2025, 2, 26): Decimal("1.0487"),
        # None on the 27th, a working day. The 28th, a Friday, stands for the weekend.
        date(2025, 2, 28): Decimal("1.041100000003"),
        date(2025, 3, 3): Decimal("1.0465"),
        date(2025, 3, 4): Decimal("1.0557"),
    },
    "JPY": {date(2025, 2, 28): Decimal("0.006666666667"), date(2025, 3, 4): Decimal("0.006712345679")},
    # Withdrawn: it holds for ten days more.
    "HRK": {date(2025, 2, 10): Decimal("0.138")},
    # A gap of more than ten days.
    "ISK": {date(2025, 2, 1): Decimal("0.0071"), date(2025, 3, 4): Decimal("0.0073")},
    "USD": {date(2025, 3, 3): Decimal(1), date(2025, 3, 4): Decimal(1)},
    # Its product with 0.0001 is just below half of the fourth decimal: rounded to 12 decimals first it would be half.
    "SGD": {date(2025, 3, 4): Decimal("0.499999999999")},
    # Its product with 0.0005 is half of the fourth decimal: away from zero is 0.0003, to even would be 0.0002.
    "BHD": {date(2025, 3, 4): Decimal("0.5")},
}
"""To USD. There is none for XAU."""


def message(number: int, merchant: int, amount: str, currency: str, created: str, *states: str) -> list[bytes]:
    """Return the messages of one payment, one a state, an hour apart."""
    created_at = datetime.fromisoformat(f"{created}Z")
    return [
        json.dumps(
            {
                "transaction_id": f"00000000-0000-4000-8000-{number:012d}",
                "merchant_id": merchant,
                "amount": amount,
                "currency": currency,
                "status": status,
                "created_at": created_at.isoformat(),
                "updated_at": (created_at + timedelta(hours=i, microseconds=i)).isoformat(),
            }
        ).encode()
        for i, status in enumerate(states)
    ]


MESSAGES = [
    *message(1, 7, "49.90", "EUR", "2025-03-04T09:15:04.120", "authorized", "captured", "settled"),
    *message(2, 7, "10.0001", "EUR", "2025-03-04T09:59:59.999999", "authorized", "captured", "refunded"),
    *message(3, 7, "5", "EUR", "2025-03-04T23:59:59.999999", "captured", "charged_back"),
    # Its later states are of the next day, the payment is not.
    *message(4, 8, "100.10", "EUR", "2025-03-04T23:30:00", "authorized", "captured"),
    *message(5, 8, "120000", "JPY", "2025-03-04T10:00:00", "captured"),
    *message(6, 8, "77.7777", "JPY", "2025-03-01T10:00:00", "captured"),
    # The weekend's is Friday's and final; the newest quote's, on later days, is not.
    *message(7, 9, "33.33", "EUR", "2025-03-02T00:00:00", "captured"),
    *message(8, 9, "44.44", "EUR", "2025-03-05T00:00:00", "captured"),
    *message(9, 9, "0.01", "EUR", "2025-03-20T12:00:00", "authorized"),
    # Before the first quote of all, where only the reporting currency has a rate.
    *message(10, 9, "15", "EUR", "2025-01-02T12:00:00", "captured"),
    *message(11, 9, "15", "USD", "2025-01-02T12:00:00", "captured"),
    *message(12, 9, "21.5", "USD", "2025-03-06T12:00:00", "settled"),
    *message(13, 7, "1000", "HRK", "2025-02-20T12:00:00", "captured"),
    *message(14, 7, "1000", "HRK", "2025-02-21T12:00:00", "captured"),
    *message(15, 7, "500", "ISK", "2025-02-11T12:00:00", "captured"),
    *message(16, 7, "500", "ISK", "2025-02-12T12:00:00", "captured"),
    *message(17, 7, "2.5", "XAU", "2025-03-04T09:30:00", "captured"),
    *message(18, UNKNOWN_MERCHANT, "60", "EUR", "2025-03-04T09:30:00", "captured"),
    *message(19, UNKNOWN_MERCHANT, "60", "XAU", "2025-03-04T09:30:00", "authorized"),
    *message(20, UNKNOWN_MERCHANT, "60", "EUR", "2025-03-05T09:30:00", "captured"),
    *message(21, 8, "0.0001", "SGD", "2025-03-04T11:00:00", "captured"),
    *message(22, 8, "0.0005", "BHD", "2025-03-04T11:00:00", "captured"),
    *message(23, 8, "99999999999999.9999", "JPY", "2025-03-04T11:00:00", "failed"),
    # As much as payment 12 is all that merchant 7 sells on that day: they share a place.
    *message(24, 7, "21.5", "USD", "2025-03-06T13:00:00", "captured"),
    # Nothing was taken: it is ranked, with 0.
    *message(25, 8, "9", "USD", "2025-03-06T13:00:00", "authorized", "failed"),
    # More digits than a double has.
    *message(26, 7, "12345678901234.5678", "EUR", "2025-03-04T11:00:00", "failed"),
]
READ_AT = datetime(2025, 3, 21, 8, 0, 0, tzinfo=UTC)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


@functools.cache
def parsed(dialect: str) -> dict[str, exp.Create]:
    """Return each file's statement by its name, tables first and views after what they are made from."""
    found = {
        path.stem: sqlglot.parse_one(path.read_text("utf-8"), read=dialect) for path in STORES.glob(f"{dialect}/*.sql")
    }
    ordered: dict[str, exp.Create] = {}
    while left := found.keys() - ordered.keys():
        ready = {name for name in left if made_from(found[name], dialect) & found.keys() <= ordered.keys()}
        assert ready, f"{left} are made from each other"
        ordered |= {name: found[name] for name in sorted(ready)}
    return ordered


def made_from(create: exp.Create, dialect: str) -> set[str]:
    query = query_of(create, dialect)
    return {table.name for table in query.find_all(exp.Table)} if query else set()


def query_of(create: exp.Create, dialect: str) -> exp.Query | None:
    """Return what a view or a table function selects; a table has nothing. Snowflake's functions have it as text."""
    body = create.expression
    return sqlglot.parse_one(body.name, read=dialect) if isinstance(body, exp.RawString) else body


def test_every_statement_parses_in_its_dialect(dialect):
    files = sorted(STORES.glob(f"{dialect}/*.sql"))
    assert files
    for path in files:
        [create] = sqlglot.parse(path.read_text("utf-8"), read=dialect)
        assert isinstance(create, exp.Create), path
        assert create.find(exp.Table).name == path.stem, "a file is named as its object is"
        for tree in filter(None, (create, query_of(create, dialect))):
            # What sqlglot does not know it keeps as text: a statement as Command, a function as Anonymous.
            assert not list(tree.find_all(exp.Command, exp.Anonymous)), path


def test_bigquerys_views_name_the_dataset():
    """BigQuery's rule: "A reference inside of a view must be qualified with a dataset" (Create views, limitations)."""
    for name, create in parsed("bigquery").items():
        within = {cte.alias for cte in create.find_all(exp.CTE)}
        assert all(table.db == "paystream" or table.name in within for table in create.find_all(exp.Table)), name


def test_snowflakes_product_keeps_all_its_decimals():
    """By Snowflake's rule (Arithmetic operators), which DuckDB lacks: min(s1 + s2, max(s1, s2, 12)) decimals."""
    [product] = parsed("snowflake")["transactions_current"].find_all(exp.Mul)
    _, scale = product.expression.to.expressions
    amount, rate, factor = 4, 12, int(scale.name)
    assert factor >= rate
    assert min(amount + factor, max(amount, factor, 12)) >= amount + rate


def test_every_file_says_its_row_its_guarantee_and_what_was_mended(dialect):
    for path in STORES.glob(f"{dialect}/*.sql"):
        head = path.read_text("utf-8").partition("CREATE")[0]
        places = [head.find(word) for word in ("-- One row: ", "Read by: ", "-- Guarantee: ")]
        assert -1 not in places and places == sorted(places), path
        assert "-- Mended: " in head or "-- Written by hand" in head, path


def test_both_stores_have_the_reports_of_payments_and_their_columns(dialect):
    creates = parsed(dialect)
    for path in (CHECKOUT / "sql" / "4_report").glob("report_*.sql"):
        ours = sqlglot.parse_one(path.read_text("utf-8"), read="clickhouse").expression.named_selects
        theirs = query_of(creates[path.stem], dialect).named_selects
        if path.stem in batch.REPORTS or path.stem == "report_merchant_ranking":
            assert theirs == [column for column in ours if column != "complete_until"], path.stem


def test_reports_are_those_of_the_batch(dialect):
    compare(dialect, lambda statements: in_duckdb(dialect, statements))


@pytest.mark.on_demand
@pytest.mark.timeout(900)
def test_snowflakes_reports_in_fakesnow_are_those_of_the_batch(tmp_path):
    """Needs a package index: fakesnow asks for an older sqlglot than ours, so it has an environment of its own."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *FAKESNOW], check=True, env=ALONE)
    compare("snowflake", lambda statements: in_fakesnow(python, statements))


def test_periods_of_rates(dialect):
    """By hand, as docs/dimensions.md has the rule."""
    quotes = [("USD", "2025-01-10", 1), ("EUR", "2025-03-01", 2), ("EUR", "2025-03-04", 3), ("HRK", "2025-02-10", 4)]
    quotes += [("ISK", "2025-02-01", 5), ("ISK", "2025-03-01", 6), ("JPY", "2025-02-22", 7), ("SEK", "2025-02-21", 8)]
    rows = [(currency, date.fromisoformat(day), rate, "USD", 12) for currency, day, rate in quotes]
    periods = (
        "SELECT currency, rate, valid_from, valid_to, is_latest FROM fx_rate_periods ORDER BY currency, valid_from"
    )
    *_, found = in_duckdb(dialect, [*schema(dialect), insert("fx_rates", rows), periods])
    assert [
        (currency, int(rate), f"{first:%F}", f"{last:%F}", latest) for currency, rate, first, last, latest in found
    ] == [
        ("EUR", 2, "2025-03-01", "2025-03-03", False),
        ("EUR", 3, "2025-03-04", "9999-12-31", True),
        ("HRK", 4, "2025-02-10", "2025-02-20", False),
        ("ISK", 5, "2025-02-01", "2025-02-11", False),
        ("ISK", 6, "2025-03-01", "9999-12-31", True),
        ("JPY", 7, "2025-02-22", "9999-12-31", True),
        ("SEK", 8, "2025-02-21", "2025-03-03", False),
        ("USD", 1, "1970-01-01", "2025-01-09", False),
        ("USD", 1, "2025-01-10", "9999-12-31", False),
    ]
    assert in_duckdb(dialect, [*schema(dialect), periods])[-1] == [], "without quotes there is no reporting currency"


def test_the_newest_state_is_the_one_sent_last_where_two_have_one_time(dialect):
    states, newest = [], []
    for number, (first, second) in enumerate([("captured", "settled"), ("settled", "captured")] * 2):
        sent = [*message(number, 7, "1", "USD", "2025-03-04T12:00:00", first)]
        sent += message(number, 7, "1", "USD", "2025-03-04T12:00:00", second)
        arrived = [state(text, 0, 2 * number + i) for i, text in enumerate(sent)]
        states += arrived if number < 2 else reversed(arrived)
        newest.append((second, 2 * number + 1))
    *_, rows = in_duckdb(
        dialect,
        [*filled(dialect, states), "SELECT status, kafka_offset FROM transactions_current ORDER BY kafka_offset"],
    )
    assert rows == newest


def test_freshness_and_latency(dialect):
    [text] = message(1, 7, "1", "USD", "2025-03-04T12:00:00", "captured")
    day = datetime(2025, 3, 4, 12, 30, tzinfo=UTC)
    # A hundred and one latencies from 0 to 100 s: the percentiles are the numbers that they are named for.
    waits = [timedelta(seconds=s) for s in range(101)]
    rows = [
        state(text, 3, offset, kafka_timestamp=day - wait, ingested_at=day + timedelta(milliseconds=offset))
        for offset, wait in enumerate(waits)
    ]
    # Its clock is ahead of the writer's.
    rows.append(state(text, 4, 900, kafka_timestamp=day + timedelta(hours=1), ingested_at=day + timedelta(minutes=9)))
    rows.append(state(text, 4, 901, kafka_timestamp=day, ingested_at=day + timedelta(minutes=9)))
    *_, freshness, latency = in_duckdb(
        dialect,
        [
            *filled(dialect, rows),
            "SELECT day, kafka_topic, kafka_partition, states, last_kafka_offset, last_ingested_at"
            " FROM report_freshness ORDER BY kafka_partition",
            "SELECT day, minute, timed, late, p50_s, p95_s, p99_s FROM report_latency_by_minute ORDER BY minute",
        ],
    )
    assert [(*row[:-1], utc(row[-1])) for row in freshness] == [
        (day.date(), "payments", 3, 101, 100, day + timedelta(milliseconds=100)),
        (day.date(), "payments", 4, 2, 901, day + timedelta(minutes=9)),
    ]
    (_, minute, *counts, p50, p95, p99), (_, later, *late_counts, _, worst, _) = latency
    assert (utc(minute), counts) == (day, [101, 0])
    # Approximate, by what each store says of its functions.
    assert [float(p50), float(p95), float(p99)] == pytest.approx([50, 95, 99], abs=1)
    assert (utc(later), late_counts) == (day + timedelta(minutes=9), [2, 1])
    assert 0 <= float(worst) <= 540


def compare(dialect: str, run: Run) -> None:
    """Deliver the payments late, twice and out of order, and hold every report of them against the batch."""
    chance = random.Random(20250304)
    # A producer may send a payment's states in any order, and a writer may deliver them in another.
    sent = list(enumerate(chance.sample(MESSAGES, len(MESSAGES))))
    deliveries = [*sent, *sent[::3], *sent[::5]]
    chance.shuffle(deliveries)
    rows = [
        state(text, offset % 4, offset, ingested_at=READ_AT + timedelta(milliseconds=i))
        for i, (offset, text) in enumerate(deliveries)
    ]
    # The reporting currency is 1 before its first quote too.
    quotes = {**QUOTES, "USD": {date(1970, 1, 1): Decimal(1), date(2025, 1, 1): Decimal(1), **QUOTES["USD"]}}
    payments = batch.payments(MESSAGES, MERCHANTS, quotes)
    assert {p.enrichment_status for p in payments} == {"ok", "merchant_pending", "fx_pending", "fx_provisional"}
    whole = (min(p.day for p in payments), max(p.day for p in payments))
    one_day = (date(2025, 3, 6), date(2025, 3, 6))

    *_, current = results = run(
        [
            *(setup := filled(dialect, rows)),
            *(f"SELECT {key}, {values} FROM {report}" for report, (_, key, values) in batch.REPORTS.items()),
            *(ranking(dialect, *days) for days in (whole, one_day)),
            "SELECT transaction_id, COUNT(*), MIN(amount_reporting) FROM transactions_current GROUP BY transaction_id",
        ]
    )
    results = results[len(setup) :]
    for (report, (recompute, key, _)), found in zip(batch.REPORTS.items(), results, strict=False):
        width = key.count(",") + 1
        texts = [tuple(hour(value) if isinstance(value, datetime) else value for value in row) for row in found]
        assert {row[:width]: row[width:] for row in texts} == recompute(payments), report
        assert len({row[:width] for row in texts}) == len(texts), f"{report} has rows of one key twice"
    for days, found in zip((whole, one_day), results[len(batch.REPORTS) :], strict=False):
        assert found == batch.report_merchant_ranking(payments, *days)
    assert [place for place, _, _ in batch.report_merchant_ranking(payments, *one_day)] == [1, 1, 3]

    amounts = {int(key[-12:]): amount for key, count, amount in current if count == 1}
    assert len(amounts) == 26
    # Computed by hand: 49.90 at 1.0557, then the two that only the right rounding gives, then one without a rate.
    assert [amounts[n] for n in (1, 21, 22, 17)] == [Decimal("52.6794"), Decimal("0.0000"), Decimal("0.0003"), None]


def state(
    text: bytes,
    partition: int,
    offset: int,
    kafka_timestamp: datetime = READ_AT - timedelta(seconds=1),
    ingested_at: datetime = READ_AT,
) -> tuple:
    """Return the row that a writer makes of a message."""
    fields = json.loads(text)
    return (
        fields["transaction_id"],
        datetime.fromisoformat(fields["created_at"]),
        fields["merchant_id"],
        Decimal(fields["amount"]),
        fields["currency"],
        fields["status"],
        datetime.fromisoformat(fields["updated_at"]),
        "payments",
        partition,
        offset,
        kafka_timestamp,
        ingested_at,
    )


def schema(dialect: str) -> list[str]:
    return [runnable(create, dialect) for create in parsed(dialect).values() if create.kind != "FUNCTION"]


def filled(dialect: str, states: list[tuple]) -> list[str]:
    """Return what makes the schema and puts the states, the merchants and the quotes into it."""
    merchants = [(merchant_id, *fields, 41) for merchant_id, fields in MERCHANTS.items()]
    rates = [(currency, day, rate, "USD", 12) for currency, days in QUOTES.items() for day, rate in days.items()]
    return [
        *schema(dialect),
        insert("transaction_states", states),
        insert("merchants", merchants),
        insert("fx_rates", rates),
    ]


def runnable(create: exp.Create, dialect: str) -> str:
    """Return the statement with ASOF JOIN in DuckDB's words, which sqlglot does not know; nothing else is changed."""
    create = create.copy()
    for join in create.find_all(exp.Join):
        if condition := join.args.get("match_condition"):
            join.set("match_condition", None)
            join.set("side", "LEFT")
            join.set("on", exp.and_(join.args["on"], condition))
    return create.sql(dialect=dialect)


def ranking(dialect: str, first_day: date, last_day: date) -> str:
    """Return the ranking's query as a call of the function runs it, since table functions are not translated."""
    query = query_of(parsed(dialect)["report_merchant_ranking"], dialect).copy()
    days = {"first_day": first_day, "last_day": last_day}
    for column in list(query.find_all(exp.Column)):
        if column.name in days:
            column.replace(exp.cast(exp.Literal.string(days[column.name].isoformat()), "date"))
    return (
        f"SELECT place, merchant_id, net_reporting FROM ({query.sql(dialect=dialect)}) AS ranking"
        " ORDER BY reporting_currency, place, merchant_id"
    )


def insert(table: str, rows: list[tuple]) -> str:
    return f"INSERT INTO {table} VALUES {', '.join('(' + ', '.join(map(literal, row)) + ')' for row in rows)}"


def literal(value: object) -> str:
    if isinstance(value, datetime):
        return f"'{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"
    if isinstance(value, str):
        # The way in which both dialects write a quote within a text.
        return "'" + value.replace("'", "\\'") + "'"
    return f"'{value}'" if isinstance(value, date) else str(value)


def in_duckdb(dialect: str, statements: list[str]) -> list[list[tuple]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # BigQuery's views must name the dataset, which is a schema here.
        connection.execute("CREATE SCHEMA paystream")
        connection.execute("USE paystream")
        return [connection.execute(translated(dialect, statement)).fetchall() for statement in statements]


@functools.cache
def translated(dialect: str, statement: str) -> str:
    [text] = sqlglot.transpile(statement, read=dialect, write="duckdb")
    return text


def in_fakesnow(python: Path, statements: list[str]) -> list[list[tuple]]:
    done = subprocess.run(
        [python, CHECKOUT / "tests" / "in_fakesnow.py"],
        input=pickle.dumps([with_exact_sums(statement) for statement in statements]),
        stdout=subprocess.PIPE,
        check=True,
        env=ALONE,
    )
    return pickle.loads(done.stdout)


def with_exact_sums(statement: str) -> str:
    """Return a statement for fakesnow, which adds up in doubles what is not cast. Snowflake's sums are exact."""
    tree = sqlglot.parse_one(statement, read="snowflake")
    for total in tree.find_all(exp.Sum):
        total.set("this", exp.cast(total.this, "DECIMAL(38, 4)"))
    return tree.sql(dialect="snowflake")


def utc(moment: datetime) -> datetime:
    """Return a moment with its zone: Snowflake's are in UTC without saying so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def hour(moment: datetime) -> str:
    return f"{utc(moment):%Y-%m-%dT%H:%M:%SZ}"
