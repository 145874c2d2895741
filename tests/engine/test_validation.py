"""Any bytes on the topic: stored exactly, or refused with a reason and kept whole."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pycountry
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest import Ingest, ingest_schema
from judged import CASES
from payments import message, payment, rfc3339


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        yield ingest


def verdicts(ingest: Ingest, *messages: bytes) -> list[str]:
    """Return per message the reason it was refused for, '' where it was stored; each must be in exactly one place."""
    offsets = ingest.deliver(*messages)
    window = {"first": offsets[0], "last": offsets[-1]}
    between = "kafka_offset BETWEEN {first:UInt64} AND {last:UInt64}"
    stored = [o for (o,) in ingest.rows(f"SELECT kafka_offset FROM transactions WHERE {between}", **window)]
    refused = ingest.rows(f"SELECT kafka_offset, reason, raw_message FROM quarantine WHERE {between}", **window)
    assert sorted(stored + [offset for offset, _, _ in refused]) == offsets
    reasons = dict.fromkeys(stored, "") | {offset: reason for offset, reason, _ in refused}
    return [reasons[offset] for offset in offsets]


def test_each_bad_message_has_its_reason_and_each_good_one_none(ingest):
    reasons = dict(zip(CASES, verdicts(ingest, *(raw for raw, _ in CASES.values())), strict=True))
    assert reasons == {name: reason for name, (_, reason) in CASES.items()}


@pytest.mark.parametrize(("minutes", "reason"), [(4, ""), (6, "created_at_in_future")])
def test_a_clock_may_be_five_minutes_ahead(ingest, minutes, reason):
    ahead = rfc3339(datetime.now(UTC) + timedelta(minutes=minutes))
    assert verdicts(ingest, message(created_at=ahead)) == [reason]


def test_quarantine_keeps_the_bytes_and_where_they_came_from(ingest):
    raw = b"\x00\xff not json \x80"
    [offset] = ingest.deliver(raw, partition=3)
    [row] = ingest.client.query(
        "SELECT raw_message, kafka_key, kafka_partition FROM quarantine WHERE kafka_offset = {o:UInt64}",
        parameters={"o": offset},
        query_formats={"String": "bytes"},
    ).result_rows
    assert row == (raw, f"key-{offset}".encode(), 3)


def test_a_redelivered_bad_message_is_one_row(ingest):
    when = datetime.now(UTC).replace(microsecond=0)
    for _ in range(2):
        ingest.client.insert(
            "transactions_queue",
            [[b"again", "k", 9, 1, when]],
            column_names=["message", "_key", "_partition", "_offset", "_timestamp_ms"],
        )
    assert ingest.value("SELECT count() FROM quarantine FINAL WHERE kafka_partition = 9") == 1


@pytest.mark.parametrize("text", ["0.0001", "12.34", "5", "99999999999999.9999", "10000000000000.0001", "70000000.1"])
@pytest.mark.parametrize("quote", ['"', ""])
@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_amounts_are_stored_to_the_last_decimal(ingest, text, quote, space):
    raw = json.dumps(payment(amount=...))[:-1] + f', "amount"{space}:{space}{quote}{text}{quote}}}'
    [offset] = ingest.deliver(raw)
    stored = ingest.value("SELECT amount FROM transactions WHERE kafka_offset = {o:UInt64}", o=offset)
    assert stored == Decimal(text)


@given(
    whole=st.integers(0, 10**14 - 1),
    fraction=st.from_regex(r"\A([.][0-9]{1,4})?\Z"),
    micros=st.integers(0, 10**15),
    minutes=st.integers(-14 * 60, 14 * 60),
    quoted=st.booleans(),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_valid_is_stored_as_it_was_sent(ingest, whole, fraction, micros, minutes, quoted):
    text = f"{whole}{fraction}"
    if Decimal(text) == 0:
        return
    created = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros % (5 * 365 * 86400 * 10**6))
    local = (created + timedelta(minutes=minutes)).replace(tzinfo=None)
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    spelled = f"{local.isoformat(timespec='microseconds')}{sign}{hours:02d}:{rest:02d}"
    fields = payment(amount=..., created_at=spelled, merchant_id=whole % (2**32 - 1) + 1)
    [offset] = ingest.deliver(
        json.dumps(fields)[:-1] + f', "amount": {json.dumps(text) if quoted else text}}}',
    )
    [row] = ingest.rows(
        "SELECT transaction_id, merchant_id, amount, currency, status, created_at, updated_at FROM transactions"
        " WHERE kafka_offset = {o:UInt64}",
        o=offset,
    )
    assert row == (
        uuid.UUID(fields["transaction_id"]),
        fields["merchant_id"],
        Decimal(text),
        "EUR",
        "authorized",
        created.replace(tzinfo=None),
        datetime.fromisoformat(fields["updated_at"]).replace(tzinfo=None),
    )


LIKELY_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["EUR", "settled", "1.00", "2026-01-02T03:04:05Z", "00000000-0000-0000-0000-000000000000", ""]),
    st.from_regex(r"\A[0-9]{1,16}[.]?[0-9]{0,6}\Z"),
    st.from_regex(
        r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{0,10})?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["amount", "x"]), st.integers(), max_size=2),
)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda name, value: message(**{name: value}),
                st.sampled_from(list(payment())),
                LIKELY_VALUES,
            ),
            st.dictionaries(st.sampled_from([*payment(), "extra"]), LIKELY_VALUES).map(
                lambda d: json.dumps(d).encode()
            ),
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_nothing_stops_and_nothing_is_stored_as_something_it_was_not(ingest, messages):
    messages = [m for m in messages if m] or [b"x"]  # the Kafka engine hands over no row for an empty message
    for raw, reason in zip(messages, verdicts(ingest, *messages), strict=True):
        assert (reason == "") == obeys_the_contract(raw), (raw, reason)


def obeys_the_contract(raw: bytes) -> bool:
    """Judge a message by DESIGN.md's table, with Python's own parsers."""

    def refuse(_: str):
        raise ValueError

    def once(pairs):
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        fields = json.loads(
            raw.decode().lstrip("\ufeff"), object_pairs_hook=once, parse_float=str, parse_int=str, parse_constant=refuse
        )
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict):
        return False
    text = {name: fields.get(name) if isinstance(fields.get(name), str) else "" for name in payment()}

    def moment(value: str) -> datetime | None:
        if not re.fullmatch(r"[0-9-]{10}[Tt ][0-9:]{8}([.][0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})", value, re.ASCII):
            return None
        leap = value[14:19] in ("59:60", "29:60")
        try:
            base = datetime.fromisoformat(value[:10] + "T" + value[11:17] + ("59" if leap else value[17:19]))
            zone = value.upper().replace("Z", "+00:00")[-6:]
            if not (int(zone[1:3]) < 24 and int(zone[4:]) < 60):
                return None
            shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])) * (-1 if zone[0] == "-" else 1)
            return base.replace(tzinfo=UTC) - shift
        except (ValueError, OverflowError):
            return None

    oldest = datetime(datetime.now(UTC).year - 8, datetime.now(UTC).month, 1, tzinfo=UTC)
    times = [moment(text["created_at"]), moment(text["updated_at"])]
    return bool(
        re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text["transaction_id"])
        and re.fullmatch(r"[1-9][0-9]*", text["merchant_id"], re.ASCII)
        and int(text["merchant_id"]) < 2**32
        and re.fullmatch(r"(0|[1-9][0-9]{0,13})([.][0-9]{1,4})?", text["amount"], re.ASCII)
        and Decimal(text["amount"]) > 0
        and (pycountry.currencies.get(alpha_3=text["currency"]) is not None and text["currency"].isupper())
        and text["status"] in {"authorized", "captured", "settled", "refunded", "charged_back", "failed"}
        and all(when is not None and oldest <= when <= datetime.now(UTC) + timedelta(minutes=5) for when in times)
    )


def test_every_currency_of_iso_4217_is_known(ingest):
    codes = [currency.alpha_3 for currency in pycountry.currencies]
    assert verdicts(ingest, *(message(currency=code) for code in codes)) == [""] * len(codes)
