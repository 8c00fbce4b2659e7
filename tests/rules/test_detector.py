"""Who is dead: only an unbroken run of readings, or proof on the same machine."""

import dataclasses
import os
import subprocess
import sys

import pytest
import sqlalchemy as sa

from liveness import Settings, detector, exceptions
from liveness.db import tables
from liveness.db.rows import new_token
from tests.clock import SettableClock
from tests.rules.faults import Fault, Meanwhile

E = tables.engine
MICRO = 1e-6
TTL = 30.0
GAP = TTL / 4
WAIT = TTL * 1.01 + 1.0  # the drift, and the observer's margin


@pytest.fixture
def pair(fleet):
    """A victim that has beaten its last, and an observer."""
    return fleet(), fleet()


def fenced(fleet, engine):
    return fleet.engine_row(engine).state == "fenced"


def look(observer):
    """Beat and sweep at this very moment."""
    observer.beat()
    observer.turn()


def watch(fleet, observer, seconds, step=2.0):
    """Let time pass; beat and look at its regular ends only."""
    end = fleet.clock.monotonic() + seconds
    while fleet.clock.monotonic() < end - MICRO / 2:
        fleet.clock.advance(min(step, end - fleet.clock.monotonic()))
        look(observer)


# --- the wait -----------------------------------------------------------------


def test_silence_counts_from_the_first_reading_and_for_the_whole_wait(fleet, pair):
    victim, observer = pair
    fleet.clock.advance(20)  # nobody saw these
    look(observer)
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    fleet.clock.advance(2 * MICRO)
    look(observer)
    assert fenced(fleet, victim)
    row = fleet.engine_row(victim)
    assert row.fenced_by == observer.id
    assert row.fence_evidence == "silent for 31.3 s (ttl 30 s)"


def test_the_wait_is_the_victims_ttl_with_the_observers_drift_and_margin(fleet):
    victim = fleet(ttl=60)
    observer = fleet(clock_drift=0.1, lease_margin=2)
    look(observer)
    watch(fleet, observer, 60 * 1.1 + 2 - MICRO)
    assert not fenced(fleet, victim)
    fleet.clock.advance(2 * MICRO)
    look(observer)
    assert fenced(fleet, victim)


def test_the_first_reading_counts_from_after_its_answer(fleet, pair):
    victim, observer = pair
    observer.beat()
    Meanwhile(
        observer.parts.engines, "observe", lambda: fleet.clock.advance(5), before=False
    )
    observer.turn()
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    fleet.clock.advance(2 * MICRO)
    look(observer)
    assert fenced(fleet, victim)


def test_the_wait_is_over_before_the_fence_is_sent(fleet, pair):
    """What passes on the way to the database is no part of it."""
    victim, observer = pair
    look(observer)
    watch(fleet, observer, WAIT - 1)
    fence = Fault(observer.parts.engines, "fence")
    observer.beat()
    observer.turn()
    assert fence.calls == 0


def test_an_observer_looks_again_when_the_wait_is_over(fleet, pair):
    victim, observer = pair
    look(observer)
    watch(fleet, observer, 30)
    observer.beat()
    left = observer.parts.loop.turn()
    assert left == pytest.approx(WAIT - 30)  # less than to its next sweep
    fleet.clock.advance(left + MICRO)
    observer.parts.loop.turn()
    assert fenced(fleet, victim)


def test_who_lives_is_looked_at_once_in_an_interval(fleet, pair):
    for _ in range(40):
        for engine in pair:
            engine.beat()
            assert engine.parts.loop.turn() >= 1.8
        fleet.clock.advance(2.2)


def test_a_victim_never_trusts_itself_when_it_may_be_fenced(fleet, clock):
    """The two waits together, with the victim's clock as slow as may be."""
    slow = SettableClock()
    victim, observer = fleet(clock=slow), fleet()
    look(observer)
    victim.beat()  # right after the first reading ...
    look(observer)  # ... but the second shows it
    while not fenced(fleet, victim):
        clock.advance(1)
        slow.advance(0.99)
        look(observer)
    assert not victim.live.trusted
    with pytest.raises(exceptions.Suspended):
        victim.live.check()


def test_a_beat_at_any_time_starts_the_wait_anew(fleet, clock, pair):
    victim, observer = pair
    look(observer)
    watch(fleet, observer, WAIT - 1)
    assert victim.beat()
    watch(fleet, observer, WAIT)
    assert not fenced(fleet, victim)
    watch(fleet, observer, 2 + MICRO)  # read two seconds after the beat
    assert fenced(fleet, victim)


def test_an_engine_that_beats_once_a_lease_lives(fleet, pair):
    victim, observer = pair
    for _ in range(8):
        watch(fleet, observer, 29)
        assert victim.beat()
    assert not fenced(fleet, victim)


def test_the_dead_are_fenced_once(fleet, clock):
    victim, one, two = fleet(), fleet(), fleet()
    by = []
    for observer in (one, two):
        Meanwhile(
            observer.parts.engines, "fence", lambda o=observer: by.append(o), False
        )
    fleet.live(60, one, two)
    row = fleet.engine_row(victim)
    assert row.state == "fenced"
    assert by == [one]
    assert row.fenced_by == one.id


# --- the run is unbroken ------------------------------------------------------


def test_who_is_too_late_to_fence_takes_over_all_the_same(fleet, pair):
    victim, observer = pair
    victim.live.arm("timer", "k", due_in=3600)
    rehearse(fleet, observer, 30)
    fleet.clock.advance(WAIT - 30 + MICRO)
    engines = observer.parts.engines
    Meanwhile(engines, "fence", lambda: fleet.bury(victim))  # another was quicker
    observer.beat()
    assert observer.parts.loop.turn() == 0
    observer.turn()
    assert fleet.row("k").owner_id == observer.id


def test_a_fence_that_misses_again_and_again_is_tried_once_in_an_interval(fleet, pair):
    _, observer = pair
    rehearse(fleet, observer, 30)
    fleet.clock.advance(WAIT - 30 + MICRO)
    observer.parts.engines.fence = lambda *args: False
    observer.beat()
    delays = [observer.parts.loop.turn() for _ in range(4)]
    assert delays[0] == 0 and min(delays[1:]) > 1


def rehearse(fleet, observer, until):
    """Look every two seconds from now until that much time has passed."""
    look(observer)
    watch(fleet, observer, until)


def beat_for(fleet, observer, seconds):
    """Time passes; the observer beats, but reads nothing."""
    end = fleet.clock.monotonic() + seconds
    while fleet.clock.monotonic() < end - MICRO / 2:
        fleet.clock.advance(min(2.0, end - fleet.clock.monotonic()))
        observer.beat()


@pytest.mark.parametrize("gap, alive", [(GAP - MICRO, False), (GAP + MICRO, True)])
def test_a_gap_between_two_readings_starts_the_wait_anew(fleet, pair, gap, alive):
    victim, observer = pair
    rehearse(fleet, observer, 20)
    beat_for(fleet, observer, gap)
    look(observer)
    watch(fleet, observer, WAIT - 20 - gap + MICRO)
    assert fenced(fleet, victim) is not alive
    watch(fleet, observer, 20 + gap)
    assert fenced(fleet, victim)


def test_a_slow_reading_is_part_of_the_gap(fleet, pair):
    """From before the one was sent to after the other was answered."""
    victim, observer = pair
    rehearse(fleet, observer, 20)
    beat_for(fleet, observer, GAP - 1)
    Meanwhile(
        observer.parts.engines, "observe", lambda: beat_for(fleet, observer, 1 + MICRO)
    )
    observer.turn()
    watch(fleet, observer, WAIT - 20)
    assert not fenced(fleet, victim)


@pytest.mark.parametrize("gap, alive", [(GAP - MICRO, False), (GAP + MICRO, True)])
def test_a_gap_between_the_reading_and_the_decision_forbids_it(fleet, pair, gap, alive):
    victim, observer = pair
    rehearse(fleet, observer, WAIT - 1)
    fleet.clock.advance(2)
    observer.beat()
    skew = observer.parts.loop._sweep.skew
    Meanwhile(skew, "reading", lambda: beat_for(fleet, observer, gap))
    observer.turn()
    assert fenced(fleet, victim) is not alive


@pytest.mark.parametrize("gap, alive", [(GAP - MICRO, False), (GAP + MICRO, True)])
def test_reading_while_own_beats_stall_is_no_evidence(fleet, pair, gap, alive):
    victim, observer = pair
    look(observer)
    watch(fleet, observer, WAIT + MICRO - gap)
    passed = 0.0
    while passed < gap - MICRO / 2:  # writes stall, reads work
        step = min(2.0, gap - passed)
        fleet.clock.advance(step)
        passed += step
        observer.turn()
    assert observer.live.trusted
    assert fenced(fleet, victim) is not alive


@pytest.mark.parametrize("gap, alive", [(GAP - MICRO, False), (GAP + MICRO, True)])
def test_a_gap_between_own_beats_anywhere_in_the_run_counts(fleet, pair, gap, alive):
    victim, observer = pair
    rehearse(fleet, observer, 10)
    for _ in range(3):
        fleet.clock.advance(2)
        observer.turn()
    fleet.clock.advance(gap - 6)
    look(observer)
    watch(fleet, observer, WAIT - 10 - gap + MICRO)
    assert fenced(fleet, victim) is not alive


def in_flight(fleet, observer, seconds):
    """A beat that is answered so much later; meanwhile the observer reads."""

    def meanwhile():
        for _ in range(3):
            fleet.clock.advance(seconds / 3)
            observer.turn()

    Meanwhile(observer.parts.engines, "beat", meanwhile)
    assert observer.beat()


def test_an_own_beat_answered_late_is_no_evidence_for_its_whole_flight(fleet, pair):
    """It may have been committed as soon as it was sent."""
    victim, observer = pair
    rehearse(fleet, observer, 10)
    in_flight(fleet, observer, 6)
    fleet.clock.advance(2)
    look(observer)
    watch(fleet, observer, WAIT - 18 + MICRO)
    assert not fenced(fleet, victim)


def test_own_beats_count_from_their_answers(fleet, pair):
    """The first after a gap may have been committed as late as it was answered."""
    victim, observer = pair
    rehearse(fleet, observer, 10)
    for _ in range(4):
        fleet.clock.advance(2)
        observer.turn()
    in_flight(fleet, observer, 3)
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    fleet.clock.advance(2 * MICRO)
    look(observer)
    assert fenced(fleet, victim)


def test_after_a_gap_between_own_beats_the_dead_are_fenced_a_whole_wait_later(
    fleet, pair
):
    victim, observer = pair
    rehearse(fleet, observer, 10)
    for _ in range(4):
        fleet.clock.advance(2)
        observer.turn()
    look(observer)
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    watch(fleet, observer, 2)
    assert fenced(fleet, victim)


def test_own_beats_count_from_before_the_run_on(fleet, clock):
    """The observer registered after its first reading would know nothing of before."""
    victim, observer = fleet(), fleet()
    observer.parts.trust._beats.clear()
    observer.turn()
    watch(fleet, observer, WAIT + MICRO)
    assert not fenced(fleet, victim)


def test_own_beats_are_known_for_the_longest_lease_there_may_be(fleet, clock):
    observer = fleet(beat_interval=0.05)
    start = clock.monotonic()
    trust = observer.trust
    while clock.monotonic() < start + 300:
        clock.advance(0.05)
        trust.renew(clock.monotonic(), clock.monotonic(), 29)
    assert trust.steady_since(1) <= start + 0.1


def test_a_reconnect_starts_the_wait_anew(every_fleet):
    fleet = every_fleet
    victim, observer = fleet(), fleet()
    rehearse(fleet, observer, WAIT - 1)
    with observer.parts._sweep_pool.connect() as connection:
        connection.invalidate()
    look(observer)
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    fleet.clock.advance(2 * MICRO)
    look(observer)
    assert fenced(fleet, victim)


def test_an_error_of_a_turn_starts_the_wait_anew(fleet, pair):
    victim, observer = pair
    rehearse(fleet, observer, WAIT - 3)
    Fault(observer.parts._bell, "watch", after=1)
    watch(fleet, observer, WAIT)
    assert not fenced(fleet, victim)


def test_another_server_behind_the_same_address_starts_the_wait_anew(fleet, pair):
    victim, observer = pair
    rehearse(fleet, observer, WAIT - 1)
    real = observer.parts.engines.observe

    def elsewhere(*args):
        return dataclasses.replace(real(*args), server="another")

    observer.parts.engines.observe = elsewhere
    look(observer)
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    watch(fleet, observer, 2)
    assert fenced(fleet, victim)


def test_a_paused_observer_concludes_nothing_from_its_pause(fleet, clock):
    """Stopped for an hour at any point of a pass; the others went on beating."""
    points = [("observe", True), ("observe", False)]
    for name, before in points:
        victim, observer = fleet(), fleet()
        rehearse(fleet, observer, 10)

        def pause(victim=victim):
            for _ in range(720):
                clock.advance(5)
                victim.beat()

        Meanwhile(observer.parts.engines, name, pause, before)
        observer.turn()
        observer.beat()
        observer.turn()
        assert not fenced(fleet, victim)


# --- the fence itself ---------------------------------------------------------


def test_a_beat_between_the_decision_and_the_fence_wins(every_fleet):
    fleet = every_fleet
    victim, observer = fleet(), fleet()
    look(observer)
    watch(fleet, observer, WAIT - 1)

    def an_hour_later():
        fleet.clock.advance(3600)
        assert victim.beat()

    fence = Fault(observer.parts.engines, "fence")
    Meanwhile(observer.parts.engines, "fence", an_hour_later)
    watch(fleet, observer, 2)
    assert fence.calls == 1
    assert not fenced(fleet, victim)
    assert victim.beat()
    assert victim.live.trusted


def test_a_fence_whose_answer_was_lost_is_found_by_the_next_pass(fleet, pair):
    victim, observer = pair
    victim.live.arm("timer", "k", due_in=3600)
    look(observer)
    watch(fleet, observer, WAIT - 1)
    Fault(observer.parts.engines, "fence", after=1)
    watch(fleet, observer, 2)
    assert fenced(fleet, victim)
    assert fleet.row("k").owner_id == victim.id
    look(observer)
    assert fleet.row("k").owner_id == observer.id


def test_a_suspended_observer_fences_nobody(fleet):
    observer = fleet(machine=None)
    gone = sa.select(E.c.state).where(E.c.id == child_row(fleet, observer))
    fleet.clock.advance(29)
    observer.turn()
    assert fleet.execute(gone) == [("live",)]
    look(observer)
    assert fleet.execute(gone) == [("fenced",)]


def test_a_fenced_observer_fences_nobody(fleet):
    observer = fleet(machine=None)
    gone = sa.select(E.c.state).where(E.c.id == child_row(fleet, observer))
    fleet.bury(observer)
    observer.beat()
    observer.turn()
    assert fleet.execute(gone) == [("live",)]


def test_a_draining_engine_that_falls_silent_is_fenced(fleet, pair):
    victim, observer = pair
    with victim.connect() as connection:
        victim.parts.engines.set_draining(connection, victim.id)
    look(observer)
    watch(fleet, observer, WAIT + MICRO)
    assert fenced(fleet, victim)


def test_a_draining_engine_that_beats_lives(fleet, pair):
    victim, observer = pair
    victim.parts.loop.draining = True  # else it takes its row's word for an order
    with victim.connect() as connection:
        victim.parts.engines.set_draining(connection, victim.id)
    fleet.live(100, victim, observer)
    assert fleet.engine_row(victim).state == "draining"


# --- clocks -------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-3600.0, -120.0, 120.0, 3600.0])
def test_no_clock_of_the_database_has_a_say(fleet, skew):
    """The observer reads the table through a node whose clock is far off."""
    off = SettableClock()
    off.jump(skew)
    living, dead = fleet(), fleet()
    observer = fleet(clock=off)
    for _ in range(30):
        fleet.clock.advance(2)
        off.advance(2)
        living.beat()
        look(observer)
    assert fenced(fleet, dead)
    assert not fenced(fleet, living)


def test_a_clock_of_the_database_that_jumps_has_no_say(fleet):
    living, dead, observer = fleet(), fleet(), fleet()
    for turn in range(30):
        fleet.clock.advance(2)
        fleet.clock.jump(900 if turn % 2 else -900)
        living.beat()
        look(observer)
    row = fleet.engine_row(dead)  # perhaps so long ago that it was purged
    assert row is None or row.state == "fenced"
    assert not fenced(fleet, living)


def test_a_lease_end_in_the_row_has_no_say(fleet, pair):
    """Set ahead by an hour, or back: it forbids and allows nothing."""
    victim, observer = pair
    for shift in (3600, -3600):
        fleet.clock.jump(shift)
        fleet.execute(sa.update(E).values(beat_at=fleet.clock.utc))
        fleet.clock.jump(-shift)
        look(observer)
    assert not fenced(fleet, victim)
    watch(fleet, observer, WAIT + MICRO)
    assert fenced(fleet, victim)


# --- somebody must be able to -------------------------------------------------


def slowest_beat():
    """The longest beat_interval that the options allow beside a ttl of 30 s."""
    for tenths in range(100, 0, -1):
        try:
            Settings.of(ttl=TTL, beat_interval=tenths / 10)
        except exceptions.ConfigError:
            continue
        return tenths / 10
    raise AssertionError("none")


def test_with_the_slowest_beats_allowed_the_dead_are_still_fenced(fleet, clock):
    interval = slowest_beat()
    victim, observer = fleet(beat_interval=interval), fleet(beat_interval=interval)
    next_beat = clock.monotonic()
    for _ in range(200):
        if clock.monotonic() >= next_beat:
            observer.beat()
            next_beat = clock.monotonic() + interval
        observer.turn()
        clock.advance(0.5)
    assert fenced(fleet, victim)


def test_who_beats_too_seldom_to_judge_says_so_once(fleet, caplog):
    victim = fleet(ttl=12, beat_interval=2, database_timeout=3)
    observer = fleet(beat_interval=5)
    for _ in range(20):
        fleet.clock.advance(2)
        if fleet.clock.monotonic() % 5 < 2:
            observer.beat()
        observer.turn()
    assert not fenced(fleet, victim)
    assert caplog.text.count("too seldom to judge its ttl of 12 s") == 1


def test_a_cold_fleet_is_cleared_within_a_ttl_and_a_sweep(fleet, clock):
    dead = [fleet() for _ in range(4)]
    clock.advance(3600)
    first = fleet()
    look(first)
    watch(fleet, first, WAIT + MICRO)
    assert all(fenced(fleet, engine) for engine in dead)


# --- larger fleets ------------------------------------------------------------


def rows_of(fleet, ids):
    """Engines that once were."""
    now = fleet.clock.utc
    fleet.execute(
        sa.insert(E).values(
            [
                {
                    "id": engine_id,
                    "token": new_token(),
                    "host": "elsewhere",
                    "pid": 1,
                    "binary": "x",
                    "version": "1",
                    "state": "live",
                    "started_at": now,
                    "beat_seq": 1,
                    "beat_at": now,
                    "ttl": TTL,
                }
                for engine_id in ids
            ]
        )
    )


def state_counts(fleet):
    counts = sa.select(E.c.state, sa.func.count()).group_by(E.c.state)
    return dict(tuple(row) for row in fleet.execute(counts))


def test_in_a_fleet_larger_than_the_window_everyone_dead_is_fenced(fleet, clock):
    assert detector.WINDOW == 100
    rows_of(fleet, [f"{n:04d}" for n in range(350)])
    living = [fleet(engine_id=f"{n:04d}-living") for n in (120, 121)]
    fleet.live(5 * WAIT, *living, step=4.0)
    assert state_counts(fleet) == {"live": 2, "fenced": 350}
    assert not any(fenced(fleet, engine) for engine in living)


@pytest.mark.parametrize("place", range(7))
def test_the_window_is_a_ring(fleet, monkeypatch, place):
    """Wherever the last survivor stands, it sees everyone in the end."""
    monkeypatch.setattr(detector, "WINDOW", 2)
    ids = [f"{n:04d}" for n in range(7)]
    rows_of(fleet, ids[:place] + ids[place + 1 :])
    survivor = fleet(engine_id=ids[place])
    fleet.live(4 * WAIT, survivor, step=4.0)
    assert state_counts(fleet) == {"live": 1, "fenced": 6}


def test_one_observes_no_more_than_a_window(fleet, monkeypatch):
    monkeypatch.setattr(detector, "WINDOW", 2)
    rows_of(fleet, [f"{n:04d}" for n in range(7)])
    observer = fleet(engine_id="0005-me")
    observer.turn()
    assert sorted(observer.parts.loop._sweep._detector._runs) == ["0000", "0006"]


# --- proof on the same machine ------------------------------------------------


def child_row(fleet, observer, command=("-c", ""), **changes):
    """The id of an engine of a process on the observer's machine that has ended."""
    child = subprocess.Popen([sys.executable, *command])
    me = observer.parts._identity
    with open(f"/proc/{child.pid}/stat", encoding="ascii") as file:
        start = int(file.read().rpartition(")")[2].split()[19])
    child.wait()
    engine_id = f"child-{child.pid}"
    rows_of(fleet, [engine_id])
    values = {
        "pid": child.pid,
        "process_start": start,
        "boot_id": me.boot_id,
        "namespaces": me.namespaces,
        **changes,
    }
    fleet.execute(sa.update(E).where(E.c.id == engine_id).values(**values))
    return engine_id


def test_proof_of_death_replaces_the_wait(every_fleet):
    fleet = every_fleet
    observer = fleet(machine=None)
    gone = child_row(fleet, observer)
    observer.turn()
    (row,) = fleet.execute(sa.select(E).where(E.c.id == gone))
    assert row.state == "fenced"
    assert row.fence_evidence == f"pid {row.pid} is gone"


def test_without_proof_the_wait_is_the_same_on_one_machine(fleet, clock):
    victim, observer = fleet(machine=None), fleet(machine=None)
    assert victim.parts._identity.pid == os.getpid()  # it lives, and is silent
    look(observer)
    watch(fleet, observer, WAIT - MICRO)
    assert not fenced(fleet, victim)
    clock.advance(2 * MICRO)
    look(observer)
    assert fenced(fleet, victim)


def test_an_engine_never_judges_itself(fleet):
    me = fleet(machine=None)
    fleet.execute(sa.update(E).values(process_start=1))
    me.turn()
    assert not fenced(fleet, me)
