"""Draining: nothing new, what is in flight is waited for, the rest is handed back."""

import logging
import threading
import time

import pytest

from liveness import Liveness, Settings, exceptions
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Fault, Meanwhile

HOUR = 3600.0


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


def stopping(engine, timeout=30.0):
    """``engine.live.stop(timeout)`` in a thread of its own; its loop's thread is there,
    and idle."""
    thread = threading.Thread(target=engine.live.stop, args=(timeout,), daemon=True)
    thread.start()
    return thread


def ended(thread, seconds=20.0):
    thread.join(seconds)
    assert not thread.is_alive(), "stop() does not return"


@pytest.fixture
def driven(fleet):
    """Makes engines that a test may stop: the loop's thread runs, and turns only when
    it is rung for, or the heart's real pace; the test beats."""

    def make(*handlers, **options):
        engine = fleet(*handlers, **options)
        engine.parts._thread.start()
        wait_until(lambda: engine.parts.loop.turns > 0)
        return engine

    yield make
    for engine in fleet.engines:
        engine.parts.loop.stopping = True
        if engine.parts._bell._rung >= 0:
            engine.parts._bell.ring()


def held(fleet, engine, gate, key="k"):
    """The engine's handler for ``key`` waits at the gate."""
    engine.live.arm("timer", key, due_in=0)
    engine.parts._bell.ring()
    assert gate.entered.wait(10)


# --- what it hands back -------------------------------------------------------


def test_everything_is_handed_back_and_then_the_engine_resigns(driven, fleet, caplog):
    caplog.set_level(logging.INFO)
    engine, survivor = driven(batch_size=2), fleet()
    for number in range(5):
        engine.live.arm("timer", f"k{number}", due_in=HOUR, payload=number)
    before = {row.key: row for row in fleet.rows()}
    engine.live.stop()
    assert fleet.engine_row(engine).state == "stopped"
    assert fleet.engine_row(engine).fenced_by is None
    for row in fleet.rows():
        was = before[row.key]
        assert (row.owner_id, row.state, row.attempts) == (None, "armed", 0)
        assert row.token != was.token
        assert (row.due_at, row.expires_at) == (was.due_at, was.expires_at)
    survivor.turn()
    assert {row.owner_id for row in fleet.rows()} == {survivor.id}
    assert f"Engine {engine.id} handed 5 deadlines back" in caplog.text
    assert f"Engine {engine.id} has stopped" in caplog.text


def test_a_drained_engine_on_every_database(every_fleet):
    fleet = every_fleet
    action = Recorder("action", when_orphaned="retrigger")
    engine, survivor = fleet(action), fleet(action)
    engine.parts._thread.start()
    engine.live.arm("action", "k", due_in=HOUR)
    engine.live.stop()
    survivor.turn()
    survivor.settle()
    assert action.calls[0][0] == "orphaned"
    assert fleet.rows() == []


def test_nothing_is_begun_while_it_drains(driven, fleet, gate):
    timer = Recorder()
    timer.answer = gate
    engine, victim = driven(timer), fleet()
    held(fleet, engine, gate)
    engine.live.arm("timer", "due", due_in=1)
    victim.live.arm("timer", "orphan", due_in=HOUR)

    def turn():
        turns = engine.parts.loop.turns
        engine.parts._bell.ring()
        wait_until(lambda: engine.parts.loop.turns > turns)

    thread = stopping(engine)
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    turn()  # the one that was under way then may still claim
    fleet.bury(victim)
    fleet.clock.advance(10)
    for _ in range(3):
        engine.beat()
        engine.parts.loop.sweep_soon()
        turn()
    assert fleet.row("due").state == "armed"
    assert fleet.row("orphan").owner_id == victim.id
    gate.open.set()
    ended(thread)
    assert timer.keys == ["k"]


# --- begun, and not yet ended ---------------------------------------------------


def turned(engine):
    """One turn of the loop's thread, a sweep if it sweeps."""
    turns = engine.parts.loop.turns
    engine.parts.loop.sweep_soon()
    engine.parts._bell.ring()
    wait_until(lambda: engine.parts.loop.turns > turns)


def test_who_has_begun_to_drain_takes_nothing_over_and_works_on(driven, fleet):
    action = Recorder("action", when_orphaned="retrigger")
    handlers = Recorder(), action
    engine, victim, survivor = driven(*handlers), fleet(*handlers), fleet(*handlers)
    engine.live.arm("timer", "due", due_in=1)
    victim.live.arm("timer", "adopted", due_in=HOUR)
    victim.live.arm("action", "retriggered", due_in=HOUR)
    engine.live.begin_drain()
    assert fleet.engine_row(engine).state == "draining"
    turned(engine)  # the one that was under way then may still claim
    fleet.bury(victim)
    fleet.clock.advance(10)
    for _ in range(3):
        assert engine.beat()
        turned(engine)
    assert fleet.row("due").state == "armed"
    assert fleet.row("adopted").owner_id == victim.id
    assert fleet.row("retriggered").owner_id == victim.id
    # What it has in hand goes on, and what comes may be written down.
    with engine.live.guard("timer", "guarded", due_in=HOUR) as guard:
        guard.check()
        engine.live.arm("timer", "armed", due_in=HOUR)
        assert fleet.row("guarded").owner_id == engine.id
    survivor.turn()
    survivor.settle()
    assert action.keys == ["retriggered"]
    assert fleet.engine_row(engine).state == "draining"
    engine.live.stop()
    assert fleet.engine_row(engine).state == "stopped"
    assert fleet.row("armed").owner_id is None


def test_the_sweep_under_way_does_not_take_it_for_an_operators_wish(driven, fleet):
    engine = driven()
    with engine.live.guard("timer", "k", due_in=HOUR) as guard:
        engine.live.begin_drain()
        with engine.connect() as connection:
            engine.parts._sweep.run_pass(connection)
        time.sleep(0.1)
        guard.check()
        assert not any(t.name == "liveness-drain" for t in threading.enumerate())


def test_an_operators_wish_is_the_programs_to_fulfil(driven, fleet):
    engine, calls = driven(), []
    engine.live.on_drain(lambda: calls.append(engine.parts.loop.draining))
    with engine.live.guard("timer", "k", due_in=HOUR) as guard:
        with engine.connect() as connection:
            engine.parts.engines.set_draining(connection, engine.id)
        for _ in range(2):
            turned(engine)
        wait_until(lambda: calls)
        guard.check()
        engine.live.arm("timer", "armed", due_in=HOUR)
    assert calls == [True]
    assert fleet.engine_row(engine).state == "draining"


def test_what_was_not_started_before_the_drain_never_is(quick_url):
    live = Liveness(Settings.of(connection=quick_url))
    live.begin_drain()
    with pytest.raises(exceptions.NotRunning):
        live.start()


def test_a_drain_may_begin_twice_and_with_the_database_away(driven, fleet):
    engine, victim = driven(Recorder()), fleet()
    victim.live.arm("timer", "k", due_in=HOUR)
    draining = Fault(engine.parts.engines, "set_draining", before=float("inf"))
    engine.live.begin_drain()
    calls = draining.calls
    engine.live.begin_drain()
    assert draining.calls == calls
    turned(engine)
    fleet.bury(victim)
    turned(engine)
    assert fleet.row("k").owner_id == victim.id
    engine.live.stop()
    assert fleet.engine_row(engine).state == "stopped"


# --- what it waits for --------------------------------------------------------


def test_it_waits_for_handlers_and_settles_what_they_answer(driven, fleet, gate):
    timer = Recorder()
    timer.answer = gate
    engine = driven(timer)
    held(fleet, engine, gate)
    thread = stopping(engine)
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    time.sleep(0.1)
    assert thread.is_alive()
    assert fleet.row("k").state == "claimed"
    gate.open.set()
    ended(thread)
    assert fleet.rows() == []
    assert fleet.engine_row(engine).state == "stopped"


def test_it_waits_for_guards(driven, fleet):
    engine = driven()
    with engine.live.guard("timer", "k", due_in=HOUR) as guard:
        thread = stopping(engine)
        wait_until(lambda: fleet.engine_row(engine).state == "draining")
        time.sleep(0.1)
        assert thread.is_alive()
        guard.check()
    ended(thread)
    assert fleet.rows() == []


def test_it_waits_for_a_guard_whose_row_is_not_gone_yet(driven, fleet, monkeypatch):
    engine = driven()
    deadlines, entered, go = (
        engine.parts.deadlines,
        threading.Event(),
        threading.Event(),
    )
    complete, errors = deadlines.complete, []

    def slow(*args, **how):
        entered.set()
        assert go.wait(10)
        return complete(*args, **how)

    def work():
        try:
            with engine.live.guard("timer", "k", due_in=HOUR):
                monkeypatch.setattr(deadlines, "complete", slow)
        except Exception as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert entered.wait(10)
    thread = stopping(engine)
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    time.sleep(0.1)
    assert thread.is_alive()
    go.set()
    worker.join(10)
    ended(thread)
    assert errors == [] and fleet.rows() == []


def test_it_goes_on_beating_while_it_waits(driven, fleet, gate):
    timer = Recorder()
    timer.answer = gate
    engine = driven(timer)
    held(fleet, engine, gate)
    thread = stopping(engine)
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    assert engine.beat()
    assert engine.live.trusted
    engine.parts.heart.start()
    wait_until(lambda: fleet.engine_row(engine).beat_seq > 2)
    gate.open.set()
    ended(thread)
    assert not engine.parts.heart._thread.is_alive()


def test_when_its_time_is_up_handlers_and_guards_lose_what_they_have(
    driven, fleet, gate
):
    timer = Recorder()
    timer.answer = gate
    engine = driven(timer)
    held(fleet, engine, gate)
    with (
        pytest.raises(exceptions.StaleDeadline),
        engine.live.guard("timer", "guarded", due_in=HOUR) as guard,
    ):
        ended(stopping(engine, timeout=0))
        with pytest.raises(exceptions.NotRunning):
            guard.check()
        with pytest.raises(exceptions.NotRunning):
            engine.live.check(timer.calls[0][1])
    rows = {row.key: (row.owner_id, row.state, row.attempts) for row in fleet.rows()}
    assert rows == {"k": (None, "armed", 1), "guarded": (None, "armed", 0)}
    before = fleet.rows()
    gate.open.set()
    wait_until(lambda: not engine.parts.runner._pool._threads)
    assert fleet.rows() == before


def test_a_value_is_spent_before_its_row_is_released(driven, fleet, gate):
    """Else both run: the answer to the release may be lost."""
    timer = Recorder()
    timer.answer = gate
    engine = driven(timer)
    held(fleet, engine, gate)
    seen = []

    def look():
        for call in (
            lambda: engine.live.check(timer.calls[0][1]),
            guard.check,
            lambda: engine.live.arm("timer", "late", due_in=1),
        ):
            try:
                call()
                seen.append("passed")
            except exceptions.LivenessError:
                seen.append("refused")
        seen.append(guard.handed_over)
        seen.append(fleet.row("k").owner_id == engine.id)

    with (
        pytest.raises(exceptions.StaleDeadline),
        engine.live.guard("timer", "guarded", due_in=HOUR) as guard,
    ):
        Meanwhile(engine.parts.deadlines, "hand_back", look)
        ended(stopping(engine, timeout=0))
    assert seen == ["refused"] * 3 + [True, True]


def test_it_resigns_last(driven, fleet):
    """Whoever reads "stopped" may take everything at once."""
    engine = driven()
    engine.live.arm("timer", "k", due_in=HOUR)
    order = []
    parts = engine.parts
    Meanwhile(parts.trust, "drop", lambda: order.append("drop"))
    Meanwhile(parts.runner, "spend_all", lambda: order.append("spend"))
    Meanwhile(parts.deadlines, "hand_back", lambda: order.append("hand back"))
    Meanwhile(parts.heart, "stop", lambda: order.append("last beat"))
    Meanwhile(parts.engines, "resign", lambda: order.append("resign"))
    engine.live.stop()
    assert order == ["drop", "spend", "hand back", "last beat", "resign"]


def test_what_waits_for_a_thread_is_handed_back_as_if_it_was_not_claimed(
    driven, fleet, gate
):
    timer = Recorder()
    timer.answer = gate
    engine = driven(timer, handler_threads=1)
    for key in ("runs", "waits"):
        engine.live.arm("timer", key, due_in=0)
    engine.parts._bell.ring()
    assert gate.entered.wait(10)
    wait_until(lambda: {row.state for row in fleet.rows()} == {"claimed"})
    ended(stopping(engine, timeout=0))
    attempts = {row.key: row.attempts for row in fleet.rows()}
    (running,) = timer.keys
    assert attempts.pop(running) == 1
    assert list(attempts.values()) == [0]


def test_a_claim_under_way_when_it_begins_is_waited_for(driven, fleet):
    """The pass that had begun still claims; its handlers get the time there is."""
    timer, at, on = Recorder(), threading.Event(), threading.Event()
    engine = driven(timer)

    def hold():
        at.set()
        assert on.wait(20)

    engine.live.arm("timer", "k", due_in=1)
    Meanwhile(engine.parts._claims, "claim_own", hold)
    fleet.clock.advance(1)
    engine.parts._bell.ring()
    assert at.wait(10)
    thread = stopping(engine)
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    time.sleep(0.1)
    on.set()
    ended(thread)
    assert timer.keys == ["k"]
    assert fleet.rows() == []


# --- fenced, twice, without a database ----------------------------------------


def test_an_engine_may_be_fenced_while_it_drains(driven, fleet, gate):
    timer, other = Recorder(), Recorder()
    timer.answer = gate
    engine, survivor = driven(timer), fleet(other)
    held(fleet, engine, gate)
    engine.live.arm("timer", "armed", due_in=HOUR)
    thread = stopping(engine)
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    fleet.bury(engine)
    survivor.turn()
    survivor.settle()
    assert other.keys == ["k"]
    before = fleet.rows()
    engine.beat()
    ended(thread)
    assert fleet.rows() == before
    assert fleet.engine_row(engine).state == "fenced"


def test_a_fenced_engine_that_does_not_know_it_takes_nothing_back(driven, fleet):
    engine, survivor = driven(), fleet()
    engine.live.arm("timer", "k", due_in=HOUR)
    fleet.bury(engine)
    survivor.turn()
    before = fleet.rows()
    engine.live.stop()
    assert fleet.rows() == before
    assert fleet.engine_row(engine).state == "fenced"


def test_a_fence_during_the_drain_whose_callback_stops_the_engine_hangs_nobody(
    driven, fleet
):
    engine = driven(beat_interval=0.05)
    entered = threading.Event()

    def stop(reason):
        entered.set()
        engine.live.stop()

    engine.live.on_fenced(stop)
    with (
        pytest.raises(exceptions.LivenessError),
        engine.live.guard("timer", "k", due_in=HOUR),
    ):
        thread = stopping(engine)
        wait_until(lambda: fleet.engine_row(engine).state == "draining")
        fleet.bury(engine)
        engine.parts.heart.start()
        assert entered.wait(10)
        ended(thread, 5)


def test_stopped_twice_or_by_two_threads_it_stops_once(driven, fleet, gate):
    timer = Recorder()
    timer.answer = gate
    engine = driven(timer)
    held(fleet, engine, gate)
    drains = Fault(engine.parts, "_drain")
    threads = [stopping(engine) for _ in range(2)]
    wait_until(lambda: fleet.engine_row(engine).state == "draining")
    gate.open.set()
    for thread in threads:
        ended(thread)
    engine.live.stop()
    assert drains.calls == 1
    with pytest.raises(exceptions.NotRunning):
        engine.live.start()


def test_an_engine_that_was_never_started_stops_without_a_word(quick_url):
    live = Liveness(Settings.of(connection=quick_url))
    live.stop()
    with pytest.raises(exceptions.NotRunning):
        live.start()


@pytest.mark.parametrize("failing", ["set_draining", "resign", "hand_back", "all"])
def test_with_the_database_away_it_stops_and_others_take_over(driven, fleet, failing):
    engine, survivor = driven(), fleet()
    engine.live.arm("timer", "k", due_in=HOUR)
    for name in ("set_draining", "resign"):
        if failing in (name, "all"):
            Fault(engine.parts.engines, name, before=float("inf"))
    if failing in ("hand_back", "all"):
        Fault(engine.parts.deadlines, "hand_back", before=float("inf"))
    engine.live.stop()
    state = fleet.engine_row(engine).state
    assert state == {"resign": "draining", "all": "live"}.get(failing, "stopped")
    assert not engine.live.trusted
    fleet.live(36, survivor)
    assert fleet.row("k").owner_id == survivor.id


@pytest.mark.parametrize("name", ["set_draining", "resign"])
def test_a_lost_answer_of_the_drain_is_asked_again(driven, fleet, name):
    engine = driven()
    call = Fault(engine.parts.engines, name, after=1)
    engine.live.stop()
    assert call.calls == 2
    assert fleet.engine_row(engine).state == "stopped"


def test_a_handing_back_whose_answer_was_lost_goes_on(driven, fleet):
    engine = driven(batch_size=2)
    for number in range(5):
        engine.live.arm("timer", f"k{number}", due_in=HOUR)
    Fault(engine.parts.deadlines, "hand_back", after=2)
    engine.live.stop()
    assert {row.owner_id for row in fleet.rows()} == {None}


def test_what_cannot_be_settled_in_the_end_is_handed_back_and_runs_again(driven, fleet):
    timer = Recorder()
    engine, survivor = driven(timer), fleet(timer)
    Fault(engine.parts.deadlines, "complete", before=float("inf"))
    engine.live.arm("timer", "k", due_in=0)
    engine.parts._bell.ring()
    wait_until(lambda: timer.keys == ["k"])
    engine.live.stop(0)
    survivor.turn()
    survivor.settle()
    assert timer.keys == ["k", "k"]
    assert fleet.rows() == []


def test_a_handler_may_stop_its_engine(driven, fleet):
    timer = Recorder()
    engine = driven(timer)
    timer.answer = lambda deadline: engine.live.stop(0.2)
    engine.live.arm("timer", "k", due_in=0)
    engine.parts._bell.ring()
    wait_until(lambda: fleet.engine_row(engine).state == "stopped")
    assert fleet.row("k").owner_id is None


def test_an_idle_engine_stops_at_once_however_seldom_it_sweeps(quick_url):
    live = Liveness(
        Settings.of(
            connection=quick_url, ttl=3600, sweep_interval=800, beat_interval=10
        )
    )
    live.start()
    wait_until(lambda: live._running.loop.turns > 0)
    thread = threading.Thread(target=live.stop, args=(900,), daemon=True)
    thread.start()
    thread.join(20)
    late = thread.is_alive()
    live._running._bell.ring()
    ended(thread)
    assert not late


def test_a_start_that_gets_no_thread_leaves_nothing_behind(
    quick_url, fleet, monkeypatch
):
    live = Liveness(Settings.of(connection=quick_url))
    start = threading.Thread.start

    def limited(thread):
        if thread.name == "liveness-sweep":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError):
        live.start()
    hearts = [t for t in threading.enumerate() if t.name == "liveness-heart"]
    live.stop()
    assert not hearts
    assert not live.trusted
