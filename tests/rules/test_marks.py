"""A pass begins where the last one had nothing left behind it, and nothing that comes
before that is lost, or later than a lease."""

import dataclasses
from datetime import timedelta

import pytest
import sqlalchemy as sa

from liveness.db import tables
from tests.fleet import Recorder
from tests.rules.faults import Fault, Lost

D = tables.deadline

TTL, TIMEOUT, GRACE = 30.0, 5.0, 6.0
MICRO = 1e-6


@pytest.fixture
def engine(fleet):
    """One that has passed, and will not look at everything for a while."""
    engine = fleet(Recorder(), Recorder("action"))
    fleet.live(8, engine)
    engine.parts._sweep._next_doubt = fleet.clock.monotonic() + 1000
    fleet.live(2, engine)
    return engine


@pytest.fixture
def put(fleet, engine):
    """Puts a row into the table, of which nobody is told."""
    sample = engine.live.arm("timer", "sample", due_in=3600)

    def call(key: str, due_in: float, **fields) -> None:
        (row,) = fleet.execute(sa.select(D).where(D.c.id == sample.id))
        due = fleet.clock.utc + timedelta(seconds=due_in)
        moments = {"due_at": due, "expires_at": due}
        values = {**row._mapping, "key": key, **moments, **fields}
        del values["id"]
        fleet.execute(sa.insert(D).values(values))

    return call


def called(engine) -> list[str]:
    """The keys of what was handled in one turn and the next."""
    engine.turn()
    engine.live.clock.advance(0.2)  # what was tried in vain is tried again
    engine.turn()
    engine.settle()
    return sorted(engine.live.handlers.get("timer").keys)


def since(engine):
    """From where its next pass looks."""
    with engine.connect() as connection:
        return engine.parts._sweep._question(connection, ()).since


def seconds_behind(fleet, moment) -> float:
    return (fleet.clock.utc - moment).total_seconds()


def test_the_first_pass_looks_at_everything(fleet):
    assert since(fleet()) is None


def test_marks_are_behind_by_how_long_a_write_may_take_to_be_seen(fleet, engine):
    own, overdue = since(engine)
    assert seconds_behind(fleet, own) == pytest.approx(TIMEOUT)
    assert seconds_behind(fleet, overdue) == pytest.approx(TIMEOUT + GRACE)
    fleet.live(2, engine)
    assert seconds_behind(fleet, since(engine).own) == pytest.approx(TIMEOUT)


def test_what_is_before_the_mark_is_not_looked_at(engine, put):
    """Or there would be no need for one."""
    put("before", due_in=-TIMEOUT - MICRO)
    assert called(engine) == []


def test_what_was_made_due_a_write_ago_is_seen(engine, put):
    put("late", due_in=-TIMEOUT)
    assert called(engine) == ["late"]


def test_of_others_too(fleet, engine, put):
    other = fleet()
    put("late", due_in=-TIMEOUT - GRACE, owner_id=other.id)
    put("before", due_in=-TIMEOUT - GRACE - MICRO, owner_id=other.id)
    assert called(engine) == ["late"]


@pytest.mark.parametrize("whose", ["own", "others"])
def test_within_a_lease_everything_is_looked_at(fleet, engine, put, whose):
    owner = engine if whose == "own" else fleet()
    put("before", due_in=-3600, owner_id=owner.id)
    engine.parts._sweep._next_doubt = fleet.clock.monotonic() + TTL
    fleet.live(TTL, engine, owner)
    engine.settle()
    assert engine.live.handlers.get("timer").keys + (
        [] if owner is engine else owner.live.handlers.get("timer").keys
    ) == ["before"]


def test_what_has_no_owner_or_a_dead_one_has_no_mark(fleet, engine, put):
    dead = fleet()
    fleet.bury(dead)
    put("dead", due_in=-3600, owner_id=dead.id)
    put("nobodys", due_in=-3600, owner_id=None)
    assert called(engine) == ["dead", "nobodys"]


def test_what_could_not_be_claimed_keeps_the_mark_behind_it(fleet, engine, put):
    """A row that a host's transaction has locked, for longer than any lease."""
    claim = engine.parts._claims.claim_own
    put("locked", due_in=-TIMEOUT)
    engine.parts._claims.claim_own = lambda connection, me, found: []
    fleet.live(TTL * 2, engine)
    engine.parts._sweep._doubt_until = float("-inf")
    assert seconds_behind(fleet, since(engine).own) == pytest.approx(TTL * 2 + TIMEOUT)
    engine.parts._claims.claim_own = claim
    assert called(engine) == ["locked"]


def test_what_others_are_late_with_keeps_the_mark_behind_it(fleet, engine, put):
    other, claims = fleet(), engine.parts._claims
    put("overdue", due_in=-GRACE, owner_id=other.id)
    claim, claims.claim_overdue = claims.claim_overdue, lambda *args: []
    fleet.live(TTL * 2, engine)
    claims.claim_overdue = claim
    assert called(engine) == ["overdue"]


@pytest.mark.parametrize("owner_id", ["mine", None])
def test_a_page_full_of_what_is_found_otherwise_hides_nothing(
    fleet, engine, put, monkeypatch, owner_id
):
    """The overdue ones of others come after it."""
    monkeypatch.setattr("liveness.sweep.PAGE", 2)
    other = fleet()
    mine = engine.id if owner_id == "mine" else None
    put("overdue", due_in=-GRACE - 1, owner_id=other.id)
    for key in "abc":
        put(key, due_in=-GRACE - 2, owner_id=mine)
    engine.parts._sweep._doubt_until = fleet.clock.monotonic() + 3
    settings = engine.parts._sweep.settings
    engine.parts._sweep.settings = dataclasses.replace(settings, batch_size=2)
    runner = type(engine.parts.runner)
    monkeypatch.setattr(runner, "room", property(lambda self: 0))
    fleet.live(TTL, engine)
    monkeypatch.undo()
    engine.turn()
    assert called(engine) == ["a", "b", "c", "overdue"]


@pytest.mark.parametrize("back", [MICRO, 1.5, 120.0])
def test_a_clock_that_goes_back_is_no_reason_to_miss_anything(fleet, engine, put, back):
    """Or the one of another node, which the connection leads to now."""
    fleet.clock.jump(-back)
    put("before", due_in=-TIMEOUT - 1)
    assert called(engine) == ["before"]


def test_a_clock_that_goes_on_is_none_to_forget_the_marks(fleet, engine):
    fleet.clock.advance(MICRO)
    engine.turn()
    assert since(engine) is not None


def test_after_an_error_everything_is_looked_at_for_a_lease(fleet, engine, put):
    Fault(engine.parts.engines, "observe", before=1)
    engine.turn()
    fleet.live(TTL - 1, engine)
    put("before", due_in=-3600)
    assert called(engine) == ["before"]


def test_after_a_lost_conflict_too(fleet, engine, put):
    Fault(engine.parts._sweep._finder, "find", before=1, error=Lost)
    engine.parts._sweep._quiet = False
    engine.turn()
    put("before", due_in=-3600)
    assert called(engine) == ["before"]


def test_what_a_host_commits_after_it_was_due_is_not_a_lease_late(fleet, engine):
    """It was armed, came due, and was not there: for a lease it is awaited."""
    engine.live.arm("timer", "hosted", due_in=1.0)
    (row,) = fleet.execute(sa.select(D).where(D.c.key == "hosted"))
    fleet.execute(sa.delete(D).where(D.c.key == "hosted"))
    fleet.clock.advance(1.0)
    for _ in range(8):  # until it is not tried any more
        engine.parts.loop.turn()
        fleet.clock.advance(0.2)
    fleet.live(20, engine)
    fleet.execute(sa.insert(D).values(row._mapping))
    assert called(engine) == ["hosted"]


def test_for_a_kind_that_is_new_everything_is_looked_at(fleet, engine, put):
    other = fleet(Recorder("action"))
    put("before", due_in=-3600, owner_id=other.id, kind="new")
    assert called(engine) == []
    new = Recorder("new")
    engine.live.add_handler(new)
    engine.turn()
    engine.settle()
    assert new.keys == ["before"]


def test_what_was_left_out_is_looked_for_when_it_is_its_turn(fleet, engine, put):
    """While one is held that was claimed before, others of them are left out."""
    admission = type(engine.parts._admission)
    held = admission.suspect_held
    put("again", due_in=-TIMEOUT + 1, attempts=1)
    admission.suspect_held = property(lambda self: True)
    try:
        fleet.live(TTL, engine)
    finally:
        admission.suspect_held = held
    engine.parts._sweep._doubt_until = float("-inf")
    assert called(engine) == ["again"]


def test_what_was_held_back_after_a_jump_is_looked_for_after_it(fleet, engine, put):
    other = fleet()
    fleet.clock.jump(60)
    engine.turn()
    put("overdue", due_in=-GRACE, owner_id=other.id)
    for _ in range(round(TTL)):
        fleet.clock.advance(1.5)
        other.beat()
        engine.beat()
        engine.turn()
    assert called(engine) == ["overdue"]
