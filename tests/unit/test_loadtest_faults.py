"""How long ingest took to resume after restarts, from what a reader saw when."""

from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID

import pytest

from paystream.loadtest.canary import Sighting
from paystream.loadtest.fault_run import Outcome, _backlog, _resumed
from paystream.loadtest.faults import Restart
from paystream.loadtest.probe import Seen

S = 1_000_000


def seen(made_s: float, seen_s: float) -> Sighting:
    return Sighting(UUID(int=0), int(made_s * S), int(seen_s * S))


def restart(ordered_s: float, answered_s: float) -> Restart:
    return Restart(int(ordered_s * S), int(answered_s * S))


def test_a_wait_runs_from_the_answer_to_the_first_sight_of_a_payment_made_since_the_order():
    sightings = [seen(9, 9.2), seen(9.9, 17), seen(10.5, 17.1), seen(17.3, 17.5)]
    assert _resumed([restart(10, 11)], sightings) == ([6.1], [])


def test_a_kill_amid_the_wait_is_told_from_one_while_payments_are_read():
    restarts = [restart(10, 11), restart(15, 16), restart(40, 41)]
    sightings = [seen(9, 9.2), seen(15.2, 27), seen(30, 30.2), seen(41, 47)]
    # The first never resumed before the second kill, so only the second and the third have a wait.
    assert _resumed(restarts, sightings) == ([6.0], [11.0])
    assert _resumed(restarts[:1], []) == ([], [])


@pytest.mark.parametrize(("waited_s", "late"), [(59, "resumed 14.0 s after a restart"), (300, "")])
def test_a_backlog_of_more_than_a_minute_may_be_read_first(waited_s, late):
    before = Seen([seen(0.5, 0.6)], [], 0.0, 1, 0)
    backlog = _backlog(restart(1, waited_s), before, SimpleNamespace(rate_per_second=1000))
    outcome = Outcome("", "", "", 1, 0.0, None, None, 0.0, [], [14.0], [], 0, 0, False, "complete")
    assert replace(outcome, backlog=backlog).late == late
