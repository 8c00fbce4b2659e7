"""Attempts count at the claim, and only against what may have earned it."""

import threading

import pytest
import sqlalchemy as sa

from liveness import Arm, Rearm, Release, Retry
from liveness.db import tables
from liveness.db.rows import new_token
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Fault

D = tables.deadline
HOUR = 3600.0
GRACE = 6.0


def rounds(fleet, engine, seconds=1.0):
    """One more second: beat, sweep, fire, and settle what was answered."""
    fleet.clock.advance(seconds)
    engine.beat()
    engine.turn()
    engine.turn()
    engine.settle()


def tried(fleet, attempts, key=None, **values):
    """The rows (or that of ``key``) look as if they had been claimed so often."""
    change = sa.update(D).values(attempts=attempts, token=new_token(), **values)
    fleet.execute(change if key is None else change.where(D.c.key == key))
    for row in fleet.rows():
        for engine in fleet.engines:
            engine.parts._forget(row.id)


# --- a row that kills its engine ----------------------------------------------


class Killer:
    """As a handler's answer: for the key ``poison`` the engine dies in the middle,
    with everything that it had claimed beside it unsettled."""

    def __init__(self):
        self.struck = threading.Event()
        self.over = threading.Event()
        self.finished = []

    def __call__(self, deadline):
        if deadline.key == "poison":
            self.struck.set()
            self.over.wait(60)
        else:
            self.finished.append(deadline.key)


@pytest.mark.parametrize("sort", ["orphans", "overdue", "own"])
def test_a_poisonous_row_is_parked_and_no_innocent_with_it(fleet, sort):
    """Rolling kills: each engine dies with whatever it holds at that moment."""
    innocents = [f"k{n:03d}" for n in range(59)]
    keys = [*innocents[:30], "poison", *innocents[30:]]
    options = {"batch_size": 60, "max_attempts": 3}
    killer = Killer()
    kind = Recorder(when_orphaned="retrigger")
    kind.answer = killer
    first = fleet(kind, **options)
    first.turn()
    due = HOUR if sort == "orphans" else 1
    first.live.arm_many([Arm("timer", key, due_in=due) for key in keys])
    engine, kills = first, 0
    if sort == "orphans":
        fleet.kill(first)
        engine = fleet(kind, **options)
    elif sort == "overdue":
        fleet.clock.advance(1 + GRACE)
        engine = fleet(kind, **options)
    try:
        for _ in range(500):
            fleet.clock.advance(1)
            engine.beat()
            engine.turn()
            wait_until(lambda e=engine: killer.struck.is_set() or not e.unanswered)
            if killer.struck.is_set():
                kills += 1
                fleet.kill(engine)
                killer.struck.clear()
                engine = fleet(kind, **options)
                continue
            engine.settle()
            if len(fleet.rows()) == 1 and fleet.row("poison").state == "parked":
                break
    finally:
        killer.over.set()
    assert kills == 3
    (row,) = fleet.rows()
    assert (row.key, row.state, row.attempts, row.owner_id) == (
        "poison",
        "parked",
        3,
        None,
    )
    assert row.last_error.startswith(
        "gave up after 3 attempts, of which none came back"
    )
    assert set(killer.finished) == set(innocents)


def test_what_was_claimed_before_is_claimed_alone(fleet):
    """Own, orphaned or overdue: while one is in flight, no other is taken."""
    gate = Gate()
    kind = Recorder(when_orphaned="retrigger")
    kind.answer = lambda deadline: gate(deadline) if deadline.attempts > 1 else None
    dead, living, engine = fleet(kind), fleet(kind), fleet(kind)
    engine.turn()
    for owner in (dead, living, engine):
        for number in range(2):
            owner.live.arm("timer", f"{owner.id}/{number}", due_in=1)
    tried(fleet, 1)
    engine.live.arm("timer", "fresh", due_in=1 + GRACE)
    fleet.bury(dead)
    fleet.clock.advance(1 + GRACE)
    engine.beat()
    for _ in range(5):
        engine.turn()
        wait_until(lambda: gate.entered.is_set())
    claimed = [row for row in fleet.rows() if row.state == "claimed"]
    assert len(claimed) == 1
    wait_until(lambda: "fresh" in kind.keys)
    gate.open.set()
    for _ in range(12):
        engine.settle()
        engine.turn()
    engine.settle()
    assert fleet.rows() == []
    assert len(kind.calls) == 7


def test_a_first_claim_is_no_reason_to_wait_for_it(fleet):
    gate, kind = Gate(), Recorder(handler_timeout=HOUR)
    kind.answer = gate
    engine = fleet(kind)
    engine.turn()
    for number in range(3):
        engine.live.arm("timer", f"k{number}", due_in=1)
    engine.live.arm("timer", "again", due_in=1)
    tried(fleet, 1, "again")
    for _ in range(3):
        fleet.clock.advance(1)
        engine.turn()
    rows = fleet.rows()
    gate.open.set()
    assert [row.state for row in rows] == ["claimed"] * 4


@pytest.mark.parametrize("sort", ["orphans", "overdue"])
def test_the_next_suspect_need_not_wait_for_a_sweep_interval(fleet, sort):
    """After a crash everything that was in flight has one attempt: two hundred rows
    one in two seconds would take the survivor seven minutes."""
    kind = Recorder(when_orphaned="retrigger")
    owner, engine = fleet(kind), fleet(kind)
    engine.turn()
    for number in range(5):
        owner.live.arm("timer", f"k{number}", due_in=1)
    tried(fleet, 1)
    if sort == "orphans":
        fleet.bury(owner)
    fleet.clock.advance(1 + GRACE)
    engine.beat()
    start = fleet.clock.monotonic()
    while fleet.rows() and fleet.clock.monotonic() < start + 10:
        delay = engine.parts.loop.turn()
        wait_until(lambda: not engine.unanswered)
        answered = engine.parts._bell.wait(0) or engine.parts.runner._answers
        fleet.clock.advance(0.01 if answered else delay)
    assert fleet.clock.monotonic() < start + 4


# --- counting -----------------------------------------------------------------


def test_the_last_attempt_runs_and_one_more_does_not(every_fleet):
    fleet, kind = every_fleet, Recorder(max_attempts=2)
    owner, engine = fleet(kind), fleet(kind)
    for key in ("last", "over"):
        owner.live.arm("timer", key, due_in=1)
    for key, attempts in (("last", 1), ("over", 2)):
        tried(fleet, attempts, key)
    fleet.clock.advance(1 + GRACE)
    engine.beat()
    engine.turn()
    engine.settle()
    engine.turn()
    engine.settle()
    assert kind.keys == ["last"]
    assert fleet.row("over").state == "parked"
    assert fleet.row("last") is None


def test_own_rows_are_parked_after_the_last_attempt_as_well(fleet):
    kind = Recorder(max_attempts=2)
    engine = fleet(kind)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    tried(fleet, 2, last_error="before")
    fleet.clock.advance(1)
    engine.turn()
    engine.turn()
    assert kind.calls == []
    row = fleet.row("k")
    assert row.state == "parked"
    assert "(last error: before)" in row.last_error


def test_the_limit_of_the_deadline_goes_before_that_of_its_kind(fleet):
    kind = Recorder(max_attempts=2)
    engine = fleet(kind, max_attempts=3)
    arm = engine.live.arm
    assert arm("timer", "own", due_in=1, max_attempts=7).max_attempts == 7
    assert arm("timer", "kind", due_in=1).max_attempts == 2
    kind.max_attempts = None
    assert arm("timer", "option", due_in=1).max_attempts == 3


def test_done_starts_at_zero(fleet):
    kind = Recorder()
    engine = fleet(kind)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    tried(fleet, 3)
    rounds(fleet, engine)
    assert fleet.rows() == []
    assert engine.live.arm("timer", "k", due_in=1).attempts == 0


def test_rearm_starts_at_zero_with_a_new_promise(every_fleet):
    fleet, kind = every_fleet, Recorder()
    kind.answer = Rearm(100)
    engine = fleet(kind)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    tried(fleet, 1, last_error="before")
    rounds(fleet, engine)
    row = fleet.row("k")
    assert (row.state, row.attempts, row.owner_id) == ("armed", 0, engine.id)
    assert row.due_at == row.expires_at
    assert (row.due_at - fleet.clock.utc).total_seconds() == 100
    assert row.last_error is None


def test_adoption_starts_at_zero(fleet):
    """Three rolling kills would park a stack timer otherwise."""
    kind = Recorder()
    engine = fleet(kind)
    engine.live.arm("timer", "k", due_in=HOUR)
    tried(fleet, 2)
    for _ in range(4):
        fleet.bury(engine)
        engine = fleet(kind)
        engine.turn()
        row = fleet.row("k")
        assert (row.owner_id, row.attempts) == (engine.id, 0)


def test_adoption_by_hand_starts_at_zero(fleet):
    owner, engine = fleet(), fleet()
    owner.live.arm("timer", "k", due_in=HOUR)
    tried(fleet, 2)
    fleet.bury(owner)
    assert engine.live.adopt("timer", "k").attempts == 0
    assert fleet.row("k").attempts == 0


def test_a_retry_stays_counted_and_owned_and_keeps_the_promise(every_fleet):
    fleet, kind = every_fleet, Recorder()
    kind.answer = Retry("not now", due_in=50)
    engine = fleet(kind)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    before = fleet.row("k")
    rounds(fleet, engine)
    row = fleet.row("k")
    assert (row.state, row.attempts, row.owner_id) == ("armed", 1, engine.id)
    assert row.expires_at == before.expires_at
    assert (row.due_at - fleet.clock.utc).total_seconds() == 50
    assert row.last_error == "not now"
    assert row.token != before.token
    fleet.live(49, engine)
    assert len(kind.calls) == 1
    fleet.live(1, engine)
    engine.settle()
    assert len(kind.calls) == 2
    assert kind.calls[1][1].attempts == 2


def test_a_release_has_no_owner_and_is_anybodys_at_once(every_fleet):
    fleet, releases, takes = every_fleet, Recorder(), Recorder()
    releases.answer = Release("too busy")
    engine, other = fleet(releases), fleet(takes)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    rounds(fleet, engine)
    row = fleet.row("k")
    assert (row.state, row.owner_id, row.last_error) == ("armed", None, "too busy")
    other.turn()
    other.settle()
    assert takes.keys == ["k"]


def test_what_never_ran_has_not_failed(fleet):
    """Waiting behind hung handlers, then given back: no attempt was made."""
    gate, kind = Gate(), Recorder(handler_timeout=10)
    kind.answer = gate
    engine = fleet(kind, handler_threads=2)
    engine.turn()
    for number in range(3):
        engine.live.arm("timer", f"k{number}", due_in=1)
    fleet.clock.advance(1)
    engine.turn()
    wait_until(lambda: len(kind.calls) == 2)
    (waiting,) = {row.key for row in fleet.rows()} - set(kind.keys)
    fleet.clock.advance(10)
    engine.beat()
    engine.turn()
    gate.open.set()
    row = fleet.row(waiting)
    assert (row.owner_id, row.attempts) == (None, 0)


def test_an_engine_whose_threads_all_hang_claims_no_suspect_either(fleet):
    gate, kind = Gate(), Recorder(handler_timeout=10)
    kind.answer = gate
    engine = fleet(kind, handler_threads=1)
    engine.turn()
    engine.live.arm("timer", "hangs", due_in=1)
    fleet.clock.advance(1)
    engine.turn()
    assert gate.entered.wait(10)
    engine.live.arm("timer", "suspect", due_in=11)
    tried(fleet, 1, "suspect")
    for _ in range(6):
        fleet.clock.advance(2)
        engine.beat()
        engine.turn()
    row = fleet.row("suspect")
    gate.open.set()
    assert (row.attempts, row.owner_id) == (1, engine.id)


def test_the_last_attempt_is_made_alone(fleet):
    """Else it would be parked for having been there when another killed the engine."""
    gate, kind = Gate(), Recorder(max_attempts=2, handler_timeout=HOUR)
    kind.answer = lambda deadline: gate(deadline) if deadline.key == "first" else None
    engine = fleet(kind)
    engine.turn()
    engine.live.arm("timer", "first", due_in=1)
    fleet.live(4, engine)
    assert gate.entered.wait(10)
    for key in ("last", "after"):
        engine.live.arm("timer", key, due_in=1)
    tried(fleet, 1, "last")
    fleet.live(12, engine)
    assert "last" not in kind.keys
    gate.open.set()
    wait_until(lambda: not engine.unanswered)
    for _ in range(6):
        engine.turn()
        running = [row for row in fleet.rows() if row.state == "claimed"]
        if any(row.key == "last" for row in running):
            assert len(running) == 1
        wait_until(lambda: not engine.unanswered)
    engine.settle()
    assert fleet.rows() == []
    assert sorted(kind.keys) == ["after", "first", "last"]


def test_after_a_lost_answer_nothing_is_claimed_before_the_lost_one_is_held(fleet):
    """It may be one at its last attempt, which has to be alone."""
    gate, kind = Gate(), Recorder(max_attempts=2, handler_timeout=HOUR)
    kind.answer = lambda deadline: gate(deadline) if deadline.key == "last" else None
    engine = fleet(kind)
    engine.live.arm("timer", "last", due_in=1)
    engine.live.arm("timer", "fresh", due_in=2)
    tried(fleet, 1, "last")
    engine.turn()
    Fault(engine.parts._claims, "claim_own", after=1)
    fleet.clock.advance(1)
    engine.turn()
    assert fleet.row("last").state == "claimed"
    assert not engine.parts.runner.busy
    fleet.clock.advance(1)
    engine.beat()
    engine.turn()
    assert gate.entered.wait(10)
    assert fleet.row("fresh").state == "armed"
    gate.open.set()
    for _ in range(3):
        engine.settle()
        rounds(fleet, engine)
    assert kind.keys == ["last", "fresh"]


def test_a_sweep_that_never_succeeds_stops_no_own_deadline(fleet):
    """It has claimed nothing of which the answer could be lost."""
    kind = Recorder()
    engine = fleet(kind)
    engine.turn()
    Fault(engine.parts._sweep, "run_pass", before=float("inf"))
    engine.live.arm("timer", "k", due_in=1)
    for _ in range(3):
        fleet.live(1, engine)
    wait_until(lambda: kind.keys == ["k"])


def test_while_a_claim_of_its_own_is_not_held_it_claims_nothing_else(fleet):
    """Two suspects were claimed unknowingly; only one may be held at a time."""
    gate, kind = Gate(), Recorder(handler_timeout=HOUR)
    kind.answer = lambda deadline: gate(deadline) if deadline.attempts == 2 else None
    engine = fleet(kind)
    engine.turn()
    for key in ("one", "two"):
        engine.live.arm("timer", key, due_in=1)
    tried(fleet, 2, state="claimed")
    engine.parts._admission.unknown = True  # as after a claim without an answer
    engine.live.arm("timer", "fresh", due_in=1)
    for _ in range(5):
        fleet.live(1, engine)
        assert fleet.row("fresh").state == "armed"
    assert gate.entered.wait(10)
    assert len(kind.keys) == 1
    gate.open.set()
    for _ in range(5):
        engine.settle()
        fleet.live(1, engine)
    assert sorted(kind.keys) == ["fresh", "one", "two"]


@pytest.mark.parametrize("whose", ["own", "overdue"])
def test_one_at_its_last_attempt_stops_no_other_behind_a_slow_handler(fleet, whose):
    """It waits to be alone; with a handler that runs for an hour, the rest must not."""
    gate = Gate()
    slow = Recorder("slow", handler_timeout=HOUR)
    slow.answer = gate
    kind = Recorder(max_attempts=2)
    engine, busy = fleet(slow, kind), fleet(slow, kind)
    engine.turn()
    engine.live.arm("slow", "k", due_in=1)
    (engine if whose == "own" else busy).live.arm("timer", "last", due_in=1)
    tried(fleet, 1, "last")
    fleet.live(12, engine)
    assert gate.entered.wait(10)
    engine.live.arm("timer", "fresh", due_in=1)
    for _ in range(30):
        fleet.live(2, engine)
        busy.beat()
    fired = list(kind.keys)
    gate.open.set()
    assert "fresh" in fired


@pytest.mark.parametrize("others", [True, False], ids=["others live", "it is alone"])
def test_while_one_at_its_last_attempt_hangs_the_rest_waits_for_others(fleet, others):
    """What this engine must not claim now, another takes after the owner's head start;
    with no other, it waits for the handler's timeout."""
    gate = Gate()
    kind = Recorder(max_attempts=2, handler_timeout=120.0)
    kind.answer = lambda deadline: gate(deadline) if deadline.key == "last" else None
    engine, other = fleet(kind, handler_threads=2), fleet(kind)
    engine.turn()
    engine.live.arm("timer", "last", due_in=1)
    tried(fleet, 1, "last")
    fleet.live(6, engine)
    assert gate.entered.wait(10)
    engine.live.arm("timer", "fresh", due_in=1)
    living = [engine, other] if others else [engine]
    for _ in range(25):
        fleet.live(2, *living)
    assert ("fresh" in kind.keys) is others
    for _ in range(45):
        fleet.live(2, engine)
    gate.open.set()
    assert "fresh" in kind.keys


def test_one_at_its_last_attempt_is_not_put_off_for_ever_by_a_busy_engine(fleet):
    """There is always a handler that runs, for ten seconds each."""
    slow = Recorder("slow", handler_timeout=HOUR)
    kind = Recorder(max_attempts=2)
    gates = {}
    slow.answer = lambda deadline: gates[deadline.key](deadline)
    engine = fleet(slow, kind)
    engine.turn()
    engine.live.arm("timer", "last", due_in=10)
    tried(fleet, 1, "last")
    for second in range(600):
        if second % 5 == 0:
            gates[f"s{second}"] = Gate()
            engine.live.arm("slow", f"s{second}", due_in=0)
        over = gates.pop(f"s{second - 11}", None)
        if over:
            over.open.set()
            done = f"s{second - 11}"
            wait_until(lambda k=done: _answered(engine, k))
        fleet.live(1, engine)
        if kind.keys:
            break
    for gate in gates.values():
        gate.open.set()
    assert kind.keys == ["last"]


def _answered(engine, key):
    holds = list(engine.parts.runner._holds.values())
    return all(hold.spent for hold in holds if hold.value.key == key)


def test_a_deadline_with_one_attempt_only_gets_it(every_fleet):
    fleet, kind = every_fleet, Recorder(max_attempts=1)
    engine = fleet(kind)
    engine.turn()
    for number in range(3):
        engine.live.arm("timer", f"k{number}", due_in=1)
    for _ in range(6):
        fleet.clock.advance(1)
        engine.beat()
        engine.turn()
        wait_until(lambda: not engine.unanswered)
    engine.settle()
    assert sorted(kind.keys) == ["k0", "k1", "k2"]
    assert fleet.rows() == []


def test_who_waited_to_be_alone_and_is_gone_holds_nobody_up(fleet):
    gate, kind = Gate(), Recorder(max_attempts=2, handler_timeout=HOUR)
    kind.answer = lambda deadline: gate(deadline) if deadline.key == "first" else None
    owner, engine = fleet(kind), fleet(kind)
    engine.turn()
    engine.live.arm("timer", "first", due_in=1)
    owner.live.arm("timer", "last", due_in=1)
    tried(fleet, 1, "last")
    fleet.live(8, engine)
    assert gate.entered.wait(10)
    assert engine.parts._admission._waiting
    fleet.execute(sa.delete(D).where(D.c.key == "last"))
    engine.turn()
    assert not engine.parts._admission._waiting
    engine.live.arm("timer", "next", due_in=1)
    for _ in range(2):
        fleet.live(1, engine)
    wait_until(lambda: "next" in kind.keys)
    gate.open.set()
