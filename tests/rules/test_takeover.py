"""Takeover: a state, not an event; and one holder at any time."""

import dataclasses
import logging

import pytest
import sqlalchemy as sa

from liveness import Done, Park, Rearm, Release, Retry, exceptions
from liveness.db import tables
from liveness.db.rows import new_token
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Fault, Meanwhile

D, E = tables.deadline, tables.engine
HOUR = 3600.0
GRACE = 6.0  # expired_grace and max_clock_skew

STATE = dict.fromkeys(["id", "arm_token", "due_at", "expires_at", "payload"])


def kept(row):
    return {name: getattr(row, name) for name in STATE}


# --- what becomes of an orphan: on every database -----------------------------


def test_an_orphaned_timer_is_adopted_with_its_due_time_and_fires_then(every_fleet):
    fleet, timer = every_fleet, Recorder()
    victim, survivor = fleet(), fleet(timer)
    victim.live.arm("timer", "k", due_in=HOUR, payload={"a": 1})
    before = fleet.row("k")
    fleet.bury(victim)
    survivor.turn()
    after = fleet.row("k")
    assert kept(after) == kept(before)
    assert (after.owner_id, after.state, after.attempts) == (survivor.id, "armed", 0)
    assert after.epoch == before.epoch + 1
    assert after.token != before.token
    fleet.live(HOUR - 2, survivor, step=100.0)
    assert timer.calls == []
    fleet.live(2, survivor)
    survivor.settle()
    assert [name for name, _ in timer.calls] == ["expired"]
    assert fleet.rows() == []


def test_an_orphaned_action_is_retriggered_at_once(every_fleet):
    fleet, action = every_fleet, Recorder("action", when_orphaned="retrigger")
    victim, survivor = fleet(action), fleet(action)
    victim.live.arm("action", "k", due_in=HOUR, payload=["x"])
    before = fleet.row("k")
    fleet.bury(victim)
    survivor.turn()
    survivor.settle()
    ((name, value),) = action.calls
    assert name == "orphaned"
    assert value.orphaned and not value.expired
    assert value.payload == ["x"]
    assert value.expires_at == before.expires_at
    assert (value.epoch, value.attempts) == (2, 1)
    assert fleet.rows() == []


def test_an_orphan_may_be_parked_with_the_reason(every_fleet):
    fleet, kind = every_fleet, Recorder("careful", when_orphaned="park")
    victim, survivor = fleet(kind), fleet(kind)
    victim.live.arm("careful", "k", due_in=HOUR)
    fleet.bury(victim)
    survivor.turn()
    row = fleet.row("k")
    assert (row.state, row.owner_id) == ("parked", None)
    assert row.last_error == "its owner died (its kind says: park)"
    fleet.live(2 * HOUR, survivor, step=600.0)
    assert kind.calls == []
    assert fleet.row("k").state == "parked"


@pytest.mark.parametrize("plan", ["adopt", "retrigger", "park"])
def test_an_orphan_past_its_promise_is_expired(fleet, plan):
    kind = Recorder(when_orphaned=plan)
    victim, survivor = fleet(kind), fleet(kind)
    victim.live.arm("timer", "k", due_in=10)
    fleet.bury(victim)
    fleet.clock.advance(10)
    survivor.turn()
    survivor.settle()
    assert [name for name, _ in kind.calls] == ["expired"]
    assert fleet.rows() == []


def test_just_before_its_promise_it_is_only_orphaned(fleet):
    action = Recorder("action", when_orphaned="retrigger")
    victim, survivor = fleet(action), fleet(action)
    victim.live.arm("action", "k", due_in=10)
    fleet.bury(victim)
    fleet.clock.advance(10 - 1e-6)
    survivor.turn()
    survivor.settle()
    assert [name for name, _ in action.calls] == ["orphaned"]


def test_both_facts_are_on_the_value(fleet):
    kind = Recorder()
    victim, survivor = fleet(kind), fleet(kind)
    victim.live.arm("timer", "k", due_in=10)
    fleet.bury(victim)
    fleet.clock.advance(10)
    survivor.turn()
    survivor.settle()
    assert kind.calls[0][1].expired
    assert kind.calls[0][1].orphaned


def test_what_only_came_due_is_no_orphan(fleet):
    timer = Recorder()
    owner, other = fleet(), fleet(timer)
    owner.live.arm("timer", "k", due_in=10)
    fleet.clock.advance(10 + GRACE)
    other.beat()
    other.turn()
    other.settle()
    assert timer.calls[0][1].expired
    assert not timer.calls[0][1].orphaned


@pytest.mark.parametrize("how", ["stopped", "missing", "released"])
def test_an_owner_that_is_stopped_or_missing_or_gave_it_back_is_no_owner(
    every_fleet, how
):
    fleet = every_fleet
    victim, survivor = fleet(), fleet()
    victim.live.arm("timer", "k", due_in=HOUR)
    if how == "stopped":
        fleet.execute(
            sa.update(E)
            .where(E.c.id == victim.id)
            .values(state="stopped", ended_at=fleet.clock.utc)
        )
    elif how == "missing":
        fleet.execute(sa.delete(E).where(E.c.id == victim.id))
    else:
        fleet.execute(sa.update(D).values(owner_id=None))
    survivor.turn()
    if how == "missing":  # for a whole lease: a failover may have lost its row
        fleet.live(28, survivor)
        assert fleet.row("k").owner_id == victim.id
        fleet.live(16, survivor)
    assert fleet.row("k").owner_id == survivor.id


def test_what_commits_after_the_takeover_is_found_all_the_same(every_fleet):
    """An arm in a long host transaction, and a claim in flight, of an engine that was
    fenced and taken over meanwhile."""
    fleet = every_fleet
    victim, survivor = fleet(), fleet()
    victim.live.arm("timer", "early", due_in=HOUR)
    fleet.bury(victim)
    survivor.turn()
    assert fleet.row("early").owner_id == survivor.id
    assert victim.live.trusted  # it does not know yet
    victim.live.arm("timer", "late", due_in=HOUR)
    survivor.turn()
    assert fleet.row("late").owner_id == survivor.id


def test_a_claim_of_an_engine_that_is_dead_by_then_is_taken_over(every_fleet):
    fleet, gate = every_fleet, Gate()
    slow, timer = Recorder(), Recorder()
    slow.answer = gate
    victim, survivor = fleet(slow), fleet(timer)
    victim.turn()
    victim.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    Meanwhile(victim.parts._claims, "claim_own", lambda: fleet.bury(victim))
    victim.turn()
    assert fleet.row("k").state == "claimed"
    survivor.turn()
    survivor.settle()
    assert timer.keys == ["k"]
    assert fleet.rows() == []
    gate.open.set()


def test_an_owner_whose_row_went_long_ago_is_found_by_housekeeping(fleet):
    survivor = fleet()
    survivor.turn()  # housekeeping is done for this lease
    victim = fleet()
    victim.live.arm("timer", "k", due_in=HOUR)
    fleet.execute(sa.delete(E).where(E.c.id == victim.id))
    fleet.live(30 * 0.8 - 2, survivor)
    assert fleet.row("k").owner_id == victim.id
    fleet.live(30 * 0.4 + 4 + 30 * 1.3, survivor)
    assert fleet.row("k").owner_id == survivor.id


def test_more_lost_owners_than_one_look_shows_are_found_in_the_end(fleet, monkeypatch):
    from liveness import sweep

    monkeypatch.setattr(sweep, "LINGERING", 2)
    survivor = fleet()
    lost = [fleet() for _ in range(5)]
    for engine in lost:
        engine.live.arm("timer", engine.id, due_in=HOUR)
    fleet.execute(sa.delete(E).where(E.c.id != survivor.id))
    fleet.live(3 * (36 + 30 * 1.3) + 10, survivor)
    assert {row.owner_id for row in fleet.rows()} == {survivor.id}


# --- look again ---------------------------------------------------------------


@pytest.mark.parametrize("plan", ["adopt", "retrigger"])
def test_an_owner_that_is_alive_at_the_second_look_keeps_its_row(every_fleet, plan):
    """A failover may have lost the fence between the find and the claim."""
    fleet, kind = every_fleet, Recorder(when_orphaned=plan)
    owner, other = fleet(kind), fleet(kind)
    owner.live.arm("timer", "k", due_in=HOUR)
    before = fleet.row("k")
    fleet.bury(owner)

    def lose_the_fence():
        values = {"state": "live", "ended_at": None}
        fleet.execute(sa.update(E).where(E.c.id == owner.id).values(**values))

    Meanwhile(other.parts.loop._sweep._finder, "find", lose_the_fence, before=False)
    other.turn()
    assert fleet.row("k") == before
    assert kind.calls == []


@pytest.mark.parametrize("change", ["extend", "disarm", "rearmed", "taken"])
@pytest.mark.parametrize("sort", ["own", "orphan", "overdue"])
def test_what_changed_between_the_find_and_the_claim_is_left_alone(fleet, change, sort):
    """Otherwise it would be early, or run twice, or be another deadline's row."""
    _changed_meanwhile(fleet, change, sort)


@pytest.mark.parametrize("sort", ["own", "orphan", "overdue"])
def test_what_was_extended_after_the_find_is_not_claimed_early(every_fleet, sort):
    _changed_meanwhile(every_fleet, "extend", sort)


def _changed_meanwhile(fleet, change, sort):
    # No plan of the fleet's own: what is claimed is what is tested.
    timer = Recorder(when_orphaned="retrigger")
    owner = fleet(timer)
    other = fleet(timer) if sort != "own" else owner
    owner.turn()
    value = owner.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1 + (GRACE if sort == "overdue" else 0))
    other.beat()
    if sort == "orphan":
        fleet.execute(sa.update(D).values(owner_id=None))
        value = value._replace(owner_id=None)

    def changed():
        row = D.c.id == value.id
        if change == "extend":
            later = {"due_at": value.due_at.replace(year=2030), "token": new_token()}
            fleet.execute(sa.update(D).where(row).values(**later))
        elif change == "taken":
            fleet.execute(sa.update(D).where(row).values(token=new_token()))
        else:
            fleet.execute(sa.delete(D).where(row))
            if change == "rearmed":
                owner.live.arm("timer", "k", due_in=HOUR)
        seen.append(fleet.row("k"))

    seen = []
    method = {"own": "own", "orphan": "orphans", "overdue": "overdue"}[sort]
    Meanwhile(other.parts._claims, f"claim_{method}", changed)
    other.turn()
    assert seen
    assert timer.calls == []
    assert fleet.row("k") == seen[0]


# --- one holder ---------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", [Done(), Rearm(5), Retry("r"), Release("r"), Park("r")], ids=repr
)
def test_a_holder_that_was_taken_over_settles_nothing(fleet, outcome, caplog):
    _settle_too_late(fleet, outcome)
    assert "was taken over while it was handled here" in caplog.text


@pytest.mark.parametrize("outcome", [Done(), Retry("r")], ids=repr)
def test_a_late_settlement_changes_nothing(every_fleet, outcome):
    _settle_too_late(every_fleet, outcome)


def _settle_too_late(fleet, outcome):
    gate, second = Gate(), Gate()
    hers, his = Recorder(), Recorder()

    def slowly(deadline):
        gate(deadline)
        return outcome

    hers.answer, his.answer = slowly, second
    victim, survivor = fleet(hers), fleet(his)
    victim.turn()
    victim.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    victim.turn()
    assert gate.entered.wait(10)
    fleet.bury(victim)
    survivor.turn()
    assert second.entered.wait(10)
    before = fleet.row("k")
    assert before.owner_id == survivor.id
    gate.open.set()
    victim.settle()
    assert fleet.row("k") == before
    assert not victim.parts.runner.busy
    second.open.set()
    survivor.settle()
    assert fleet.rows() == []


@pytest.mark.parametrize("field", ["token", "owner_id"])
@pytest.mark.parametrize(
    "outcome", [Done(), Rearm(5), Retry("r"), Release("r"), Park("r")], ids=repr
)
def test_every_settlement_presents_token_and_owner(fleet, outcome, field):
    timer = Recorder()
    timer.answer = outcome
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    engine.turn()
    wait_until(lambda: not engine.unanswered)
    fleet.execute(sa.update(D).values({field: new_token()}))
    before = fleet.row("k")
    engine.settle()
    assert fleet.row("k") == before


def test_two_survivors_share_what_there_is_and_run_nothing_twice(every_fleet):
    fleet = every_fleet
    kind = Recorder("action", when_orphaned="retrigger")
    victim = fleet(kind)
    one, two = fleet(kind), fleet(kind)
    for number in range(10):
        victim.live.arm("action", f"k{number}", due_in=HOUR)
    fleet.bury(victim)
    Meanwhile(one.parts._claims, "claim_orphans", two.turn)
    one.turn()
    one.settle()
    two.settle()
    assert sorted(kind.keys) == sorted(f"k{n}" for n in range(10))
    assert fleet.rows() == []


# --- a claimed row and its owner ----------------------------------------------


def test_a_claimed_row_is_never_due_for_others_while_its_owner_lives(every_fleet):
    fleet, gate, timer = every_fleet, Gate(), Recorder()
    slow = Recorder(handler_timeout=20 * 86400)
    slow.answer = gate
    owner, other = fleet(slow), fleet(timer)
    owner.turn()
    owner.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    owner.turn()
    before = fleet.row("k")
    assert before.state == "claimed"
    for _ in range(3):
        fleet.clock.advance(2 * 86400)
        fleet.live(8, owner, other)
    assert fleet.row("k") == before
    assert timer.calls == []
    gate.open.set()
    owner.settle()
    assert slow.keys == ["k"]
    assert fleet.rows() == []


@pytest.mark.parametrize("lost", ["claim_own", "claim_orphans", "claim_overdue"])
def test_a_claim_whose_answer_was_lost_is_adopted_by_its_owner(fleet, lost):
    _lose_claim(fleet, lost)


def test_a_lost_claim_is_adopted_on_every_database(every_fleet):
    _lose_claim(every_fleet, "claim_orphans")


def _lose_claim(fleet, lost):
    timer = Recorder(when_orphaned="retrigger")
    owner, engine = fleet(timer), fleet(timer)
    engine.turn()
    (engine if lost == "claim_own" else owner).live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1 + (GRACE if lost == "claim_overdue" else 0))
    engine.beat()
    if lost == "claim_orphans":
        fleet.bury(owner)
    Fault(engine.parts._claims, lost, after=1)
    engine.turn()
    row = fleet.row("k")
    assert (row.state, row.owner_id, row.attempts) == ("claimed", engine.id, 1)
    assert timer.calls == []
    engine.turn()
    engine.settle()
    assert timer.keys == ["k"]
    assert timer.calls[0][1].attempts == 1
    assert fleet.rows() == []


def test_an_adoption_whose_answer_was_lost_is_simply_owned(fleet):
    timer = Recorder()
    victim, survivor = fleet(), fleet(timer)
    victim.live.arm("timer", "k", due_in=10)
    fleet.bury(victim)
    Fault(survivor.parts._claims, "adopt_orphans", after=1)
    survivor.turn()
    assert fleet.row("k").owner_id == survivor.id
    fleet.live(10, survivor)
    survivor.settle()
    assert timer.keys == ["k"]


def test_the_adoption_of_a_lost_claim_may_be_lost_as_well(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    Fault(engine.parts._claims, "claim_own", after=1)
    Fault(engine.parts._claims, "adopt_lost", after=2)
    for _ in range(4):
        engine.turn()
    engine.settle()
    assert timer.keys == ["k"]
    assert timer.calls[0][1].attempts == 1


def test_what_is_held_or_pending_is_not_adopted_again(fleet):
    gate, slow = Gate(), Recorder()
    slow.answer = gate
    engine = fleet(slow)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    adopt = Fault(engine.parts._claims, "adopt_lost")
    for _ in range(3):
        engine.turn()  # it runs
    gate.open.set()
    wait_until(lambda: not engine.unanswered)
    complete = Fault(engine.parts.deadlines, "complete", before=3)
    for _ in range(3):
        engine.turn()  # it is answered, and cannot be settled
        with engine.connect() as connection:
            engine.parts.loop._sweep.run_pass(connection)
    assert complete.calls == 3
    engine.turn()
    assert slow.keys == ["k"]
    assert adopt.calls > 0
    assert fleet.rows() == []


def test_a_lost_claim_of_an_engine_that_died_is_everybodys(fleet):
    timer = Recorder()
    victim, survivor = fleet(), fleet(timer)
    victim.turn()
    victim.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    Fault(victim.parts._claims, "claim_own", after=1)
    victim.turn()
    fleet.kill(victim)
    survivor.turn()
    survivor.settle()
    assert timer.keys == ["k"]
    assert timer.calls[0][1].attempts == 2


# --- suspended, fenced --------------------------------------------------------


def test_a_suspended_engine_claims_nothing_and_goes_on_after_a_beat(every_fleet):
    fleet, timer = every_fleet, Recorder(when_orphaned="retrigger")
    victim, engine = fleet(timer), fleet(timer)
    engine.turn()
    engine.live.arm("timer", "own", due_in=2)
    victim.live.arm("timer", "orphan", due_in=HOUR)
    fleet.bury(victim)
    before = fleet.rows()
    fleet.clock.advance(30)
    engine.turn()
    engine.turn()
    assert fleet.rows() == before
    engine.beat()
    engine.turn()
    engine.turn()
    engine.settle()
    assert sorted(timer.keys) == ["orphan", "own"]


def test_what_was_claimed_before_the_suspension_starts_after_it(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    Meanwhile(
        engine.parts._claims, "claim_own", lambda: fleet.clock.advance(60), before=False
    )
    engine.turn()
    assert fleet.row("k").state == "claimed"
    for _ in range(3):
        engine.turn()
    assert timer.calls == []
    engine.beat()
    engine.turn()
    engine.settle()
    assert timer.keys == ["k"]


def test_a_fenced_engine_claims_nothing(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.bury(engine)
    engine.beat()
    fleet.clock.advance(1)
    before = fleet.rows()
    engine.turn()
    assert fleet.rows() == before
    with pytest.raises(exceptions.Fenced):
        engine.live.arm("timer", "other", due_in=1)


# --- arm ----------------------------------------------------------------------


@pytest.mark.parametrize("state", ["armed", "claimed", "parked"])
def test_arming_a_living_key_overwrites_nothing(every_fleet, state):
    fleet = every_fleet
    one, two = fleet(), fleet()
    one.live.arm("timer", "k", due_in=5, payload="first")
    owner = None if state == "parked" else one.id
    fleet.execute(sa.update(D).values(state=state, owner_id=owner))
    before = fleet.row("k")
    for engine in (one, two):
        with pytest.raises(exceptions.AlreadyArmed, match="already armed"):
            engine.live.arm("timer", "k", due_in=99, payload="second")
    assert fleet.rows() == [before]


# --- rows of engines ----------------------------------------------------------


def test_an_engine_is_purged_when_it_has_been_dead_for_the_retention(fleet):
    victim = fleet()
    fleet.bury(victim)
    fleet.clock.advance(HOUR)  # engine_retention
    fleet().turn()
    assert fleet.engine_row(victim) is not None
    fleet.clock.advance(1e-6)
    fleet().turn()
    assert fleet.engine_row(victim) is None


def test_an_engine_that_owns_something_is_not_purged(fleet, caplog):
    caplog.set_level(logging.INFO)
    victim = fleet()
    victim.live.arm("timer", "k", due_in=30 * HOUR)
    fleet.bury(victim)
    fleet.clock.advance(2 * HOUR)
    unable = fleet(Recorder("another"))
    unable.turn()
    assert fleet.engine_row(victim) is not None
    able = fleet()
    able.turn()  # adopts
    assert fleet.row("k").owner_id == able.id
    fleet.live(36, able)
    assert fleet.engine_row(victim) is None
    assert "1 purged" in caplog.text


def test_a_suspended_engine_purges_nobody(fleet):
    victim, engine = fleet(), fleet()
    fleet.bury(victim)
    fleet.clock.advance(2 * HOUR)
    engine.turn()
    assert fleet.engine_row(victim) is not None


@pytest.mark.parametrize("others, least, most", [(0, 6, 11), (32, 1, 4)])
def test_the_larger_the_fleet_the_less_often_each_keeps_house(
    fleet, others, least, most
):
    """Eight engines look within a lease, however many there are; here in eight."""
    engine = fleet()
    for number in range(others):
        row = dataclasses.replace(engine.row(), id=f"other-{number:02}", boot_id="far")
        with engine.connect() as connection:
            engine.parts.engines.register(connection, row)
    look = Fault(engine.parts.engines, "owners_not_alive")
    for _ in range(8 * 15):
        fleet.execute(
            sa.update(E).values(beat_seq=E.c.beat_seq + 1).where(E.c.id != engine.id)
        )
        fleet.live(2, engine)
    assert least <= look.calls <= most
