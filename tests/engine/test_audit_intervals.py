"""The audit: its union of ledger intervals against offsets counted one by one, and what it calls a hole."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest import BLOCK_COLUMNS, ingest_schema

from paystream.audit.holes import CONTENT, EMPTY, TOMBSTONE, Gap, classify
from paystream.audit.ledger import Block, blocks_since, intervals, reach_before, read_first

# Not a fixed day: the ledger forgets what is older than 90 days.
NOW = datetime.now(UTC).replace(microsecond=0)
SCOPE = {"topic": "transactions", "partition": 0}


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        yield ingest


def write(ingest, blocks, partition=0, topic="transactions", read_at=NOW) -> None:
    ingest.client.insert(
        "ingest_ledger",
        [[topic, partition, first, last, messages, 0, read_at, read_at] for first, last, messages in blocks],
        column_names=BLOCK_COLUMNS,
    )


def start_again(ingest) -> None:
    ingest.client.command("TRUNCATE TABLE ingest_ledger")


@st.composite
def ledgers(draw):
    """Blocks in any order, overlapping, repeated, with holes between and within."""
    blocks = []
    for _ in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 120))
        span = draw(st.integers(1, 40))
        blocks.append((first, first + span - 1, draw(st.integers(1, span))))
    return blocks


@given(ledgers(), st.integers(0, 60), st.integers(0, 200), st.integers(1, 13))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_union_of_blocks_is_what_counting_offsets_one_by_one_gives(ingest, blocks, start, end, at_once):
    start_again(ingest)
    if blocks:
        write(ingest, blocks)
        # Neither another partition nor another topic fills a hole.
        write(ingest, [(0, 300, 301)], partition=1)
        write(ingest, [(0, 300, 301)], topic="other")
    result = intervals(ingest.client, start, 0, end, SCOPE, at_once)

    counted = [block for block in blocks if block[0] < end]
    times = np.zeros(400, dtype=int)
    for first, last, _ in counted:
        times[first : last + 1] += 1
    times[:start] += 1  # what lies before the start was read earlier
    between = [gap for gap in result.gaps if gap.rows == 0]
    within = [gap for gap in result.gaps if gap.rows]
    holes = [offset for gap in between for offset in range(gap.first, gap.last + 1)]
    assert sorted(holes) == [offset for offset in range(start, end) if not times[offset]]
    assert result.redelivered == sum(n - 1 for n in times if n > 1)
    assert result.messages == sum(messages for _, _, messages in counted)
    assert result.blocks == len(counted)
    assert sorted((gap.first, gap.last, gap.rows) for gap in within) == sorted(
        block for block in counted if block[2] < block[1] - block[0] + 1 and block[1] < end
    )


@given(ledgers(), st.integers(0, 130))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_far_the_blocks_before_an_offset_reach(ingest, blocks, first):
    start_again(ingest)
    write(ingest, [*blocks, (200, 299, 100)])
    write(ingest, [(0, 399, 400)], partition=1)
    reached = [block[1] + 1 for block in blocks if block[0] < first]
    assert reach_before(ingest.client, first, SCOPE) == max(reached, default=None)


def test_what_an_audit_of_the_last_hour_reads_does_not_grow_with_the_ledger(ingest):
    def rows_read(days: int) -> int:
        start_again(ingest)
        blocks = days * 24 * 500
        ingest.client.command(
            f"INSERT INTO ingest_ledger ({', '.join(BLOCK_COLUMNS)})"
            " SELECT 'transactions', number % 4, intDiv(number, 4) * 10, intDiv(number, 4) * 10 + 9, 10, 0, at, at FROM"
            f" (SELECT number, now64(3) - toIntervalMillisecond(7200 * ({blocks * 4} - number) / 4) AS at"
            f" FROM numbers({blocks * 4}))"
        )
        ingest.client.command("OPTIMIZE TABLE ingest_ledger FINAL")
        counter = "SELECT value FROM system.events WHERE event = 'SelectedRows'"
        before = ingest.value(counter)
        since = datetime.now(UTC) - timedelta(hours=1)
        count, first, _ = blocks_since(ingest.client, since, SCOPE)
        assert 490 <= count <= 501
        start = reach_before(ingest.client, first, SCOPE)
        assert start == first
        counted = intervals(ingest.client, start, first, blocks * 10, SCOPE)
        assert (counted.blocks, counted.gaps) == (count, [])
        return ingest.value(counter) - before

    # The ledger has 40 and 1,200 thousand rows; 8,192 are what the engine reads at least of each part of a month.
    short, long = rows_read(days=1), rows_read(days=25)
    assert long < 10 * 8192 + short


def test_a_hole_carries_the_time_at_which_the_reader_passed_it(ingest):
    start_again(ingest)
    write(ingest, [(0, 9, 10)], read_at=NOW)
    write(ingest, [(15, 19, 5)], read_at=NOW + timedelta(seconds=3))
    counted = intervals(ingest.client, 0, 0, 25, SCOPE)
    assert [(gap.first, gap.last, gap.passed_at) for gap in counted.gaps] == [
        (10, 14, NOW + timedelta(seconds=3)),
        (20, 24, None),
    ]


def test_the_newest_gaps_are_kept_and_what_the_others_leave_out_is_counted(ingest):
    start_again(ingest)
    # Two offsets missing before each block, and one within.
    write(ingest, [(first, first + 7, 7) for first in range(2, 102, 10)])
    counted = intervals(ingest.client, 0, 0, 100, SCOPE, at_once=3, most_gaps=5)
    assert [(gap.first, gap.last, gap.rows) for gap in counted.gaps] == [
        (72, 79, 7),
        (80, 81, 0),
        (82, 89, 7),
        (90, 91, 0),
        (92, 99, 7),
    ]
    assert counted.unkept == 10 * 3 - (1 + 2 + 1 + 2 + 1)


def test_the_block_that_was_read_first_of_those_that_touch_a_range(ingest):
    start_again(ingest)
    write(ingest, [(0, 9, 10), (30, 39, 10)], read_at=NOW - timedelta(days=3))
    write(ingest, [(0, 99, 100)], partition=1, read_at=NOW - timedelta(days=4))
    write(ingest, [(10, 19, 10)], read_at=NOW - timedelta(days=1))
    write(ingest, [(20, 29, 10)], read_at=NOW)

    def first(reaching: int, end: int) -> Block | None:
        return read_first(ingest.client, reaching, end, SCOPE)

    of_yesterday = NOW - timedelta(days=1)
    assert first(10, 30) == Block(10, 19, int(of_yesterday.timestamp() * 1000), of_yesterday)
    assert first(19, 20) == first(10, 30)
    assert (first(9, 30).first, first(20, 30).first, first(20, 31).first) == (0, 20, 30)
    assert first(40, 50) is None


@given(st.data())
@settings(max_examples=300)
def test_every_missing_offset_is_classified_once(data):
    """A log is made up offset by offset, some of it stored and some of it expired; the truth is known for each."""
    count = data.draw(st.integers(1, 30))
    truth = data.draw(
        st.lists(st.sampled_from(["content", "tombstone", "empty", "marker"]), min_size=count, max_size=count)
    )
    low = data.draw(st.integers(0, 35))
    kinds = {"content": CONTENT, "tombstone": TOMBSTONE, "empty": EMPTY}
    first = 1_000
    kept = [at for at in range(count) if truth[at] != "marker" and at >= low]
    offsets = np.array([first + at for at in kept], dtype=np.int64)
    holes = classify(
        Gap(0, first, first + count - 1, 0, None),
        offsets,
        np.array([kinds[truth[at]] for at in kept], dtype=np.int8),
        first + low,
        gone=False,
    )
    retained = truth[low:]
    assert holes.lost == retained.count("content")
    assert holes.tombstone == retained.count("tombstone")
    assert holes.empty == retained.count("empty")
    assert holes.marker == retained.count("marker")
    assert holes.expired == min(low, count)
    assert holes.gone == holes.unchecked == 0


@pytest.mark.parametrize(
    ("rows", "content", "tombstones", "lost", "marker"),
    [(8, 8, 0, 0, 2), (8, 8, 1, 0, 1), (7, 9, 0, 2, 1), (9, 5, 0, 0, 1)],
    ids=["markers", "a tombstone", "two lost", "compacted since"],
)
def test_within_a_block_only_the_count_of_rows_is_known(rows, content, tombstones, lost, marker):
    kinds = np.array([CONTENT] * content + [TOMBSTONE] * tombstones, dtype=np.int8)
    offsets = np.arange(len(kinds), dtype=np.int64)
    holes = classify(Gap(0, 0, 9, rows, None), offsets, kinds, 0, gone=False)
    assert (holes.lost, holes.tombstone, holes.marker, holes.expired) == (lost, tombstones, marker, 0)


def test_what_was_passed_longer_ago_than_anything_is_kept_nobody_can_tell():
    nothing = np.array([], dtype=np.int64)
    holes = classify(Gap(0, 0, 9, 0, NOW), nothing, nothing.astype(np.int8), 50, gone=True)
    assert (holes.gone, holes.expired, holes.lost) == (10, 0, 0)


def test_what_a_block_lacked_did_not_expire_unread():
    nothing = np.array([], dtype=np.int64)
    holes = classify(Gap(0, 10, 19, 8, NOW), nothing, nothing.astype(np.int8), 20, gone=False)
    assert (holes.gone, holes.expired, holes.marker, holes.lost) == (2, 0, 0, 0)
