"""What a pass looks for, in which order, how much of it, and when it must not."""

import logging

import pytest
import sqlalchemy as sa

from liveness import sweep
from liveness.db import tables
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Fault, Meanwhile

D, E = tables.deadline, tables.engine
HOUR = 3600.0
GRACE = 6.0  # expired_grace and max_clock_skew
MICRO = 1e-6


def take_a_look(fleet, engine):
    """Beat, sweep, and settle, at this very moment."""
    engine.beat()
    engine.turn()
    engine.settle()


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(sweep, "PAGE", 2)
    monkeypatch.setattr(sweep, "OWN_PAGE", 2)
    return {"batch_size": 2}


# --- counts -------------------------------------------------------------------


def test_a_pass_returns_counts_and_says_nothing_when_nothing_happened(fleet, caplog):
    caplog.set_level(logging.INFO)
    engine = fleet()
    engine.turn()
    engine.turn()
    with engine.connect() as connection:
        counts = engine.parts.loop._sweep.run_pass(connection)
    assert (str(counts), counts.more) == ("", False)
    assert "Sweep of engine" not in caplog.text


def test_a_pass_counts_and_says_what_it_did(fleet, caplog):
    caplog.set_level(logging.INFO)
    timer = Recorder("timer")
    action = Recorder("action", when_orphaned="retrigger")
    careful = Recorder("careful", when_orphaned="park")
    kinds = (timer, action, careful)
    victim, owner, engine = fleet(*kinds), fleet(*kinds), fleet(*kinds)
    old = fleet()
    fleet.bury(old)
    for kind in ("timer", "action", "careful"):
        victim.live.arm(kind, "k", due_in=2 * HOUR)
    victim.live.arm("timer", "due", due_in=10)
    owner.live.arm("timer", "overdue", due_in=10)
    fleet.clock.advance(HOUR + 1)
    fleet.bury(victim)
    engine.beat()
    engine.turn()
    said = "1 adopted, 1 retriggered, 2 expired, 1 parked, 1 purged"
    assert f"Sweep of engine {engine.id}: {said}." in caplog.text


def test_a_fence_is_counted(fleet):
    victim, engine = fleet(), fleet()
    fleet.live(32, engine)
    fleet.clock.advance(2)
    engine.beat()
    with engine.parts._sweep_pool.connect() as connection:
        counts = engine.parts.loop._sweep.run_pass(connection)
    assert str(counts) == "1 fenced"
    assert fleet.engine_row(victim).state == "fenced"


# --- the owner's head start ---------------------------------------------------


def test_others_wait_for_the_grace_and_the_clock_skew_to_the_microsecond(every_fleet):
    fleet, timer = every_fleet, Recorder()
    owner, other = fleet(), fleet(timer, expired_grace=10, max_clock_skew=3)
    owner.live.arm("timer", "k", due_in=5)
    fleet.clock.advance(5 + 13 - MICRO)
    take_a_look(fleet, other)
    assert fleet.row("k").state == "armed"
    fleet.clock.advance(MICRO)
    take_a_look(fleet, other)
    assert timer.keys == ["k"]


def test_the_grace_is_looked_at_again_by_the_claim(fleet):
    """Another clock may have answered the find."""
    timer = Recorder()
    owner, other = fleet(), fleet(timer)
    owner.live.arm("timer", "k", due_in=5)
    fleet.clock.advance(5 + GRACE)
    other.beat()
    Meanwhile(
        other.parts._claims, "claim_overdue", lambda: fleet.clock.jump(-10 * MICRO)
    )
    other.turn()
    assert fleet.row("k").state == "armed"


def test_an_owner_needs_no_grace(fleet):
    timer = Recorder()
    owner = fleet(timer)
    owner.turn()
    owner.live.arm("timer", "k", due_in=5)
    fleet.clock.advance(5 - MICRO)
    owner.turn()
    assert fleet.row("k").state == "armed"
    fleet.clock.advance(2 * MICRO)
    owner.turn()
    owner.settle()
    assert timer.keys == ["k"]


def test_an_orphan_that_is_due_needs_no_grace(fleet):
    timer = Recorder()
    owner, other = fleet(), fleet(timer)
    owner.live.arm("timer", "k", due_in=5)
    fleet.bury(owner)
    fleet.clock.advance(5)
    take_a_look(fleet, other)
    assert timer.keys == ["k"]


# --- the clock jumps ----------------------------------------------------------


@pytest.mark.parametrize("jump", [1 + 1e-3, -1 - 1e-3, HOUR, -HOUR])
def test_a_jump_holds_claims_by_due_time_back_for_a_ttl(fleet, caplog, jump):
    timer = Recorder()
    owner, other = fleet(), fleet(timer)
    owner.live.arm("timer", "k", due_in=2 * HOUR)
    take_a_look(fleet, other)
    fleet.clock.jump(jump)
    take_a_look(fleet, other)
    assert caplog.text.count("database's clock jumped by") == 1
    for row in fleet.rows():  # overdue by far on the new clock
        fleet.execute(sa.update(D).values(due_at=row.due_at.replace(year=2025)))
    fleet.live(30 - 1, other)
    assert timer.calls == []
    fleet.live(2, other)
    other.settle()
    assert timer.keys == ["k"]


@pytest.mark.parametrize("jump", [1 - 1e-3, -1 + 1e-3])
def test_a_smaller_one_is_no_jump(fleet, caplog, jump):
    timer = Recorder()
    owner, other = fleet(), fleet(timer)
    owner.live.arm("timer", "k", due_in=1)
    take_a_look(fleet, other)
    fleet.clock.jump(jump)
    fleet.clock.advance(1 + GRACE + 1)
    take_a_look(fleet, other)
    assert "jumped" not in caplog.text
    assert timer.keys == ["k"]


@pytest.mark.parametrize("before", [True, False])
def test_the_time_that_an_answer_took_is_no_jump(fleet, caplog, before):
    engine = fleet()
    engine.turn()
    observe = engine.parts.engines
    Meanwhile(observe, "observe", lambda: fleet.clock.advance(4), before)
    engine.turn()
    assert "jumped" not in caplog.text


def test_a_reading_after_a_slow_one_is_no_jump(fleet, caplog):
    engine = fleet()
    engine.turn()
    Meanwhile(engine.parts.engines, "observe", lambda: fleet.clock.advance(4))
    engine.turn()
    engine.turn()
    assert "jumped" not in caplog.text


def test_the_first_reading_is_no_jump(fleet, caplog):
    fleet.clock.jump(-HOUR)
    fleet().turn()
    assert "jumped" not in caplog.text


def test_a_jump_holds_no_orphans_back(fleet):
    timer = Recorder()
    owner, other = fleet(), fleet(timer)
    owner.live.arm("timer", "k", due_in=HOUR)
    owner.live.arm("timer", "due", due_in=1)
    take_a_look(fleet, other)
    fleet.clock.jump(10)
    fleet.bury(owner)
    take_a_look(fleet, other)
    assert timer.keys == ["due"]
    assert fleet.row("k").owner_id == other.id


def test_own_deadlines_fire_after_a_jump(fleet):
    """Due by the database's clock is due: it alone judges."""
    timer = Recorder()
    owner = fleet(timer)
    owner.turn()
    owner.live.arm("timer", "k", due_in=HOUR)
    fleet.clock.jump(HOUR)
    owner.turn()
    owner.turn()
    owner.settle()
    assert timer.keys == ["k"]


def test_a_clock_set_back_delays_and_fires_nothing_early(fleet):
    timer = Recorder()
    owner = fleet(timer)
    owner.turn()
    owner.live.arm("timer", "k", due_in=2)
    fleet.clock.jump(-100)
    fleet.live(100, owner)
    assert timer.calls == []
    fleet.live(4, owner)
    owner.settle()
    assert timer.keys == ["k"]


# --- order, room and pages ----------------------------------------------------


def test_orphans_go_before_what_is_merely_due(every_fleet):
    fleet, gate = every_fleet, Gate()
    kind = Recorder(when_orphaned="retrigger", handler_timeout=HOUR)
    kind.answer = gate
    dead, owner = fleet(kind), fleet(kind)
    engine = fleet(kind, batch_size=1, handler_threads=1)
    owner.live.arm("timer", "overdue", due_in=1)
    dead.live.arm("timer", "orphan", due_in=HOUR)
    fleet.bury(dead)
    fleet.clock.advance(60)
    engine.beat()
    engine.turn()
    assert gate.entered.wait(10)
    assert kind.keys == ["orphan"]
    gate.open.set()


@pytest.mark.parametrize("others, begun", [(0, "k0"), (1, "k7")])
def test_where_others_look_too_the_orphans_are_not_begun_at_the_head(
    fleet, monkeypatch, others, begun
):
    monkeypatch.setattr("liveness.sweep.random.randrange", lambda size: size * 7 // 10)
    kind = Recorder(when_orphaned="retrigger")
    dead, engine = fleet(kind), fleet(kind, batch_size=1)
    for _ in range(others):
        fleet(kind)
    for number in range(10):
        dead.live.arm("timer", f"k{number}", due_in=HOUR)
    fleet.bury(dead)
    engine.turn()
    (claimed,) = [row.key for row in fleet.rows() if row.state == "claimed"]
    assert claimed == begun


def test_no_pass_takes_more_than_a_batch(fleet):
    kind = Recorder(when_orphaned="retrigger")
    dead, engine = fleet(kind), fleet(kind, batch_size=3)
    for number in range(10):
        dead.live.arm("timer", f"k{number}", due_in=HOUR)
    fleet.bury(dead)
    engine.turn()
    assert sum(row.state == "claimed" for row in fleet.rows()) <= 3
    for _ in range(10):
        engine.settle()
        engine.turn()
    engine.settle()
    assert fleet.rows() == []


def test_a_full_page_asks_for_the_next_at_once(fleet, small_pages):
    dead, engine = fleet(), fleet(**small_pages)
    for number in range(5):
        dead.live.arm("timer", f"k{number}", due_in=HOUR)
    fleet.bury(dead)
    delays = [engine.parts.loop.turn() for _ in range(8)]
    assert {row.owner_id for row in fleet.rows()} == {engine.id}
    assert delays[0] == 0
    assert delays[-1] > 0


@pytest.mark.parametrize("owner", ["dead", "nobody"])
def test_a_page_that_cannot_be_taken_starves_no_other(fleet, small_pages, owner):
    """Claimed by another clock, but not due by this one: two of them, first in line."""
    timer = Recorder()
    dead, engine = fleet(timer), fleet(timer, **small_pages)
    for number in range(5):
        dead.live.arm("timer", f"k{number}", due_in=HOUR + number)
    waiting = D.c.key.in_(["k0", "k1"])
    fleet.execute(sa.update(D).where(waiting).values(state="claimed"))
    if owner == "nobody":
        fleet.execute(sa.update(D).where(~waiting).values(owner_id=None))
    fleet.bury(dead)
    for _ in range(10):
        fleet.live(2, engine)
    owners = {row.key: row.owner_id for row in fleet.rows()}
    assert [key for key in owners if owners[key] != engine.id] == ["k0", "k1"]
    fleet.live(HOUR, engine, step=100)
    for _ in range(5):
        fleet.live(2, engine)
        engine.settle()
    assert sorted(set(timer.keys)) == ["k0", "k1", "k2", "k3", "k4"]


@pytest.mark.parametrize("owner", ["dead", "nobody"])
def test_what_has_to_wait_for_a_thread_does_not_keep_timers_from_an_owner(
    fleet, small_pages, owner
):
    """All threads are busy; a page of actions, first in line, cannot be claimed now."""
    gate = Gate()
    action = Recorder("action", when_orphaned="retrigger", handler_timeout=HOUR)
    action.answer = gate
    kinds = (action, Recorder())
    dead, engine = fleet(*kinds), fleet(*kinds, handler_threads=1, **small_pages)
    engine.turn()
    for number in range(3):
        engine.live.arm("action", f"runs{number}", due_in=1)
    fleet.clock.advance(1)
    while engine.parts.runner.room:
        engine.turn()
    for number in range(5):
        dead.live.arm("action", f"waits{number}", due_in=HOUR)
    dead.live.arm("timer", "k", due_in=2 * HOUR)
    fleet.bury(dead)
    if owner == "nobody":
        theirs = D.c.owner_id == dead.id
        fleet.execute(sa.update(D).where(theirs).values(owner_id=None))
    for _ in range(10):
        fleet.live(2, engine)
    adopted = fleet.row("k").owner_id
    gate.open.set()
    assert adopted == engine.id


def test_more_own_deadlines_than_a_page_all_fire_in_time(fleet, small_pages):
    timer = Recorder()
    engine = fleet(timer, **small_pages)
    for number in range(9):
        engine.live.arm("timer", f"k{number}", due_in=1 + number / 10)
    start = fleet.clock.monotonic()
    late = {}
    while fleet.rows() and fleet.clock.monotonic() < start + 10:
        fleet.clock.advance(min(engine.parts.loop.turn(), 0.05))
        wait_until(lambda: not engine.unanswered)
        for key in timer.keys:
            late.setdefault(key, fleet.clock.monotonic() - start)
    assert len(late) == 9
    for number in range(9):
        due = 1 + number / 10  # kept in whole microseconds
        assert due - 1e-6 <= late[f"k{number}"] <= due + 0.3


def test_unplayable_rows_of_a_kind_in_the_page_do_not_starve_the_overdue(
    fleet, small_pages
):
    timer = Recorder()
    owner, engine = fleet(timer), fleet(timer, **small_pages)
    for number in range(6):
        owner.live.arm("timer", f"k{number}", due_in=1)
    broken = D.c.key.in_([f"k{number}" for number in range(4)])
    fleet.execute(sa.update(D).where(broken).values(payload="{"))
    for _ in range(10):
        fleet.live(2, engine)
        engine.settle()
    assert sorted(timer.keys) == ["k4", "k5"]
    rows = fleet.rows()
    assert {row.state for row in rows} == {"parked"}
    assert all("its payload is not JSON" in row.last_error for row in rows)


# --- what cannot be handled ---------------------------------------------------


def test_an_own_row_whose_payload_is_no_json_is_parked_when_due(every_fleet):
    fleet, timer = every_fleet, Recorder()
    engine = fleet(timer)
    for key in ("bad", "good"):
        engine.live.arm("timer", key, due_in=4)
    fleet.execute(sa.update(D).where(D.c.key == "bad").values(payload="{'a'"))
    fleet.live(2, engine)
    assert fleet.row("bad").state == "armed"
    fleet.live(4, engine)
    engine.settle()
    assert timer.keys == ["good"]
    row = fleet.row("bad")
    assert (row.state, row.owner_id, row.attempts) == ("parked", None, 0)
    assert row.last_error.startswith("its payload is not JSON")


def test_an_unknown_kind_is_left_to_others_for_the_grace_then_parked(every_fleet):
    fleet = every_fleet
    other = Recorder("other")
    owner, engine = fleet(), fleet(other, unknown_kind_grace=60)
    owner.live.arm("timer", "k", due_in=10)
    fleet.bury(owner)
    fleet.clock.advance(10 + 60 - MICRO)
    take_a_look(fleet, engine)
    assert fleet.row("k").state == "armed"
    fleet.clock.advance(MICRO)
    take_a_look(fleet, engine)
    row = fleet.row("k")
    assert row.state == "parked"
    assert "no engine with a handler for kind 'timer' took it" in row.last_error


def test_an_orphan_of_an_unknown_kind_is_not_adopted(fleet):
    owner, engine = fleet(), fleet(Recorder("other"))
    owner.live.arm("timer", "k", due_in=HOUR)
    fleet.bury(owner)
    fleet.live(100, engine)
    assert fleet.row("k").owner_id == owner.id
    knows = fleet()
    take_a_look(fleet, knows)
    assert fleet.row("k").owner_id == knows.id


def test_who_does_not_know_a_kind_parks_nothing_of_a_living_owner(fleet):
    """The owner is busy for a minute; that is no reason to call the operator."""
    gate, kind = Gate(), Recorder(handler_timeout=HOUR)
    kind.answer = gate
    owner = fleet(kind, handler_threads=1, batch_size=1)
    stranger = fleet(Recorder("other"), unknown_kind_grace=60)
    owner.turn()
    owner.live.arm("timer", "first", due_in=1)
    owner.live.arm("timer", "second", due_in=1)
    fleet.live(100, owner, stranger)
    states = [row.state for row in fleet.rows()]
    gate.open.set()
    assert sorted(states) == ["armed", "claimed"]


def test_a_deadline_given_back_by_the_operator_is_handled(fleet):
    """A kind that parks orphans, before the promise: it was parked, and is to run."""
    kind = Recorder(when_orphaned="park")
    owner, engine = fleet(kind), fleet(kind)
    owner.live.arm("timer", "k", due_in=HOUR)
    fleet.bury(owner)
    engine.turn()
    assert fleet.row("k").state == "parked"
    engine.live.unpark("timer", "k")
    fleet.live(10, engine)
    engine.settle()
    assert kind.keys == ["k"]


def test_a_timer_that_the_operator_gives_back_keeps_its_promise(every_fleet):
    fleet = every_fleet
    kind = Recorder(when_orphaned="adopt")
    engine = fleet(kind)
    armed = engine.live.arm("timer", "k", due_in=HOUR)
    parked = {"state": "parked", "owner_id": None, "attempts": 5}
    fleet.execute(sa.update(D).values(**parked))
    engine.live.unpark("timer", "k")
    fleet.live(6, engine)
    row = fleet.row("k")
    assert (row.owner_id, row.due_at, row.attempts) == (engine.id, armed.due_at, 0)
    assert kind.calls == []


def test_an_action_that_the_operator_gives_back_runs_at_once(every_fleet):
    fleet = every_fleet
    kind = Recorder(when_orphaned="retrigger")
    engine = fleet(kind)
    engine.live.arm("timer", "k", due_in=HOUR)
    parked = {"state": "parked", "owner_id": None, "attempts": 5}
    fleet.execute(sa.update(D).values(**parked))
    engine.live.unpark("timer", "k")
    assert fleet.row("k").attempts == 0
    for _ in range(3):
        fleet.live(2, engine)
    engine.settle()
    assert kind.keys == ["k"]
    assert fleet.rows() == []


def test_a_parked_row_is_never_looked_at(fleet):
    kind = Recorder(when_orphaned="retrigger")
    owner, engine = fleet(kind), fleet(kind)
    owner.live.arm("timer", "k", due_in=1)
    fleet.execute(sa.update(D).values(state="parked", owner_id=None))
    before = fleet.rows()
    fleet.live(200, owner, engine)
    assert fleet.rows() == before


# --- own claims that nobody knows of ------------------------------------------


def test_an_own_claim_that_no_error_told_of_is_found_within_a_lease(fleet):
    """A statement that committed long after its error: no turn failed since."""
    timer = Recorder()
    engine = fleet(timer)
    engine.live.arm("timer", "k", due_in=HOUR)
    fleet.live(100, engine)
    fleet.execute(sa.update(D).values(state="claimed", attempts=1))
    fleet.live(36 + 2, engine)
    engine.settle()
    assert timer.keys == ["k"]


# --- how large the fleet is ------------------------------------------------------


def test_the_fleet_is_as_large_as_the_sweep_saw_it(fleet):
    engine, other, victim = fleet(), fleet(), fleet()
    assert engine.live.fleet_size == 1  # it knows of nobody yet
    engine.turn()
    assert engine.live.fleet_size == 3
    other.parts.begin_drain()  # alive, and at work
    engine.turn()
    assert engine.live.fleet_size == 3
    fleet.bury(victim)
    engine.turn()
    assert engine.live.fleet_size == 2


def test_a_fleet_of_which_one_sees_a_part_is_counted(fleet, monkeypatch):
    for module in ("detector", "sweep"):
        monkeypatch.setattr(f"liveness.{module}.WINDOW", 2)
    engine = fleet()
    fleets = [fleet() for _ in range(5)]
    engine.turn()
    assert engine.live.fleet_size == 6
    for victim in fleets[1:]:
        fleet.bury(victim)
    engine.parts._sweep._next_housekeeping = 0.0
    engine.turn()
    assert engine.live.fleet_size == 2


def house_pause(engine, fleet):
    """In leases, until it keeps house again."""
    engine.turn()
    left = engine.parts._sweep._next_housekeeping - fleet.clock.monotonic()
    return left / engine.parts._sweep.settings.ttl


@pytest.fixture
def large(fleet, monkeypatch):
    """An engine in a fleet of ten, of which it sees two others."""
    for module in ("detector", "sweep"):
        monkeypatch.setattr(f"liveness.{module}.WINDOW", 2)
    monkeypatch.setattr(sweep, "HOUSEKEEPERS", 1)
    engine, *others = (fleet() for _ in range(10))
    return engine, others


def test_house_is_kept_as_seldom_as_the_fleet_is_large(fleet, large, monkeypatch):
    engine, _ = large
    assert 8 <= house_pause(engine, fleet) <= 12
    monkeypatch.setattr(sweep, "LONGEST", 4)
    engine.parts._sweep._next_housekeeping = 0.0
    assert 3.2 <= house_pause(engine, fleet) <= 4.8


def test_a_fleet_that_has_shrunk_keeps_house_as_a_small_one(fleet, large):
    engine, others = large
    assert 8 <= house_pause(engine, fleet)
    for other in others:
        fleet.bury(other)
    assert house_pause(engine, fleet) <= 1.2


def test_own_claims_are_looked_for_once_a_lease_in_a_fleet_of_any_size(fleet, large):
    engine, _ = large
    engine.turn()
    kept, looked = Fault(engine.parts.engines, "owners_not_alive"), []
    for _ in range(20):
        fleet.live(2, engine)
        with engine.connect() as connection:
            looked.append(engine.parts._sweep._scope(connection).held)
    assert kept.calls == 0
    assert not all(looked)
    assert any(looked[1:])
