"""A long line is claimed from its head: which lines, by whom, and what comes first."""

import pytest
import sqlalchemy as sa

from liveness import Park, backlog, sweep
from liveness.db import heads, tables
from liveness.db.heads import Line
from liveness.handlers import WhenOrphaned
from tests.fleet import Driven, Gate, Recorder, wait_until
from tests.rules.faults import Fault, Lost, Meanwhile

D, E, V = tables.deadline, tables.engine, tables.event

HOUR = 3600.0


@pytest.fixture
def small(monkeypatch):
    """Pages of two, so that three due deadlines are a long line."""
    monkeypatch.setattr(sweep, "PAGE", 2)
    monkeypatch.setattr(sweep, "OWN_PAGE", 2)
    return {"batch_size": 2, "handler_threads": 1}


def arm(engine: Driven, *keys: str, kind: str = "timer", due_in: float = 1) -> None:
    for key in keys:
        engine.live.arm(kind, key, due_in=due_in)


def of_nobody(fleet, *keys: str, **facts) -> None:
    """Rows without an owner, due a second from now, as a drain or a program of another
    kind leaves them."""
    arm(fleet(Recorder(), Recorder("action")), *keys, **facts)
    fleet.execute(sa.update(D).where(D.c.key.in_(keys)).values(owner_id=None))


def watched(engine: Driven) -> list[tuple[Line, list[str]]]:
    """What the engine claims from the head of which line, from now on."""
    taken = []
    claim = engine.parts.firing._heads.claim

    def note(connection, ask, done=(), again=False):
        stale, values = claim(connection, ask, done, again)
        taken.append((ask.line, [value.key for value in values]))
        return stale, values

    engine.parts.firing._heads.claim = note
    return taken


def go(engine: Driven, turns: int = 12) -> None:
    """Turns as the loop makes them, without waiting; each after all have answered."""
    for _ in range(turns):
        engine.parts.loop.turn()
        wait_until(lambda: not engine.unanswered)


def names(count: int, prefix: str = "k") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# --- nobody's -----------------------------------------------------------------


def test_a_page_full_of_nobodys_is_a_line(fleet, small):
    timer = Recorder()
    engine = fleet(timer, **small)
    of_nobody(fleet, *names(7))
    fleet.clock.advance(1)
    taken = watched(engine)
    go(engine)
    assert taken == [
        (Line.NOBODYS, ["k0", "k1"]),
        (Line.NOBODYS, ["k2", "k3"]),
        (Line.NOBODYS, ["k4", "k5"]),
        (Line.NOBODYS, ["k6"]),
    ]
    assert timer.keys == names(7)
    assert {method for method, _ in timer.calls} == {"expired"}
    assert fleet.rows() == []


def test_one_pass_is_enough_for_all_of_a_line(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(9))
    fleet.clock.advance(1)
    passes = Fault(engine.parts.loop._sweep, "run_pass")
    go(engine)
    assert (fleet.rows(), passes.calls) == ([], 1)


def test_less_than_a_page_is_no_line(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, "k0")
    fleet.clock.advance(1)
    taken = watched(engine)
    go(engine)
    assert (fleet.rows(), taken) == ([], [])


@pytest.mark.parametrize(
    "column, value",
    [
        ("attempts", 1),
        ("max_attempts", 1),
        ("epoch", 1 << 62),
        ("kind", "unknown"),
        ("payload", "no JSON"),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_what_must_be_looked_at_one_by_one_is_no_line(
    fleet, small, column, value, count
):
    """One of them at the head of a page, or nothing else."""
    engine = fleet(unknown_kind_grace=0, **small)
    of_nobody(fleet, *names(5))
    some = D.c.key.in_(names(count))
    fleet.execute(sa.update(D).where(some).values({column: value}))
    fleet.clock.advance(1)
    taken = watched(engine)
    go(engine, 1)
    assert taken == []
    for _ in range(20):
        fleet.live(1, engine, step=1)
        wait_until(lambda: not engine.unanswered)
    assert {row.state for row in fleet.rows()} <= {"parked"}


def test_what_the_dead_had_is_no_line(fleet, small):
    """It is taken at once, page by page, not when its owner's head start is over."""
    dead, engine = fleet(), fleet(**small)
    arm(dead, *names(5))
    end = {"state": "stopped", "ended_at": fleet.clock.database_now()}
    fleet.execute(sa.update(E).where(E.c.id == dead.id).values(end))
    fleet.clock.advance(1)
    go(engine)
    assert fleet.rows() == []


def test_what_is_not_due_is_adopted_and_not_claimed(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(3), due_in=HOUR)
    taken = watched(engine)
    go(engine)
    assert taken == []
    assert {row.owner_id for row in fleet.rows()} == {engine.id}


def test_own_deadlines_that_are_due_come_first(fleet, small):
    timer = Recorder()
    engine = fleet(timer, **small)
    of_nobody(fleet, *names(8), due_in=0.5)
    arm(engine, "mine")
    fleet.clock.advance(0.5)
    go(engine, 2)
    fleet.clock.advance(0.5)
    before = len(timer.calls)
    go(engine, 1)
    assert timer.keys[before] == "mine"
    go(engine)
    assert fleet.rows() == []


def test_what_a_dead_engine_had_does_not_wait_for_the_end_of_the_line(fleet, small):
    action = Recorder("action", when_orphaned=WhenOrphaned.RETRIGGER)
    dead, engine = fleet(action), fleet(Recorder(), action, **small)
    arm(dead, "theirs", kind="action", due_in=HOUR)
    of_nobody(fleet, *names(40))
    fleet.clock.advance(1)
    go(engine, 2)
    fleet.bury(dead)
    engine.beat()
    for _ in range(12):
        engine.turn()  # each with a sweep
        wait_until(lambda: not engine.unanswered)
    assert action.keys == ["theirs"]
    assert fleet.rows()


def test_one_that_was_claimed_before_does_not_wait_for_the_end_of_the_line(
    fleet, small
):
    timer = Recorder()
    engine = fleet(timer, **small)
    arm(engine, "mine", due_in=1.1)
    fleet.execute(sa.update(D).values(attempts=1))
    of_nobody(fleet, *names(20))
    fleet.clock.advance(1)
    go(engine, 2)
    fleet.clock.advance(0.1)
    go(engine, 3)
    assert "mine" in timer.keys
    assert fleet.rows()


def test_a_line_is_a_reason_not_to_sleep(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(9))
    fleet.clock.advance(1)
    assert engine.parts.loop.turn() == 0


def test_none_are_claimed_that_would_keep_another_from_being_alone(fleet, small):
    """Unless it was alone just now: then it is the others' turn, once."""
    admission = fleet(**small).parts._admission
    assert admission.room_for_fresh() == 2
    admission._waiting = True
    assert admission.room_for_fresh() == 0
    admission._was_alone = True
    assert [admission.room_for_fresh() for _ in range(2)] == [2, 0]


def test_who_waits_to_be_alone_does_not_wait_for_the_end_of_the_line(fleet, small):
    gate = Gate()
    timer, once = Recorder(), Recorder("action", max_attempts=1)
    timer.answer = gate
    engine = fleet(timer, once, **small)
    arm(engine, *names(20))
    engine.parts._agenda._entries.clear()
    fleet.clock.advance(1)
    engine.turn()
    engine.turn()  # some are at work
    of_nobody(fleet, "once", kind="action", due_in=0)
    fleet.execute(sa.update(D).where(D.c.key == "once").values(max_attempts=1))
    engine.turn()
    gate.open.set()
    go(engine, 6)
    assert once.keys == ["once"]
    assert fleet.rows()


def test_one_at_its_last_attempt_is_alone_though_there_is_a_line(fleet, small):
    gate = Gate()
    once = Recorder("action", max_attempts=1)
    once.answer = gate
    timer = Recorder()
    engine = fleet(timer, once, **small)
    of_nobody(fleet, *names(20))
    arm(engine, "once", kind="action", due_in=0.5)
    fleet.clock.advance(1)
    for _ in range(6):
        engine.turn()
        wait_until(lambda: gate.entered.is_set() or not engine.unanswered)
    assert gate.entered.is_set()
    before = len(timer.calls)
    for _ in range(3):
        engine.turn()
    assert [value.key for value in engine.parts.runner.held()] == ["once"]
    assert len(timer.calls) == before
    gate.open.set()
    go(engine, 20)
    assert fleet.rows() == []
    assert sorted(timer.keys) == sorted(names(20))


def test_a_payload_that_cannot_be_read_is_parked_and_not_handled(fleet, small):
    """Further on in the line than the page that was looked at."""
    timer = Recorder()
    engine = fleet(timer, **small)
    of_nobody(fleet, *names(4))
    fleet.execute(sa.update(D).where(D.c.key == "k3").values(payload="{"))
    fleet.clock.advance(1)
    go(engine)
    (row,) = fleet.rows()
    assert (row.key, row.state) == ("k3", "parked")
    assert "not JSON" in row.last_error
    assert timer.keys == names(3)


def test_a_kind_without_a_handler_is_passed_by(fleet, small):
    engine = fleet(Recorder(), **small)
    of_nobody(fleet, *names(2))
    of_nobody(fleet, "unknown", kind="action")
    of_nobody(fleet, "last")
    fleet.clock.advance(1)
    go(engine)
    assert [row.key for row in fleet.rows()] == ["unknown"]


# --- own ----------------------------------------------------------------------


@pytest.mark.parametrize(("read", "from_the_head"), [("when due", 9), ("ahead", 7)])
def test_more_own_ones_than_a_page_holds_are_a_line(fleet, small, read, from_the_head):
    """With those of the page, if they are due when it is read."""
    timer = Recorder()
    engine = fleet(timer, **small)
    arm(engine, *names(9))
    engine.parts._agenda._entries.clear()  # as after many arms of other processes
    taken = watched(engine)
    if read == "ahead":
        engine.turn()
    fleet.clock.advance(1)
    go(engine)
    assert {line for line, _ in taken} == {Line.OWN}
    assert sum(len(keys) for _, keys in taken) == from_the_head
    assert timer.keys == names(9)
    assert fleet.rows() == []


@pytest.mark.parametrize(
    "changes",
    [{"attempts": 1}, {"max_attempts": 1}, {"payload": "no JSON"}, {"epoch": 1 << 62}],
)
def test_own_ones_that_must_be_looked_at_are_on_the_agenda(fleet, small, changes):
    """The first of a page; the rest of the page with it."""
    engine = fleet(**small)
    arm(engine, *names(9))
    engine.parts._agenda._entries.clear()
    fleet.execute(sa.update(D).where(D.c.key == "k0").values(changes))
    fleet.clock.advance(1)
    with engine.connect() as connection:
        engine.parts.loop._sweep.run_pass(connection)
    parts = engine.parts
    assert len(parts._agenda) + len(parts._suspects) == 2
    go(engine)
    assert {row.state for row in fleet.rows()} <= {"parked"}


def test_a_line_of_own_ones_is_served_while_others_are_taken_over(fleet, small):
    """In the middle of a sweep, as what is on the agenda is."""
    timer, dead = Recorder(), fleet()
    engine = fleet(timer, **small)
    arm(dead, *names(2, "orphan"), due_in=HOUR)
    arm(engine, *names(2))
    engine.parts._agenda._entries.clear()
    fleet.bury(dead)
    fleet.clock.advance(1)
    with engine.connect() as connection:
        engine.parts.loop._sweep.run_pass(connection)
    engine.settle()
    assert timer.keys == names(2)


def test_on_mariadb_they_are_a_line_when_many_are_claimed_at_once(
    every_fleet, small, monkeypatch
):
    """There only; elsewhere they are in any case."""
    fleet, taken = every_fleet, {}
    for many in (3, 2):
        monkeypatch.setattr(heads, "MANY", many)
        engine = fleet(**small)
        arm(engine, *names(9, f"{many}-"))
        engine.parts._agenda._entries.clear()
        fleet.clock.advance(1)
        taken[many] = watched(engine)
        go(engine)
        assert fleet.rows() == []
    assert taken[2]
    with engine.connect() as connection:
        assert bool(taken[3]) == (connection.dialect.name != "mysql")


def test_pages_are_short_while_a_line_of_own_ones_is_open(fleet, small):
    firing = fleet(**small).parts.firing
    assert firing.free_for() == float("inf")
    firing._backlog.own_from = fleet.clock.monotonic()
    assert firing.free_for() == 0.0


def test_a_line_that_ends_in_the_middle_of_a_sweep_is_read_on_at_once(fleet, small):
    """What is due after those that filled the page was not read."""
    timer, dead = Recorder(), fleet()
    engine = fleet(timer, **{**small, "sweep_interval": 5})
    arm(dead, "orphan", due_in=HOUR)
    arm(engine, *names(2))
    arm(engine, "later", due_in=3)
    engine.parts._agenda._entries.clear()
    fleet.bury(dead)
    fleet.clock.advance(1)
    gone = sa.delete(D).where(D.c.key == "k1")
    Meanwhile(engine.parts.firing._heads, "claim", lambda: fleet.execute(gone))
    taken = watched(engine)
    engine.parts.loop.sweep_soon()
    go(engine, 4)
    assert taken == [(Line.OWN, ["k0"])]  # in the middle, and one is fewer than two
    fleet.clock.advance(2)
    go(engine, 1)
    assert timer.keys == ["k0", "later"]


@pytest.mark.parametrize(("batch", "on_mariadb"), [(5, 1000), (400, 400)])
def test_a_page_is_short_where_what_follows_it_is_a_line(
    every_fleet, batch, on_mariadb
):
    engine = every_fleet(batch_size=batch)
    with engine.connect() as connection:
        most = engine.parts.loop._sweep._scope(connection).own_limit
        mariadb = connection.dialect.name == "mysql"
    assert most == (on_mariadb if mariadb else max(batch, 200))


def test_at_the_end_of_the_own_line_what_comes_next_is_read_ahead(fleet, small):
    """Nine in a row, a tenth of a second apart: each in its time, though no sweep is
    due."""
    timer = Recorder()
    engine = fleet(timer, sweep_interval=5, **small)
    for number in range(9):
        engine.live.arm("timer", f"k{number}", due_in=1 + number / 10)
    engine.parts._agenda._entries.clear()
    engine.turn()
    start = fleet.clock.monotonic()
    while len(timer.calls) < 9 and fleet.clock.monotonic() < start + 3:
        fleet.clock.advance(min(engine.parts.loop.turn(), 0.05))
        wait_until(lambda: not engine.unanswered)
    assert timer.keys == names(9)
    assert fleet.clock.monotonic() < start + 2.1


# --- who may not --------------------------------------------------------------


@pytest.mark.parametrize("why", ["suspended", "draining", "fenced"])
def test_no_line_is_touched_by_an_engine_that_claims_nothing(fleet, small, why):
    engine = fleet(**small)
    of_nobody(fleet, *names(6))
    arm(engine, *names(6, "own"))
    fleet.clock.advance(1)
    go(engine, 1)
    engine.parts.loop._backlog.nobodys = True
    engine.parts.loop._backlog.own_from = 0.0
    if why == "suspended":
        fleet.clock.advance(60)
    elif why == "draining":
        engine.parts.loop.draining = True
    else:
        engine.trust.end("fenced")
    taken = watched(engine)
    go(engine, 3)
    assert taken == []


def test_nothing_is_claimed_while_a_claim_may_be_unknown(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(8))
    fleet.clock.advance(1)
    fault = Fault(engine.parts.firing._heads, "claim", after=1)
    engine.parts.loop.turn()
    engine.parts.loop.turn()
    assert fault.calls == 1, "the sweep found the line; then the claim was lost"
    claimed = [row.key for row in fleet.rows() if row.state == "claimed"]
    assert claimed == ["k0", "k1"]
    go(engine, 20)
    assert fleet.rows() == []


@pytest.mark.parametrize("own", [False, True])
def test_a_claim_whose_answer_was_lost_runs_once(fleet, small, own):
    timer = Recorder()
    engine = fleet(timer, **small)
    if own:
        arm(engine, *names(8))
        engine.parts._agenda._entries.clear()
    else:
        of_nobody(fleet, *names(8))
    fleet.clock.advance(1)
    fault = Fault(engine.parts.firing._heads, "claim", after=1)
    go(engine, 25)
    assert fault.calls > 1
    assert fleet.rows() == []
    assert sorted(timer.keys) == names(8)
    assert {value.attempts for _, value in timer.calls} == {1}


def test_what_is_done_is_sent_again_when_the_answer_was_lost(fleet, small):
    timer = Recorder()
    engine = fleet(timer, **small)
    of_nobody(fleet, *names(8))
    fleet.clock.advance(1)
    go(engine, 2)
    Fault(engine.parts.firing._heads, "claim", after=1)
    go(engine, 25)
    assert fleet.rows() == []
    assert sorted(timer.keys) == names(8)


# --- others at the same head ----------------------------------------------------


def test_after_a_conflict_nobodys_are_claimed_page_by_page_for_a_while(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(30))
    fleet.clock.advance(1)
    heads = Fault(engine.parts.firing._heads, "claim", before=1, error=Lost)
    go(engine, 6)
    assert heads.calls == 1
    assert len(fleet.rows()) < 30, "pages go on"
    fleet.clock.advance(backlog.REST)
    engine.beat()
    go(engine, 3)
    assert heads.calls > 1


def test_two_engines_share_a_line(fleet, small):
    timers = Recorder(), Recorder()
    engines = [fleet(timer, **small) for timer in timers]
    of_nobody(fleet, *names(20))
    fleet.clock.advance(1)
    for _ in range(12):
        for engine in engines:
            go(engine, 1)
    assert fleet.rows() == []
    assert sorted(timers[0].keys + timers[1].keys) == sorted(names(20))
    assert all(len(timer.keys) > 4 for timer in timers)


def test_a_line_that_others_have_emptied_is_none(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(4))
    fleet.clock.advance(1)
    Meanwhile(engine.parts.firing._heads, "claim", lambda: fleet.execute(sa.delete(D)))
    go(engine, 2)
    assert engine.parts.loop._backlog.line(fleet.clock.monotonic()) is None
    assert engine.parts.loop.turn() > 0


# --- what is told ---------------------------------------------------------------


def expired(fleet) -> list[str]:
    return sorted(
        event.key for event in fleet.execute(sa.select(V)) if event.what == "expired"
    )


def test_each_is_told_once_in_the_history(fleet, small):
    fleet.execute(sa.delete(V))
    engine = fleet(**small)
    engine.turn()  # writes that it has registered
    of_nobody(fleet, *names(7))
    fleet.clock.advance(2.2)
    go(engine)
    assert expired(fleet) == names(7)


def test_a_history_that_cannot_be_written_does_not_stop_the_line(fleet, small):
    engine = fleet(**small)
    engine.turn()
    of_nobody(fleet, *names(7))
    fleet.clock.advance(2.2)
    fleet.execute(sa.text("ALTER TABLE liveness_event RENAME TO elsewhere"))
    try:
        go(engine, 25)
    finally:
        fleet.execute(sa.text("ALTER TABLE elsewhere RENAME TO liveness_event"))
    assert fleet.rows() == []


def test_a_history_that_was_not_written_to_yet_is_told_afterwards(fleet, small):
    fleet.execute(sa.delete(V))
    engine = fleet(**small)
    of_nobody(fleet, *names(3))
    fleet.clock.advance(1)
    engine.parts.history._writable = False
    engine.parts.loop.write_history = lambda connection: None
    go(engine, 3)
    with engine.connect() as connection:
        engine.parts.history.flush(connection)
    assert expired(fleet) == names(3)


def test_a_sweep_says_how_many_were_claimed_since_the_last(fleet, small):
    engine = fleet(**small)
    of_nobody(fleet, *names(7))
    fleet.clock.advance(1)
    told = []
    engine.parts.loop.on_sweep = lambda counts, seconds: told.append(counts.expired)
    go(engine)
    engine.turn()
    engine.turn()
    assert sum(told) == 7


def test_a_handler_may_park_what_came_from_a_line(fleet, small):
    timer = Recorder()
    timer.answer = Park("as the handler says")
    engine = fleet(timer, **small)
    of_nobody(fleet, *names(4))
    fleet.clock.advance(1)
    go(engine, 20)
    assert {row.state for row in fleet.rows()} == {"parked"}
