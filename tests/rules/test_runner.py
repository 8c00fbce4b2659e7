"""Handlers in flight: a hold is spent once, and a hung handler harms no other."""

import threading

import pytest
import sqlalchemy as sa

from liveness import Retry, exceptions
from liveness.db import tables
from liveness.exceptions import Reject
from liveness.loop import LISTEN
from liveness.pool import Pool
from liveness.runner import STALLED
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Fault

D = tables.deadline
HOUR = 3600.0


class Hanging(Recorder):
    """Its handler waits at a gate of its own for each call; ``values`` are what it was
    called for."""

    def __init__(self, kind="timer", **attributes):
        super().__init__(kind, **attributes)
        self.gates = []
        self.outcome = None
        self.answer = self._wait

    def _wait(self, deadline):
        gate = Gate()
        self.gates.append(gate)
        gate(deadline)
        return self.outcome

    @property
    def values(self):
        return [deadline for _, deadline in self.calls]

    def open(self):
        for gate in self.gates:
            gate.open.set()


@pytest.fixture
def hanging():
    kind = Hanging(handler_timeout=10)
    yield kind
    kind.open()


def claimed(fleet, engine, count=1, due=1.0):
    """The engine has claimed ``count`` deadlines, and their handlers hang."""
    engine.turn()
    for number in range(count):
        engine.live.arm("timer", f"k{number}", due_in=due)
    fleet.clock.advance(due)
    engine.turn()


def entered(kind, count):
    wait_until(lambda: len(kind.gates) == count and kind.gates[-1].entered.is_set())


# --- too long -----------------------------------------------------------------


def test_a_handler_may_run_until_its_timeout(fleet, clock, hanging):
    engine = fleet(hanging)
    claimed(fleet, engine)
    entered(hanging, 1)
    value = hanging.values[0]
    before = fleet.row("k0")
    clock.advance(10 - 1e-6)
    engine.turn()
    engine.live.check(value)
    assert fleet.row("k0") == before
    clock.advance(2e-6)
    engine.turn()
    with pytest.raises(exceptions.StaleDeadline):
        engine.live.check(value)
    row = fleet.row("k0")
    assert (row.state, row.owner_id, row.attempts) == ("armed", engine.id, 1)
    assert row.token != before.token
    assert row.last_error == "its handler did not return in 10 s"


def test_what_returns_too_late_is_ignored(every_fleet, hanging, caplog):
    fleet = every_fleet
    engine = fleet(hanging, backoff_initial=100)
    claimed(fleet, engine)
    entered(hanging, 1)
    fleet.clock.advance(11)
    engine.beat()
    engine.turn()
    before = fleet.row("k0")
    complete = Fault(engine.parts.deadlines, "complete")
    hanging.open()
    wait_until(lambda: "too late to count" in caplog.text)
    engine.settle()
    engine.turn()
    assert fleet.row("k0") == before
    assert complete.calls == 0
    assert before.state == "armed"


def test_what_hangs_is_tried_again_beside_the_hung_one(fleet, hanging):
    engine = fleet(hanging, backoff_initial=1)
    claimed(fleet, engine)
    entered(hanging, 1)
    fleet.clock.advance(10)
    engine.turn()
    fleet.live(2, engine, step=1)
    entered(hanging, 2)
    first, second = hanging.values
    assert second.attempts == 2
    with pytest.raises(exceptions.StaleDeadline):
        engine.live.check(first)
    engine.live.check(second)
    hanging.open()
    engine.settle()
    assert fleet.rows() == []


def test_the_first_may_come_back_while_the_second_runs(fleet, hanging):
    """Its return is not the second one's."""
    engine = fleet(hanging, backoff_initial=1)
    claimed(fleet, engine)
    entered(hanging, 1)
    fleet.clock.advance(10)
    engine.turn()
    fleet.live(2, engine, step=1)
    entered(hanging, 2)
    before = fleet.row("k0")
    hanging.gates[0].open.set()
    wait_until(lambda: engine.parts.runner._hung == 0)
    engine.turn()
    assert fleet.row("k0") == before
    engine.live.check(hanging.values[1])


def test_the_timeout_of_the_kind_goes_before_the_option(fleet):
    kind = Recorder()
    handlers = fleet(kind, handler_timeout=77).live.handlers
    assert handlers.timeout("timer") == 77
    kind.handler_timeout = 5
    assert handlers.timeout("timer") == 5
    assert handlers.timeout("unknown") == 77


def test_the_loop_wakes_when_the_next_handler_is_late(fleet, hanging, clock):
    engine = fleet(hanging)
    claimed(fleet, engine)
    entered(hanging, 1)
    clock.advance(9.5)
    assert engine.turn() == pytest.approx(0.5)


def test_time_in_the_queue_is_not_the_handlers(fleet, hanging, clock):
    hanging.handler_timeout = HOUR
    quick = Recorder("quick", handler_timeout=5)
    engine = fleet(hanging, quick, handler_threads=1)
    claimed(fleet, engine)
    entered(hanging, 1)
    engine.live.arm("quick", "waits", due_in=0)
    engine.turn()
    before = fleet.row("waits")
    assert before.state == "claimed"
    clock.advance(20)
    engine.beat()
    engine.turn()
    assert fleet.row("waits") == before
    hanging.open()
    engine.settle()
    assert quick.keys == ["waits"]


# --- check --------------------------------------------------------------------


def test_check_is_of_the_value_that_is_held(fleet, hanging):
    engine = fleet(hanging)
    armed = None
    engine.turn()
    armed = engine.live.arm("timer", "k0", due_in=1)
    with pytest.raises(exceptions.StaleDeadline):
        engine.live.check(armed)  # nobody gave it to a handler
    fleet.clock.advance(1)
    engine.turn()
    entered(hanging, 1)
    engine.live.check(hanging.values[0])
    with pytest.raises(exceptions.StaleDeadline):
        engine.live.check(armed)


def test_check_raises_while_suspended_and_for_good_when_fenced(fleet, hanging):
    hanging.handler_timeout = HOUR
    engine = fleet(hanging)
    claimed(fleet, engine)
    entered(hanging, 1)
    value = hanging.values[0]
    fleet.clock.advance(60)
    with pytest.raises(exceptions.Suspended):
        engine.live.check(value)
    engine.beat()
    engine.live.check(value)
    fleet.bury(engine)
    engine.beat()
    with pytest.raises(exceptions.Fenced):
        engine.live.check(value)


def test_check_raises_once_it_has_answered(fleet):
    kind = Recorder()
    engine = fleet(kind)
    claimed(fleet, engine)
    wait_until(lambda: kind.calls and not engine.unanswered)
    with pytest.raises(exceptions.StaleDeadline):
        engine.live.check(kind.calls[0][1])


# --- every thread hangs -------------------------------------------------------


def test_when_every_thread_hangs_what_it_holds_is_given_back(every_fleet, hanging):
    fleet, takes = every_fleet, Recorder()
    engine = fleet(hanging, handler_threads=2)
    other = fleet(takes)
    claimed(fleet, engine, count=4)
    entered(hanging, 2)
    fleet.clock.advance(10)
    engine.beat()
    engine.parts.loop.turn()
    rows = fleet.rows()
    assert [(row.state, row.owner_id) for row in rows] == [("armed", None)] * 4
    assert engine.parts.runner.room == 0
    for _ in range(8):
        fleet.live(2, engine, other)
        other.settle()
    assert sorted(takes.keys) == ["k0", "k1", "k2", "k3"]
    assert fleet.rows() == []
    assert len(hanging.calls) == 2


def test_while_one_thread_is_left_nothing_is_given_back(fleet, hanging):
    engine = fleet(hanging, handler_threads=2)
    claimed(fleet, engine, count=1)
    entered(hanging, 1)
    fleet.clock.advance(10)
    engine.turn()
    assert fleet.row("k0").owner_id == engine.id
    assert engine.parts.runner.room == 10  # with both it would be twenty


def test_a_thread_that_comes_back_takes_work_again(fleet, hanging):
    engine = fleet(hanging, handler_threads=1)
    claimed(fleet, engine)
    entered(hanging, 1)
    fleet.clock.advance(10)
    engine.turn()
    assert engine.parts.runner.room == 0
    hanging.open()
    wait_until(lambda: engine.parts.runner.room > 0)
    hanging.answer = None
    fleet.live(4, engine)
    engine.settle()
    assert fleet.rows() == []


def test_a_hung_handler_stops_neither_beats_nor_sweeps_nor_others(fleet, hanging):
    other = Recorder("other")
    engine, victim = fleet(hanging, other), fleet(hanging, other)
    claimed(fleet, engine)
    entered(hanging, 1)
    victim.live.arm("other", "orphan", due_in=2)
    fleet.bury(victim)
    fleet.live(20, engine)
    wait_until(lambda: other.keys == ["orphan"])
    assert engine.live.trusted


def test_only_what_hung_is_given_back_not_what_merely_failed(fleet, hanging):
    failing = Recorder("failing", backoff_initial=50)
    failing.answer = ValueError("downstream is away")
    engine = fleet(hanging, failing, handler_threads=2)
    claimed(fleet, engine, count=1)
    entered(hanging, 1)
    engine.live.arm("failing", "fails", due_in=1)
    engine.live.arm("timer", "hangs", due_in=1)
    fleet.clock.advance(1)
    engine.turn()
    entered(hanging, 2)
    assert failing.keys == ["fails"]
    fleet.clock.advance(11)
    engine.beat()
    engine.parts.loop.turn()
    assert fleet.row("hangs").owner_id is None
    assert fleet.row("fails").owner_id == engine.id


# --- room ---------------------------------------------------------------------


def test_no_more_is_claimed_than_there_is_room_for(every_fleet, hanging):
    """So that another engine, which is idle, may have the rest."""
    fleet, takes = every_fleet, Recorder()
    hanging.handler_timeout = HOUR
    owner = fleet(Recorder())
    engine, other = fleet(hanging, handler_threads=2, batch_size=3), fleet(takes)
    for number in range(8):
        owner.live.arm("timer", f"k{number}", due_in=1)
    fleet.clock.advance(1 + 6)
    engine.beat()
    for held in (3, 5, 5):  # a batch that is run, and most of one that waits
        engine.turn()
        mine = [row for row in fleet.rows() if row.owner_id == engine.id]
        assert len(mine) == held
    other.beat()
    other.turn()
    other.settle()
    assert len(takes.keys) == 3


def test_slow_handlers_leave_the_rest_to_others(fleet, hanging, clock):
    """At a pace of a handler in twenty seconds nothing waits behind another."""
    hanging.handler_timeout = HOUR
    engine = fleet(hanging, handler_threads=2)
    assert engine.parts.runner.room == 20  # until it knows better
    claimed(fleet, engine, count=2)
    entered(hanging, 2)
    clock.advance(20)
    hanging.open()
    wait_until(lambda: not engine.unanswered)
    engine.settle()
    assert engine.parts.runner.room == 2


# --- errors of handlers -------------------------------------------------------


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class OwnReject(Reject):
    def __init__(self):
        Exception.__init__(self, "mine")
        self.facts = {}


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(1),
        KeyboardInterrupt(),
        NoText(),
        OwnReject(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_handler_raises_its_thread_goes_on(fleet, error):
    kind = Recorder()
    kind.answer = lambda d: (_ for _ in ()).throw(error) if d.key == "k0" else None
    engine = fleet(kind, handler_threads=1)
    claimed(fleet, engine, count=2)
    engine.settle(3)
    row = fleet.row("k0")
    assert row.state in ("armed", "parked")
    assert fleet.row("k1") is None


def test_a_handler_that_is_gone_parks_its_deadline(fleet):
    engine = fleet()
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    engine.live.handlers._by_kind.clear()
    fleet.clock.advance(1)
    engine.turn()
    engine.settle()
    assert fleet.row("k").last_error == "no handler for kind 'timer' is installed"


# --- threads ------------------------------------------------------------------


def test_the_pool_never_has_more_threads_than_its_size():
    pool, gate = Pool(3, lambda task: task()), threading.Event()
    running, peak, lock = [0], [0], threading.Lock()

    def task():
        with lock:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        gate.wait(10)
        with lock:
            running[0] -= 1

    for _ in range(10):
        pool.submit([task])
    wait_until(lambda: running[0] == 3)
    assert pool._threads == 3
    gate.set()
    wait_until(lambda: running[0] == 0)
    assert peak[0] == 3
    pool.stop()


def test_an_idle_thread_is_used_before_another_is_started():
    pool, done = Pool(3, lambda task: task()), []
    for number in range(5):
        pool.submit([lambda n=number: done.append(n)])
        wait_until(lambda n=number: len(done) == n + 1 and pool._idle == 1)
    assert pool._threads == 1
    pool.stop()


def test_tasks_that_hang_keep_no_other_waiting():
    """Submitted at once, of which each thread wakes the next."""
    pool, gate, done = (
        Pool(3, lambda task: task()),
        threading.Event(),
        threading.Event(),
    )
    pool.submit([gate.wait, gate.wait, done.set])
    assert done.wait(10)
    gate.set()
    pool.stop()


def test_quick_tasks_are_done_by_one_thread():
    """However many there are, and however often they come."""
    done = []
    pool = Pool(8, lambda task: done.append(threading.get_ident()), lambda: True)
    for number in range(1, 11):
        pool.submit(range(50))
        wait_until(lambda number=number: len(done) == 50 * number)
    assert len(set(done)) == 1
    pool.stop()


def test_one_that_hangs_among_quick_ones_keeps_others_waiting_until_help_comes():
    gate, done = threading.Event(), []

    def run(task):
        if task == 0:
            gate.wait(30)
        done.append(task)

    pool = Pool(8, run, lambda: True)
    pool.submit(range(5))
    wait_until(lambda: pool._threads - pool._idle == 1)
    pool.submit([5])
    assert (pool._threads, done) == (1, [])
    pool.help()
    wait_until(lambda: sorted(done) == [1, 2, 3, 4, 5])
    gate.set()
    wait_until(lambda: len(done) == 6)
    pool.submit(range(1, 9))
    wait_until(lambda: len(done) == 14)
    assert not pool._helped
    pool.stop()


class OneHangs(Hanging):
    """Only for the key k0."""

    def _wait(self, deadline):
        return super()._wait(deadline) if deadline.key == "k0" else None


def test_the_loop_brings_help_when_a_quick_kind_hangs(fleet, clock):
    kind = OneHangs()
    engine = fleet(kind, handler_threads=4)
    engine.parts.runner._mean = 0.0
    claimed(fleet, engine, 5)
    entered(kind, 1)
    assert len(kind.calls) == 1
    assert engine.parts.loop.turn() <= STALLED
    clock.advance(STALLED)
    engine.parts.loop.turn()
    wait_until(lambda: len(kind.calls) == 5)
    kind.open()


def test_help_is_called_once_for_each_that_hangs(fleet, clock, hanging):
    engine = fleet(hanging, handler_threads=1)
    engine.parts.runner._mean = 0.0
    claimed(fleet, engine, 5)
    entered(hanging, 1)
    engine.parts.loop.turn()
    clock.advance(STALLED)
    assert engine.parts.loop.turn() > STALLED


def test_what_is_due_now_does_not_wait_for_a_backlog(fleet, clock):
    """One thread, which is at work; nobody's deadlines are claimed and wait for it."""
    kind, action = OneHangs(), Recorder("action", when_orphaned="retrigger")
    dead, engine = fleet(kind, action), fleet(kind, action, handler_threads=1)
    for number in range(5):
        dead.live.arm("action", f"job{number}", due_in=HOUR)
    claimed(fleet, engine)
    entered(kind, 1)
    fleet.execute(sa.update(D).where(D.c.kind == "action").values(owner_id=None))
    engine.parts.runner._mean = 0.001
    engine.turn()
    assert len(engine.parts.runner.held()) == 6
    for number in (1, 2):
        engine.live.arm("timer", f"k{number}", due_in=0.5)
    clock.advance(0.5)
    engine.parts.loop.turn()
    ran = []
    engine.parts.runner.on_ran = lambda value, seconds: ran.append(value.key)
    kind.open()
    wait_until(lambda: len(ran) == 8)
    assert ran[:3] == ["k0", "k1", "k2"]


def test_answers_that_wait_are_a_reason_not_to_sleep(fleet):
    engine = fleet(Recorder())
    claimed(fleet, engine)
    wait_until(lambda: not engine.unanswered)
    assert engine.parts.loop._delay() == 0
    engine.settle()
    assert engine.parts.loop._delay() > 0


def test_a_loop_without_time_to_sleep_looks_at_the_bell_now_and_then(fleet, clock):
    """Or it would not learn that a neighbour died."""
    loop = fleet().parts.loop
    waits, turns = [], []

    def turn(connection):
        clock.advance(LISTEN / 4)
        turns.append(1)
        loop.stopping = len(turns) == 40

    loop._turn, loop._delay = turn, lambda: 0.0
    loop._bell.wait = waits.append
    loop.run()
    assert 8 <= len(waits) <= 12


def test_a_busy_loop_keeps_its_connection_and_gives_it_back(fleet, clock):
    """While it has no time to sleep, and not for longer than it listens to nobody."""
    loop = fleet().parts.loop
    turns, delays = [], [0.0, 0.0, 1.0] + [0.0] * 20
    given = []
    sa.event.listen(loop._pool, "checkin", lambda *facts: given.append(len(turns)))

    def turn(connection):
        assert not connection.closed
        clock.advance(LISTEN / 4)
        turns.append(connection)

    loop._turn, loop._delay = turn, lambda: delays.pop(0)
    assert [loop.turn(LISTEN), loop.turn(LISTEN)] == [1.0, 0.0]
    assert given == [3, 7]
    assert len(set(map(id, turns[:3]))) == 1
    assert loop.turns == 7


@pytest.mark.parametrize("why", ["stopping", "fenced"])
def test_a_busy_loop_ends_with_its_turn(fleet, why):
    engine = fleet()
    loop, turns = engine.parts.loop, []

    def turn(connection):
        turns.append(1)
        loop.stopping = why == "stopping"
        if why == "fenced":
            engine.trust.end("fenced")

    loop._turn, loop._delay = turn, lambda: 0.0
    loop.run()
    assert turns == [1]


@pytest.mark.parametrize("batch, mean, room", [(1, 0.0, 1), (1, 0.01, 0), (3, 0.0, 3)])
def test_while_handlers_are_quick_another_batch_is_claimed_beside_the_one_at_work(
    fleet, hanging, batch, mean, room
):
    engine = fleet(hanging, handler_threads=1, batch_size=batch)
    claimed(fleet, engine, batch)
    entered(hanging, 1)
    engine.parts.runner._mean = mean
    assert engine.parts.runner.room == room


def test_a_thread_that_cannot_be_started_strands_nothing(fleet, monkeypatch):
    """A limit of processes: the rows are claimed already."""
    kind = Recorder()
    engine = fleet(kind, handler_threads=4)
    engine.turn()
    for number in range(3):
        engine.live.arm("timer", f"k{number}", due_in=1)
    fleet.clock.advance(1)
    start, failures = threading.Thread.start, [1, 1]

    def limited(thread):
        if thread.name == "liveness-handler" and failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    engine.turn()
    for _ in range(10):
        fleet.clock.advance(1)
        engine.beat()
        engine.turn()
    wait_until(lambda: sorted(kind.keys) == ["k0", "k1", "k2"], 3)


def test_a_retry_answered_in_time_is_a_retry(fleet, hanging):
    hanging.outcome = Retry("again", due_in=5)
    engine = fleet(hanging)
    claimed(fleet, engine)
    entered(hanging, 1)
    fleet.clock.advance(10 - 1e-6)
    hanging.open()
    wait_until(lambda: not engine.unanswered)
    fleet.clock.advance(1)
    engine.turn()
    assert fleet.row("k0").last_error == "again"
    assert fleet.execute(sa.select(D.c.attempts)) == [(1,)]
