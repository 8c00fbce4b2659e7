"""In a large fleet not everybody sweeps often; and nothing is missed or late for it."""

import heapq
import itertools
from random import Random, uniform

import pytest
import sqlalchemy as sa

from liveness import Rearm, Settings, duty
from liveness.admission import Admission
from liveness.clock import Clock
from liveness.db import tables
from liveness.duty import Duty
from tests.rules.faults import Fault

D, E = tables.deadline, tables.engine
TTL, SWEEP = 30.0, 2.0
WAIT = TTL * 1.01 + 1.0
ON, OFF = 2.5 * SWEEP, 13 * SWEEP
MICRO = 1e-3


def alone(fleet, seconds, *engines):
    """Let so much time pass in which each beats and turns when it asked to, as its
    threads would."""
    clock, numbers = fleet.clock, itertools.count()
    end, heap = clock.monotonic() + seconds, []

    def turn(engine):
        delay = engine.parts.loop.turn()
        if engine.unanswered:
            engine.settle()
        return delay

    for engine in engines:
        for step in (engine.parts.heart._step, lambda engine=engine: turn(engine)):
            heapq.heappush(heap, (clock.monotonic(), next(numbers), step))
    while heap[0][0] <= end:
        due, number, step = heapq.heappop(heap)
        clock.advance(max(due - clock.monotonic(), 0.0))
        delay = max(step(), 1e-6)
        heapq.heappush(heap, (clock.monotonic() + delay, number, step))
    clock.advance(max(end - clock.monotonic(), 0.0))


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """What everybody draws, from 0.0 (on duty) to 1.0 (not)."""

    class Drawn:
        value = 0.99

        uniform = staticmethod(uniform)

        def random(self):
            return self.value

    drawn = Drawn()
    monkeypatch.setattr(duty, "random", drawn)
    return drawn


@pytest.fixture
def large(fleet, monkeypatch):
    """Six engines, of which each sees the next two."""
    for module in ("detector", "sweep", "duty"):
        monkeypatch.setattr(f"liveness.{module}.WINDOW", 2)
    engines = [fleet(engine_id=f"engine-{n}") for n in range(6)]
    alone(fleet, 5, *engines)  # they have counted themselves
    return engines


def on_duty(engines):
    return [engine for engine in engines if engine.parts._sweep.duty.on]


def draw(engine, drawn):
    """It is on duty from its next sweep on, which is now."""
    engine.parts._sweep.duty._until = drawn.value = 0.0
    engine.turn()
    drawn.value = 0.99


def sweeps(fleet, seconds, engines):
    """How many each of the engines makes meanwhile."""
    calls = [Fault(engine.parts._sweep, "run_pass") for engine in engines]
    alone(fleet, seconds, *engines)
    for engine in engines:
        del engine.parts._sweep.run_pass
    return [call.calls for call in calls]


# --- who is on duty, and what that means ----------------------------------------


def test_of_a_fleet_that_one_sees_everybody_sweeps_often(fleet):
    engines = [fleet() for _ in range(3)]
    alone(fleet, 5, *engines)
    assert on_duty(engines) == engines
    assert all(50 <= count <= 62 for count in sweeps(fleet, 110, engines))


def test_of_a_large_one_those_on_duty_sweep_twice_a_quarter_lease(fleet, large, drawn):
    drawn.value = 0.0
    alone(fleet, 6 * TTL, *large)
    assert on_duty(large) == large
    assert all(18 <= count <= 24 for count in sweeps(fleet, 100, large))


def test_of_a_large_one_the_others_sweep_once_a_lease(fleet, large):
    alone(fleet, 6 * TTL, *large)
    assert on_duty(large) == []
    assert all(3 <= count <= 5 for count in sweeps(fleet, 4 * OFF, large))


@pytest.mark.parametrize(("fleet_size", "share"), [(110, 0.9), (200, 0.5), (5000, 0.1)])
def test_as_many_are_on_duty_as_see_everybody_ten_times(monkeypatch, fleet_size, share):
    monkeypatch.setattr(duty, "random", Random(7))
    draws = []
    for _ in range(3000):
        one = Duty(Clock(), Settings())
        one.begin(fleet_size)
        draws.append(one.on)
    assert sum(draws) / len(draws) == pytest.approx(share, abs=0.03)


def test_everybody_has_a_turn(fleet, large, drawn):
    alone(fleet, 6 * TTL, *large)
    drawn.value = 0.0
    alone(fleet, 6 * TTL, *large)
    assert on_duty(large) == large
    drawn.value = 0.99
    alone(fleet, 6 * TTL, *large)
    assert on_duty(large) == []


def test_in_a_fleet_that_has_shrunk_all_are_on_duty(fleet, large):
    alone(fleet, 6 * TTL, *large)
    first, *others = large
    for other in others:
        fleet.bury(other)
    first.parts.loop._next_sweep = fleet.clock.monotonic() + OFF
    alone(fleet, OFF * 1.1, first)
    assert 20 <= sweeps(fleet, 44, [first])[0] <= 25


def test_no_lease_is_too_short_for_those_on_duty(fleet, large, drawn):
    fleet.execute(sa.update(E).where(E.c.id == large[1].id).values(ttl=15))
    first = large[0].parts._sweep
    draw(large[0], drawn)
    assert first.duty.interval == pytest.approx(15 / 6)
    fleet.execute(sa.update(E).where(E.c.id == large[1].id).values(ttl=3))
    large[0].turn()
    assert first.duty.interval == SWEEP  # as far as it was asked to go


def test_one_rests_no_longer_than_it_has_read_ahead(fleet, large, drawn):
    """However much longer it could, by what it read."""
    fleet.execute(sa.update(E).where(E.c.id == large[1].id).values(ttl=12))
    draw(large[0], drawn)
    fleet.execute(sa.update(E).where(E.c.id == large[1].id).values(ttl=TTL))
    with large[0].connect() as connection:
        first = large[0].parts._sweep.run_pass(connection)
        second = large[0].parts._sweep.run_pass(connection)
    assert (first.rest, second.rest) == (SWEEP, ON)


# --- the dead are found -----------------------------------------------------------


def fenced_after(fleet, victim, engines):
    """Seconds since its last beat."""
    alone(fleet, 3 * TTL, *engines)
    row = fleet.engine_row(victim)
    assert row.state == "fenced"
    return (row.ended_at - row.beat_at).total_seconds()


def test_with_nobody_on_duty_one_that_is_silent_is_seen_and_fenced(fleet, large):
    """Those in front of it sweep once a lease, see that it is silent, and stay."""
    alone(fleet, 6 * TTL, *large)
    assert on_duty(large) == []
    victim, *others = large
    before = large[4:]
    took = fenced_after(fleet, victim, others)
    assert took <= TTL / 3 + OFF * 1.1 + WAIT + MICRO
    assert set(on_duty(others)) <= set(before)


def test_with_somebody_on_duty_it_takes_a_lease_as_ever(fleet, large, drawn):
    alone(fleet, 6 * TTL, *large)
    draw(large[5], drawn)
    alone(fleet, OFF * 1.1, *large)
    assert on_duty(large) == [large[5]]
    victim, *others = large
    assert fenced_after(fleet, victim, others) <= WAIT + ON * 1.1 + MICRO


def test_one_stays_on_duty_until_the_silent_one_is_judged(
    fleet, large, drawn, monkeypatch
):
    drawn.value = 0.0
    alone(fleet, 6 * TTL, *large)
    victim, *others = large
    alone(fleet, TTL / 3 + ON * 1.1, *others)
    drawn.value = 0.99
    monkeypatch.setattr(duty, "SHIFT", 0.0)  # from now on they draw at each sweep
    for engine in others:
        engine.parts._sweep.duty._until = 0.0
    assert fenced_after(fleet, victim, others) <= WAIT + ON * 1.1 + MICRO
    assert on_duty(others) == []


def test_a_missing_owner_is_looked_at_for_a_lease(fleet, large, monkeypatch):
    monkeypatch.setattr(duty, "SHIFT", 0.0)  # else one draws, and goes
    alone(fleet, 6 * TTL, *large)
    first, *rest, last = large
    last.live.arm("timer", "k", due_in=3600)
    fleet.execute(sa.delete(E).where(E.c.id == last.id))
    for engine in rest:  # only one keeps house
        engine.parts._sweep._next_housekeeping = float("inf")
    first.parts._sweep._next_housekeeping = 0.0
    alone(fleet, OFF * 1.1 + WAIT + TTL / 3, first, *rest)
    assert fleet.row("k").owner_id == first.id


# --- nothing is late --------------------------------------------------------------


@pytest.fixture
def resting(fleet, large):
    """One that is not on duty, and the others, which are driven with it."""
    alone(fleet, 6 * TTL, *large)
    return large[0]


def lateness(fleet, engine, seconds):
    """How late its handler was called for the one deadline that was due."""
    timer = engine.live.handlers.get("timer")
    timer.answer = lambda deadline: late.append(fleet.clock.utc - deadline.expires_at)
    late = []
    alone(fleet, seconds, *fleet.engines)
    (found,) = late
    return found.total_seconds()


@pytest.mark.parametrize("due_in", [1.0, 7.0, 20.0, OFF * 1.2, OFF * 2.5])
def test_own_deadlines_are_punctual(fleet, resting, due_in):
    resting.live.arm("timer", "k", due_in=due_in)
    assert lateness(fleet, resting, due_in + 5) < 0.01


@pytest.mark.parametrize("due_in", [1.0, 20.0, OFF * 2.5])
def test_what_is_armed_again_is_punctual(fleet, resting, due_in):
    timer = resting.live.handlers.get("timer")
    resting.live.arm("timer", "k", due_in=1.0)
    timer.answer = Rearm(due_in=due_in)
    alone(fleet, 2.0, *fleet.engines)
    assert timer.keys == ["k"]
    assert lateness(fleet, resting, due_in + 5) < 0.01


@pytest.mark.parametrize("due_in", [4.0, 8.0, 20.0, OFF])
def test_what_was_armed_before_it_went_off_duty_is_punctual(
    fleet, large, drawn, due_in
):
    drawn.value = 0.0
    alone(fleet, 6 * TTL, *large)
    engine = large[0]
    drawn.value = 0.99
    engine.live.arm("timer", "k", due_in=due_in)  # most: not on the agenda
    engine.parts._sweep.duty._until = 0.0
    assert lateness(fleet, engine, due_in + 5) < 0.01
    assert not engine.parts._sweep.duty.on


@pytest.mark.parametrize("sweeps_in", [1.0, 3.3, 20.0])
def test_what_was_not_committed_when_it_was_due_is_found_soon(
    fleet, resting, sweeps_in
):
    """As long as that takes the owner no longer than the others; also if it sweeps just
    before it is committed."""
    resting.parts.loop._next_sweep = fleet.clock.monotonic() + sweeps_in
    with resting.connect() as connection:
        resting.live.arm("timer", "early", due_in=3.0)
        row = fleet.row("early")
        connection.execute(sa.delete(D))
    alone(fleet, 3.5, *fleet.engines)  # it was due, and not there
    values = {**row._mapping, "due_at": fleet.clock.utc}
    fleet.execute(sa.insert(D).values(values))
    alone(fleet, SWEEP * 1.1, *fleet.engines)
    assert fleet.row("early") is None


def test_one_that_is_suspended_sweeps_often(fleet, resting):
    """It reads nothing ahead, and can be good again at any time."""
    for other in fleet.engines[1:]:
        other.parts.engines.fence = lambda *args: False
    Fault(resting.parts.engines, "beat", before=float("inf"))
    alone(fleet, TTL + OFF * 1.1, *fleet.engines)
    assert not resting.parts.trust.good
    assert 12 <= sweeps(fleet, TTL, [resting])[0] <= 36


def test_a_claim_of_which_no_error_told_is_held_within_a_lease(fleet, resting):
    timer = resting.live.handlers.get("timer")
    resting.live.arm("timer", "k", due_in=3600)
    fleet.execute(sa.update(D).values(state="claimed", attempts=1))
    now = fleet.clock.monotonic()
    resting.parts._sweep._next_doubt = now + 1.2 * TTL
    resting.parts.loop._next_sweep = now + 0.4 * TTL
    resting.parts.loop._again_by = float("inf")
    alone(fleet, TTL / 2, *fleet.engines)  # its next sweep would be too late
    assert timer.keys == ["k"]


def test_after_an_error_claims_are_looked_for_often(fleet, resting):
    resting.parts.loop._doubt()
    assert 12 <= sweeps(fleet, TTL, [resting])[0] <= 18


def test_while_what_was_claimed_before_is_left_out_it_looks_often(
    fleet, resting, monkeypatch
):
    monkeypatch.setattr(Admission, "suspect_held", property(lambda self: True))
    alone(fleet, OFF * 1.1, *fleet.engines)
    assert 12 <= sweeps(fleet, TTL, [resting])[0] <= 18


def test_one_that_rests_comes_round_as_often_as_ever(fleet, resting):
    """Or the page, which allows it two intervals, would say that it is late."""
    loop = resting.parts.loop
    loop._next_sweep = loop._again_by = fleet.clock.monotonic() + OFF
    assert 1 < loop.turn() < 2 * SWEEP


def test_an_order_to_drain_is_obeyed_within_a_lease(fleet, resting):
    told = []
    resting.parts._sweep.on_drain = lambda: told.append(fleet.clock.monotonic())
    began = fleet.clock.monotonic()
    fleet.execute(sa.update(E).where(E.c.id == resting.id).values(state="draining"))
    alone(fleet, TTL, *fleet.engines)
    assert told and told[0] - began <= TTL
