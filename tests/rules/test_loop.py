"""The loop: when it turns, that it goes on, and that it does not spin."""

import threading
import time

import pytest
import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import Deadline, Liveness, Retry, Settings
from liveness.agenda import Entry
from liveness.db import tables
from liveness.db.rows import new_token
from liveness.loop import AHEAD, CONFLICTS, LISTEN, REASONS
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Away, Fault, Lost, Meanwhile

D, E = tables.deadline, tables.engine
HOUR = 3600.0


def turns(fleet, engine, seconds, beat=True):
    """Turns in so many seconds, each followed by the sleep that it asks for. What takes
    no time in this clock takes a millisecond, as it may in life."""
    end, count = fleet.clock.monotonic() + seconds, 0
    while fleet.clock.monotonic() < end and count < 5000:
        if beat:
            engine.beat()
        delay = engine.parts.loop.turn()
        assert delay >= 0
        fleet.clock.advance(max(delay, 0.001))
        count += 1
    return count


# --- how long it sleeps -------------------------------------------------------


def test_at_rest_it_sleeps_for_the_sweep_interval_give_or_take_a_tenth(fleet):
    engine = fleet()
    delays = []
    for _ in range(20):
        delays.append(engine.turn())
        fleet.clock.advance(3)
        engine.beat()
    assert all(1.8 <= delay <= 2.2 for delay in delays)
    assert len(set(delays)) > 5
    next_sweeps = []
    for _ in range(50):
        engine.turn()
        next_sweeps.append(engine.parts.loop._next_sweep - fleet.clock.monotonic())
    assert 1.8 <= min(next_sweeps) < 1.9 and 2.1 < max(next_sweeps) <= 2.2


def test_it_sleeps_until_the_next_own_due_time(fleet):
    engine = fleet()
    engine.turn()
    engine.live.arm("timer", "k", due_in=0.5)
    assert engine.turn() == pytest.approx(0.5)
    engine.live.arm("timer", "sooner", due_in=0.25)
    assert engine.parts.loop.turn() == pytest.approx(0.25)


class Sleeps:
    """What a loop sleeps on: time passes when it does, and nothing wakes it but the
    deaths of so many neighbours. It is told to stop when it has slept so ``often``."""

    def __init__(self, clock, loop, deaths=0, often=100) -> None:
        self._clock, self._loop, self._often = clock, loop, often
        self.deaths = deaths
        self.slept: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self._loop.stopping = len(self.slept) >= self._often
        self._clock.advance(max(seconds, 0.0))
        self.deaths -= 1
        return self.deaths >= 0

    def __getattr__(self, name):
        return lambda *args: None


def test_it_wakes_up_ahead_and_has_its_connection_when_something_is_due(fleet):
    engine = fleet()
    engine.turn()
    loop, timer = engine.parts.loop, engine.live.handlers.get("timer")
    taken: list[float] = []
    sa.event.listen(
        engine.parts._sweep_pool,
        "checkout",
        lambda *args: taken.append(fleet.clock.monotonic()),
    )
    loop._bell = sleeps = Sleeps(fleet.clock, loop, often=3)
    engine.live.arm("timer", "k", due_in=0.5)
    due = fleet.clock.monotonic() + 0.5
    loop.run()
    wait_until(lambda: timer.keys == ["k"])
    assert sleeps.slept[:2] == [pytest.approx(0.5 - AHEAD), pytest.approx(AHEAD)]
    assert taken[-1] == pytest.approx(due - AHEAD)


def test_a_neighbour_that_dies_in_that_millisecond_is_looked_for_at_once(fleet):
    engine = fleet()
    engine.turn()
    loop, observed = engine.parts.loop, Fault(engine.parts.engines, "observe")
    loop._bell = Sleeps(fleet.clock, loop, deaths=1)
    engine.live.arm("timer", "k", due_in=AHEAD / 2)
    loop.turn(LISTEN)
    assert observed.calls == 1


def test_it_does_not_keep_its_connection_for_what_is_due_later(fleet):
    engine = fleet()
    engine.turn()
    loop = engine.parts.loop
    loop._bell = sleeps = Sleeps(fleet.clock, loop)
    engine.live.arm("timer", "k", due_in=2 * AHEAD)
    assert loop.turn(LISTEN) > AHEAD
    assert sleeps.slept == []


def test_an_own_deadline_armed_long_ago_fires_at_the_instant(every_fleet):
    fleet, timer = every_fleet, Recorder()
    engine = fleet(timer)
    engine.live.arm("timer", "k", due_in=30.123)
    start = fleet.clock.monotonic()
    while fleet.row("k").state == "armed":
        assert fleet.clock.monotonic() < start + 40
        engine.beat()
        fleet.clock.advance(engine.parts.loop.turn())
    late = fleet.clock.monotonic() - start - 30.123
    assert -1e-5 <= late <= 2.2  # in microseconds; the sleep after that turn
    engine.settle()
    ((_, value),) = timer.calls
    assert value.expires_at == value.due_at


def test_a_sweep_is_not_put_off_by_turns_in_between(fleet):
    engine = fleet()
    engine.turn()
    sweeps = Fault(engine.parts.engines, "observe")
    for _ in range(60):
        fleet.clock.advance(0.1)
        engine.parts.loop.turn()
    assert 2 <= sweeps.calls <= 4


# --- what wakes it: real threads ----------------------------------------------


@pytest.fixture
def running(quick_url):
    """Starts a real engine whose sweeps are far apart."""
    made = []

    def start(*handlers, **options):
        settings = {
            "ttl": 300,
            "beat_interval": 10,
            "sweep_interval": 60,
            "database_timeout": 5,
        }
        live = Liveness(Settings.of(connection=quick_url, **{**settings, **options}))
        for handler in handlers:
            live.add_handler(handler)
        live.start()
        made.append(live)
        wait_until(lambda: live._running.loop.turns > 0)
        return live

    yield start
    for live in made:
        live.stop(0)


def test_an_arm_in_the_same_process_wakes_it(running):
    timer = Recorder()
    live = running(timer)
    time.sleep(0.05)  # it sleeps for a minute by now
    live.arm("timer", "k", due_in=0.1)
    wait_until(lambda: timer.keys == ["k"], 20)


def test_an_answer_wakes_it(running):
    gate, timer = Gate(), Recorder()
    timer.answer = gate
    live = running(timer)
    live.arm("timer", "k", due_in=0)
    assert gate.entered.wait(20)
    gate.open.set()
    wait_until(lambda: live.find("timer", "k") is None, 20)


def test_the_death_of_a_neighbour_wakes_it(running, quick_url):
    import subprocess
    import sys

    live = running(Recorder())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with open(f"/proc/{child.pid}/stat", encoding="utf-8") as file:
            start = int(file.read().rpartition(")")[2].split()[19])
        engine = sa.create_engine(quick_url)
        with engine.begin() as connection:
            mine = connection.execute(sa.select(E)).one()._asdict()
            other = {"id": "child", "pid": child.pid, "process_start": start}
            connection.execute(sa.insert(E).values({**mine, **other}))

        def watched():  # asked again: the turn under way may have looked before
            live._running.loop.sweep_soon()
            live._running._bell.ring()
            return "child" in live._running._bell._watched

        wait_until(watched)
        child.kill()

        def fenced():
            with engine.connect() as connection:
                state = sa.select(E.c.state).where(E.c.id == "child")
                return connection.execute(state).scalar() == "fenced"

        wait_until(fenced, 20)  # not yet reaped
    finally:
        child.kill()
        child.communicate()


# --- it loses to another -------------------------------------------------------


def test_a_lost_conflict_is_looked_for_again_at_once_and_no_news(fleet, caplog):
    action = Recorder("action", when_orphaned="retrigger")
    engine, dead = fleet(action), fleet(action)
    dead.live.arm("action", "k", due_in=HOUR)
    fleet.kill(dead)
    claims = Fault(engine.parts._claims, "claim_orphans", before=3, error=Lost)
    delays = [engine.parts.loop.turn() for _ in range(3)]
    assert all(delay <= 0.01 * 2**n for n, delay in enumerate(delays, 1))
    engine.parts.loop.turn()
    assert claims.calls == 4 and action.keys == ["k"]
    assert "could not sweep" not in caplog.text
    engine.settle()
    assert engine.parts.loop.turn() > 1


def test_a_server_that_says_conflict_to_everything_is_a_failure_and_left(fleet, caplog):
    engine = fleet()
    engine.turn()
    (link,) = {engine.parts._detected._link}
    Fault(engine.parts.engines, "observe", before=CONFLICTS + 1, error=Lost)
    for _ in range(CONFLICTS):
        engine.turn()
    assert "could not sweep" not in caplog.text
    assert engine.turn() >= 0.5
    assert "could not sweep" in caplog.text
    engine.turn()
    assert engine.parts._detected._link is not link


def test_after_a_lost_conflict_what_was_observed_is_still_good(fleet):
    engine, silent = fleet(), fleet()
    engine.turn()
    since = engine.parts._detected._runs[silent.id].since
    Fault(engine.parts._claims, "claim_orphans", before=1, error=Lost)
    fleet.clock.advance(2)
    engine.turn()
    engine.turn()
    assert engine.parts._detected._runs[silent.id].since == since


# --- it goes on ---------------------------------------------------------------

PARTS = [
    ("parts.engines", "observe"),
    ("parts.engines", "fence"),
    ("parts.engines", "owners_not_alive"),
    ("parts.engines", "purge"),
    ("parts.loop._sweep._finder", "find"),
    ("parts._claims", "claim_own"),
    ("parts._claims", "claim_overdue"),
    ("parts._claims", "claim_orphans"),
    ("parts._claims", "adopt_orphans"),
    ("parts._claims", "park"),
    ("parts.deadlines", "complete"),
    ("parts._bell", "watch"),
    ("parts.runner", "run"),
    ("parts.runner", "spend_late"),
    ("parts._agenda", "take_due"),
]


def reach(engine, path):
    for name in path.split("."):
        engine = getattr(engine, name)
    return engine


@pytest.mark.parametrize("error", [Away(), RuntimeError("a bug")], ids=repr)
@pytest.mark.parametrize("path, name", PARTS, ids=lambda part: part)
def test_no_error_of_any_part_ends_the_loop_or_loses_a_thing(fleet, path, name, error):
    """Every part fails once, first before and then after it did its work."""
    kinds = [
        Recorder("timer"),
        Recorder("action", when_orphaned="retrigger"),
        Recorder("careful", when_orphaned="park"),
    ]
    old, silent, owner = fleet(*kinds), fleet(*kinds), fleet(*kinds)
    engine = fleet(*kinds)
    fleet.bury(old)
    part, failed = reach(engine, path), []
    method = getattr(part, name)

    def fails(*args, **kwargs):
        if not failed:
            failed.append("before")
            raise error
        result = method(*args, **kwargs)
        if len(failed) == 1:
            failed.append("after")
            raise error
        return result

    setattr(part, name, fails) if hasattr(part, "__dict__") else pytest.skip("slots")
    for kind in kinds:
        silent.live.arm(kind.kind, "orphan", due_in=2 * HOUR)
    owner.live.arm("timer", "overdue", due_in=1)
    engine.live.arm("timer", "own", due_in=50)
    for _ in range(60):
        fleet.live(2, engine)
        owner.beat()
    engine.settle()
    fleet.clock.advance(HOUR)
    fleet.live(40, engine)
    assert len(failed) == 2
    rows = {(row.kind, row.key): (row.owner_id, row.state) for row in fleet.rows()}
    assert rows == {
        ("timer", "orphan"): (engine.id, "armed"),
        ("careful", "orphan"): (None, "parked"),
    }
    called = [key for kind in kinds for key in kind.keys]
    # After a lost answer an effect may come twice; a settlement never.
    assert set(called) == {"own", "overdue", "orphan"}


def test_a_bug_is_told_with_a_traceback_an_outage_in_one_line(fleet, caplog):
    engine = fleet()
    fault = Fault(engine.parts.engines, "observe", before=3)
    for _ in range(3):
        engine.turn()
    assert caplog.text.count("could not sweep: the connection was lost") == 1
    assert "Traceback" not in caplog.text
    engine.turn()
    assert fault.calls == 4
    engine.parts.loop._turn = lambda connection: 1 / 0
    engine.turn()
    assert "ZeroDivisionError" in caplog.text
    assert "failed; it goes on" in caplog.text


def test_each_reason_of_an_outage_is_told_once(fleet, caplog):
    """A server that went away may come back with a table that is corrupt."""
    engine = fleet()
    reasons = ["gone", "corrupt", "gone", *(f"odd {n}" for n in range(9)), "gone"]
    left = list(reasons)

    def turn(connection):
        raise db_exc.DBConnectionError(Exception(left.pop(0)))

    works, engine.parts.loop._turn = engine.parts.loop._turn, turn
    while left:
        engine.turn()
    told = [reason for reason in dict.fromkeys(reasons) if reason in caplog.text]
    assert told == ["gone", "corrupt", "odd 0", "odd 1", "odd 2"]
    assert caplog.text.count("could not sweep") == len(told) == REASONS
    engine.parts.loop._turn = works
    engine.turn()
    engine.parts.loop._turn, left = turn, ["gone"]
    engine.turn()
    assert caplog.text.count("could not sweep") == REASONS + 1


def test_what_a_failed_turn_left_on_its_connection_is_not_built_upon(every_fleet):
    """A transaction that stayed open would hide its rows from everyone."""
    fleet = every_fleet
    engine, other = fleet(), fleet()
    engine.turn()

    def open_transaction(connection):
        connection.exec_driver_sql("BEGIN")
        connection.execute(sa.update(E).where(E.c.id == engine.id).values(host="x"))
        raise RuntimeError("in the middle")

    engine.parts.loop._turn, turn = (
        lambda connection: Meanwhiled(connection),
        engine.parts.loop._turn,
    )

    class Meanwhiled:
        def __init__(self, connection):
            settle = engine.parts.loop._settle
            engine.parts.loop._settle = open_transaction
            try:
                turn(connection)
            finally:
                engine.parts.loop._settle = settle

    engine.turn()
    engine.parts.loop._turn = turn
    assert fleet.engine_row(engine).host != "x"
    assert engine.beat()
    other.turn()
    assert engine.turn() > 0


# --- it does not spin ---------------------------------------------------------


def test_at_rest_it_turns_at_most_twice_in_an_interval(fleet):
    assert turns(fleet, fleet(), 100) <= 112


def test_with_nothing_to_spare_it_does_not_spin(fleet):
    """Every thread is busy; own, orphaned and overdue ones wait."""
    gate, kind = Gate(), Recorder(when_orphaned="retrigger", handler_timeout=HOUR)
    kind.answer = gate
    dead, owner = fleet(kind), fleet(kind)
    engine = fleet(kind, handler_threads=1, batch_size=1)
    engine.turn()
    for number in range(5):
        engine.live.arm("timer", f"own{number}", due_in=1)
        dead.live.arm("timer", f"orphan{number}", due_in=HOUR)
        owner.live.arm("timer", f"overdue{number}", due_in=1)
    fleet.bury(dead)
    fleet.clock.advance(10)
    count = turns(fleet, engine, 60)
    gate.open.set()
    assert count <= 130


def test_with_every_thread_hung_it_does_not_spin(fleet):
    gate, kind = Gate(), Recorder(when_orphaned="retrigger", handler_timeout=1)
    kind.answer = gate
    engine = fleet(kind, handler_threads=1)
    engine.turn()
    for number in range(5):
        engine.live.arm("timer", f"own{number}", due_in=1)
    fleet.clock.advance(2)
    count = turns(fleet, engine, 60)
    gate.open.set()
    assert count <= 130


def test_with_suspects_waiting_for_one_in_flight_it_does_not_spin(fleet):
    gate, kind = Gate(), Recorder(handler_timeout=HOUR)
    kind.answer = gate
    engine = fleet(kind)
    engine.turn()
    for number in range(300):
        engine.live.arm("timer", f"k{number}", due_in=1)
    fleet.execute(sa.update(D).values(attempts=1))
    engine.parts._agenda.__init__()
    fleet.clock.advance(2)
    count = turns(fleet, engine, 60)
    gate.open.set()
    assert count <= 130


@pytest.mark.parametrize("kind_attempts", [1, 2])
def test_while_one_waits_to_be_alone_it_does_not_spin(fleet, kind_attempts):
    gate, slow = Gate(), Recorder("slow", handler_timeout=HOUR)
    slow.answer = gate
    engine = fleet(slow, Recorder(max_attempts=kind_attempts))
    engine.turn()
    engine.live.arm("slow", "k", due_in=1)
    fleet.live(4, engine)
    assert gate.entered.wait(10)
    for number in range(3):
        engine.live.arm("timer", f"k{number}", due_in=1)
    last = {"attempts": kind_attempts - 1, "token": new_token()}
    fleet.execute(sa.update(D).where(D.c.kind == "timer").values(**last))
    engine.parts._agenda.__init__()
    fleet.live(10, engine)
    count = turns(fleet, engine, 60)
    gate.open.set()
    assert count <= 130


def test_with_everything_parked_it_does_not_spin(fleet):
    engine = fleet()
    for number in range(300):
        engine.live.arm("timer", f"k{number}", due_in=1)
    fleet.execute(sa.update(D).values(payload="{"))
    count = turns(fleet, engine, 60)
    assert {row.state for row in fleet.rows()} == {"parked"}
    assert count <= 60


@pytest.mark.parametrize("part", ["settle", "observe", "connect"])
def test_with_the_database_away_it_does_not_spin(fleet, part):
    engine = fleet()
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    if part == "connect":
        taken = engine.parts._sweep_pool.connect()
        engine.parts._sweep_pool.pool._timeout = 0
    elif part == "observe":
        Fault(engine.parts.engines, "observe", before=float("inf"))
    else:
        Fault(engine.parts.deadlines, "complete", before=float("inf"))
    count = turns(fleet, engine, 60)
    if part == "connect":
        taken.close()
    assert count <= 130


def test_while_suspended_it_does_not_spin(fleet):
    engine = fleet()
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(60)
    assert turns(fleet, engine, 60, beat=False) <= 130


def test_while_draining_it_does_not_spin(fleet):
    engine = fleet()
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    engine.parts.loop.draining = True
    assert turns(fleet, engine, 60) <= 60


def test_after_a_page_that_nobody_can_take_it_does_not_spin(fleet, monkeypatch):
    from liveness import sweep

    monkeypatch.setattr(sweep, "PAGE", 2)
    monkeypatch.setattr(sweep, "OWN_PAGE", 2)
    dead, engine = fleet(), fleet(batch_size=2)
    for number in range(6):
        dead.live.arm("timer", f"k{number}", due_in=HOUR)
    fleet.execute(sa.update(D).values(state="claimed"))
    fleet.bury(dead)
    assert turns(fleet, engine, 100) <= 110


def test_a_ring_before_the_sleep_is_not_lost(fleet):
    bell = fleet().parts._bell
    bell.ring()
    bell.ring()
    start = time.monotonic()
    bell.wait(30)
    assert time.monotonic() - start < 20
    start = time.monotonic()
    bell.wait(0.05)  # two rings are one
    assert time.monotonic() - start >= 0.05


def test_the_end_of_the_loop_is_the_fence_or_the_stop(fleet):
    for end in ("fence", "stop"):
        engine = fleet()
        loop = engine.parts.loop
        thread = threading.Thread(target=loop.run)
        thread.start()
        if end == "fence":
            engine.parts.heart.fenced("by the test")
        else:
            loop.stopping = True
            engine.parts._bell.ring()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("before", [True, False])
def test_an_agenda_that_fires_in_the_middle_of_a_sweep_is_not_forgotten(fleet, before):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    Meanwhile(
        engine.parts.engines,
        "observe",
        lambda: engine.live.arm("timer", "k", due_in=0.5),
        before,
    )
    fleet.clock.advance(2.5)
    assert engine.parts.loop.turn() <= 0.5
    fleet.clock.advance(0.5)
    engine.parts.loop.turn()
    engine.settle()
    assert timer.keys == ["k"]


def test_an_arm_that_comes_back_after_the_retry_is_no_second_claim(every_fleet):
    """Its answer was lost, and its deadline was claimed and retried meanwhile."""
    fleet, kind = every_fleet, Recorder()
    kind.answer = Retry("not yet", 1.0)
    engine = fleet(kind)
    engine.turn()
    old = engine.live.arm("timer", "k", due_in=1)
    fleet.live(2, engine)
    wait_until(lambda: not engine.unanswered)
    engine.turn()
    (row,) = fleet.rows()
    assert (row.state, row.attempts) == ("armed", 1)
    claimed: list[Deadline] = []
    engine.parts.firing.on_fired = claimed.extend
    engine.parts._agenda.add([Entry(fleet.clock.monotonic(), old)])
    fleet.live(2, engine)
    assert [value.epoch for value in claimed] == [row.epoch + 1]
