"""A quiet pass is one statement, and nothing is missed or done too soon for it."""

import dataclasses
from datetime import timedelta

import pytest
import sqlalchemy as sa

from liveness import Settings, sweep
from liveness.db import tables
from liveness.model import DeadlineState
from tests.fleet import Recorder
from tests.rules.faults import Fault, Meanwhile
from tests.rules.test_sweep import take_a_look
from tests.test_history import statements

D, E = tables.deadline, tables.engine
HOUR = 3600.0
GRACE = 6.0  # expired_grace and max_clock_skew
WAIT = 30 * 1.01 + 1.0


def sent_by(engine) -> int:
    """Statements of one turn."""
    with statements(engine) as sent:
        engine.turn()
    return len(sent)


@pytest.fixture
def quiet(fleet):
    """An engine that has found nothing, among others, living and dead."""
    engine, _, dead = fleet(), fleet(), fleet()
    fleet.bury(dead)
    for _ in range(2):
        engine.turn()
    return engine


# --- what it costs --------------------------------------------------------------------


def test_a_quiet_pass_is_one_statement(quiet):
    assert sent_by(quiet) == 1
    assert sent_by(quiet) == 1


def test_an_engine_at_rest_sends_less_than_a_statement_a_second(fleet, quiet):
    seconds = 600
    default = Settings()
    with statements(quiet) as sent:
        fleet.live(seconds, quiet, step=default.sweep_interval)
    beats = seconds / default.beat_interval
    assert (len(sent) + beats) / seconds < 0.9


@pytest.mark.parametrize("more, count", [(0, 1), (1, 2)])
def test_after_a_pass_that_found_much_the_engines_are_read_alone(quiet, more, count):
    """The time that a reading takes makes the database's clock vague."""
    for number in range(sweep.FEW + more):
        quiet.live.arm("timer", f"k{number}", due_in=2)
    quiet.turn()
    assert sent_by(quiet) == count


def test_a_suspended_engine_reads_the_engines_and_nothing_else(fleet, quiet):
    fleet.clock.advance(40)
    found = Fault(quiet.parts._sweep._finder, "question")
    quiet.turn()
    assert found.calls == 0


@pytest.mark.parametrize("what", ["first", "failed", "suspended"])
def test_a_pass_that_follows_no_quiet_one_reads_the_engines_alone(fleet, quiet, what):
    engine = quiet
    if what == "first":
        fleet.execute(sa.delete(E).where(E.c.ended_at.is_not(None)))
        engine = fleet()
    elif what == "failed":
        Fault(engine.parts.engines, "observe", after=1)
        engine.turn()
    else:
        fleet.clock.advance(40)
        engine.turn()
        engine.beat()
    found = Fault(engine.parts._sweep._finder, "find")
    engine.turn()
    assert found.calls == 1
    engine.turn()
    assert found.calls == 1


@pytest.mark.parametrize("lasted, took", [(2, 2.0), (0, 2.0)])
def test_what_the_server_took_after_its_time_makes_nothing_late(
    fleet, quiet, lasted, took
):
    """Nor early, when it says more than is possible."""
    observe = quiet.parts.engines.observe

    def slow(*args):
        seen = observe(*args)
        fleet.clock.advance(lasted)
        return dataclasses.replace(seen, took=took)

    quiet.parts.engines.observe = slow
    quiet.turn()
    off = quiet.parts._sweep.skew.now - fleet.clock.utc
    assert abs(off) < timedelta(milliseconds=1)


# --- what the last pass did not know --------------------------------------------------


def test_what_one_had_that_is_fenced_now_is_found_now(fleet, quiet):
    victim = fleet()
    victim.live.arm("timer", "k", due_in=HOUR)
    quiet.turn()
    fleet.live(WAIT - 1, quiet)
    assert fleet.row("k").owner_id == victim.id
    fleet.live(2, quiet)
    assert fleet.engine_row(victim).state == "fenced"
    assert fleet.row("k").owner_id == quiet.id


def test_what_one_had_that_another_fenced_is_found_when_that_is_read(fleet, quiet):
    victim = fleet()
    victim.live.arm("timer", "k", due_in=HOUR)
    quiet.turn()
    fleet.bury(victim)
    quiet.turn()
    assert fleet.row("k").owner_id == quiet.id


def test_what_the_missing_had_is_found_when_they_are_known_to_be_gone(fleet, quiet):
    victim = fleet()
    victim.live.arm("timer", "k", due_in=HOUR)
    quiet.turn()
    fleet.execute(sa.delete(E).where(E.c.id == victim.id))
    sweep = quiet.parts._sweep
    while not sweep._lingering:
        assert fleet.row("k").owner_id == victim.id
        fleet.live(2, quiet)
    assert fleet.row("k").owner_id == quiet.id


def test_a_failover_brings_one_back_to_life_and_what_it_has_is_left_alone(fleet):
    careful = Recorder("careful", when_orphaned="park")
    engine, victim = fleet(careful), fleet(careful)
    fleet.bury(victim)
    engine.turn()
    assert sent_by(engine) == 1
    values = {"state": "live", "ended_at": None}
    fleet.execute(sa.update(E).where(E.c.id == victim.id).values(**values))
    victim.live.arm("careful", "k", due_in=HOUR)
    engine.turn()
    assert fleet.row("k").owner_id == victim.id
    assert fleet.row("k").state == DeadlineState.ARMED


def test_a_clock_that_jumped_before_the_reading_makes_nothing_overdue(fleet):
    timer = Recorder()
    owner, engine = fleet(timer), fleet(timer)
    owner.live.arm("timer", "k", due_in=60)
    for _ in range(2):
        engine.turn()
    assert sent_by(engine) == 1
    fleet.clock.jump(60 + GRACE + 1)
    take_a_look(fleet, engine)
    assert timer.keys == []
    assert fleet.row("k").owner_id == owner.id


def test_what_was_read_is_not_claimed_by_one_that_is_suspended_since(fleet):
    timer = Recorder()
    owner, engine = fleet(timer), fleet(timer)
    owner.live.arm("timer", "k", due_in=10)
    for _ in range(2):
        engine.turn()
    fleet.clock.advance(10 + GRACE)
    Meanwhile(
        engine.parts.engines, "observe", lambda: fleet.clock.advance(20), before=False
    )
    engine.turn()
    assert timer.keys == []
    assert fleet.row("k").owner_id == owner.id


def test_lost_claims_are_looked_for_in_the_pass_in_which_it_is_time(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.live.arm("timer", "k", due_in=HOUR)
    fleet.live(100, engine)
    fleet.execute(sa.update(D).values(state="claimed", attempts=1))
    engine.parts._sweep._next_doubt = fleet.clock.monotonic()
    take_a_look(fleet, engine)
    assert timer.keys == ["k"]
