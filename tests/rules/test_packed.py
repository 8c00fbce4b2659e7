"""A batch from a head is held from its claim on, and made into values once, later: by
the thread that runs its handlers, or by whoever asks first."""

import threading

import pytest
import sqlalchemy as sa

from liveness.db import tables
from liveness.db.heads import Ask, Line
from liveness.runner import Hold
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Meanwhile

D = tables.deadline


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def busy(fleet, gate):
    """An engine whose only thread is at work until the gate opens; its kind."""
    kind = Recorder()
    engine = fleet(kind, handler_threads=1, batch_size=3)
    engine.parts.runner._mean = 0.001
    engine.turn()
    kind.answer = lambda value: gate(value) if value.key == "first" else None
    engine.live.arm("timer", "first", due_in=1)
    fleet.clock.advance(1)
    engine.parts.loop.turn()
    assert gate.entered.wait(10)
    return engine, kind


def claim(fleet, engine, count=3, taken=lambda values: None):
    """So many from the head of nobody's line, claimed and given to the handlers."""
    other = fleet(Recorder())
    keys = [f"k{number}" for number in range(count)]
    for key in keys:
        other.live.arm("timer", key, due_in=0)
    fleet.execute(sa.update(D).where(D.c.key.in_(keys)).values(owner_id=None))
    ask = Ask(engine.id, Line.NOBODYS, ("timer",), count)
    with engine.connect() as connection:
        _, values = engine.parts.firing._heads.claim(connection, ask)
    engine.parts.runner.run_packed(values, values.ids, taken)
    return values


def made_slowly(values):
    """Set when the values are being made; to be set for them to be made."""
    make, making, go_on = values._make, threading.Event(), threading.Event()

    def slowly(rows):
        making.set()
        assert go_on.wait(10)
        return make(rows)

    values._make = slowly
    return making, go_on


def settled(engine, kind, count):
    wait_until(lambda: len(kind.calls) == count)
    engine.settle()
    assert not engine.parts.runner.busy


def test_it_is_held_though_nobody_has_looked_at_it(fleet, busy, gate):
    engine, kind = busy
    runner = engine.parts.runner
    assert runner.room == 3
    values = claim(fleet, engine)
    assert runner.room == 1
    assert runner.working and runner.busy
    assert values._made is None
    gate.open.set()
    settled(engine, kind, 4)
    assert fleet.rows() == []


@pytest.mark.parametrize("first", ["held", "has"])
def test_who_asks_what_is_held_is_told_of_it(fleet, busy, gate, first):
    engine, kind = busy
    told = []
    values = claim(fleet, engine, taken=told.append)
    runner = engine.parts.runner
    if first == "held":
        assert [v.key for v in runner.held()] == ["first", "k0", "k1", "k2"]
    assert all(runner.has(row_id) for row_id in values.ids)
    gate.open.set()
    settled(engine, kind, 4)
    assert told == [values]
    assert kind.keys == ["first", "k0", "k1", "k2"]


def test_it_is_told_of_once_whoever_looks_at_the_same_time(fleet, busy, gate):
    """One asks what is held while the values are being made; the handlers' thread comes
    to them then."""
    engine, kind = busy
    told = []
    values = claim(fleet, engine, taken=told.append)
    making, go_on = made_slowly(values)
    asker = threading.Thread(target=engine.parts.runner.held)
    asker.start()
    assert making.wait(10)
    gate.open.set()
    go_on.set()
    asker.join(10)
    settled(engine, kind, 4)
    assert told == [values]
    assert sorted(kind.keys) == ["first", "k0", "k1", "k2"]


def test_one_that_is_due_now_comes_before_it(fleet, busy, gate):
    """Though it was claimed later, while the values were being made."""
    engine, kind = busy
    runner = engine.parts.runner
    values = claim(fleet, engine)
    make = values._make
    making, go_on = made_slowly(values)
    gate.open.set()
    assert making.wait(10)
    (now,) = make([(0, "timer", "now", 1, 1, *values._rows[0][5:])])
    submit = threading.Thread(target=runner._pool.submit, args=([Hold(now, 9)], True))
    submit.start()
    submit.join(10)
    go_on.set()
    wait_until(lambda: len(kind.calls) == 5)
    assert kind.keys == ["first", "now", "k0", "k1", "k2"]


def test_what_no_handler_was_called_for_is_given_back(fleet, busy, gate):
    engine, kind = busy
    claim(fleet, engine)
    engine.parts.runner.withdraw("its engine stops")
    with engine.connect() as connection:
        engine.parts.loop._settle(connection)
    rows = {row.key: row for row in fleet.rows()}
    assert [rows[f"k{n}"].owner_id for n in range(3)] == [None] * 3
    assert [rows[f"k{n}"].attempts for n in range(3)] == [0] * 3
    gate.open.set()
    settled(engine, kind, 1)


def test_when_every_thread_hangs_it_is_given_back(fleet, busy, gate):
    engine, kind = busy
    claim(fleet, engine)
    fleet.clock.advance(engine.live.settings.handler_timeout)
    engine.beat()
    engine.parts.runner.spend_late()
    with engine.connect() as connection:
        engine.parts.loop._settle(connection)
    rows = {row.key: row for row in fleet.rows()}
    assert [rows[f"k{n}"].owner_id for n in range(3)] == [None] * 3
    assert kind.keys == ["first"]


def test_when_one_comes_back_meanwhile_nothing_is_given_back(fleet, busy, gate):
    """While what was claimed is made into values, to be given back."""
    engine, kind = busy
    claim(fleet, engine)
    runner, rest = engine.parts.runner, Gate()
    kind.answer = rest

    def comes_back():
        gate.open.set()
        assert rest.entered.wait(10)

    Meanwhile(runner, "_unpack_all", comes_back)
    fleet.clock.advance(engine.live.settings.handler_timeout)
    engine.beat()
    runner.spend_late()
    rest.open.set()
    settled(engine, kind, 4)
    assert [row.key for row in fleet.rows()] == ["first"]


def test_an_engine_that_holds_nothing_else_is_at_work(fleet):
    engine = fleet(Recorder())
    runner = engine.parts.runner
    runner._pool.submit = lambda tasks, first=False: None
    claim(fleet, engine)
    assert runner.working
    assert runner.busy
    assert len(runner.held()) == 3


def test_after_the_end_of_all_it_is_nobodys_business(fleet, busy, gate):
    engine, kind = busy
    told = []
    claim(fleet, engine, taken=told.append)
    engine.parts.runner.spend_all()
    assert not engine.parts.runner.busy
    gate.open.set()
    wait_until(lambda: not engine.parts.runner._pool._threads)
    assert (told, kind.keys) == ([], ["first"])


def test_who_is_suspended_meanwhile_runs_it_when_it_is_trusted_again(fleet, busy, gate):
    engine, kind = busy
    claim(fleet, engine)
    fleet.clock.advance(engine.live.settings.ttl)
    gate.open.set()
    wait_until(lambda: len(engine.parts.runner._untrusted) == 3)
    assert kind.keys == ["first"]
    engine.beat()
    engine.parts.runner.resume()
    settled(engine, kind, 4)


def test_it_is_passed_on_to_help_if_the_thread_at_work_hangs(fleet, busy, gate):
    engine, kind = busy
    engine.parts.runner._pool.size = 2
    engine.parts.runner._mean = 0.0
    claim(fleet, engine)
    assert kind.keys == ["first"]
    engine.parts.runner._pool.help()
    wait_until(lambda: len(kind.calls) == 4)
    gate.open.set()
    settled(engine, kind, 4)


def test_what_cannot_be_read_at_once_is_found_by_a_sweep(fleet, busy, gate, caplog):
    engine, kind = busy
    values = claim(fleet, engine)

    def make(rows):
        raise ZeroDivisionError

    values._make = make
    gate.open.set()
    wait_until(lambda: "cannot be read" in caplog.text)
    settled(engine, kind, 1)
    fleet.live(2, engine)
    settled(engine, kind, 4)
    assert sorted(kind.keys) == ["first", "k0", "k1", "k2"]
    assert fleet.rows() == []


def test_who_is_told_of_it_and_fails_keeps_nobody_from_handling_it(
    fleet, busy, gate, caplog
):
    engine, kind = busy

    def told(values):
        raise ZeroDivisionError

    claim(fleet, engine, taken=told)
    gate.open.set()
    settled(engine, kind, 4)
    assert "Nobody was told" in caplog.text
