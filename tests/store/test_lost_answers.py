"""What was done and never answered: a statement is sent again, and counts once.

The proxy forwards, lets the server answer, and cuts the connection instead of
passing the answer on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from liveness import Arm, Rearm, exceptions
from liveness.db import claims as claims_module
from liveness.db import tables
from liveness.db.connection import (
    is_database_error,
    is_passing,
    retrying,
    transaction,
)
from liveness.db.events import EventLog
from liveness.db.heads import Ask, Heads, Line
from liveness.events import Event, What
from liveness.model import DeadlineState
from tests.fleet import Driven, Recorder
from tests.store.conftest import ME, Store, engine_value
from tests.store.proxy import Proxy

D = tables.deadline

ARMED, CLAIMED = DeadlineState.ARMED, DeadlineState.CLAIMED


@pytest.fixture(params=["mariadb", "postgresql"])
def backend(request) -> str:
    return request.param


@pytest.fixture
def proxy(store) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", store.database.url.port) as made:
        yield made


@pytest.fixture
def far(store, proxy) -> Iterator[Store]:
    """The same rows and the same clock, reached through the proxy."""
    made = Store(through(store, proxy), store.clock)
    yield made
    made.close()


def through(store: Store, proxy: Proxy) -> str:
    url = store.database.url.set(port=proxy.port)
    return url.render_as_string(hide_password=False)


@pytest.fixture
def engine(store, proxy) -> Iterator[Driven]:
    """An engine that reaches its database through the proxy."""
    made = Driven(
        through(store, proxy), store.clock, (Recorder("timer"),), engine_id=ME
    )
    yield made
    made.abandon()


@contextlib.contextmanager
def lost(proxy: Proxy, mark: bytes) -> Iterator[None]:
    """The answer to the next statement with ``mark`` in it gets lost, and the client
    knows that it knows nothing."""
    proxy.cut_after_next(mark)
    with pytest.raises(Exception) as caught:
        yield
    assert proxy.wait_cut()
    assert is_passing(caught.value)


@contextlib.contextmanager
def lost_and_sent_again(proxy: Proxy, mark: bytes) -> Iterator[None]:
    """The answer gets lost, and the program copes."""
    proxy.cut_after_next(mark)
    yield
    assert proxy.wait_cut(), "nothing was lost"


# --- claims -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["lock", "compare-and-set"])
def test_a_claim_whose_answer_was_lost_is_held_by_the_next_sweep(
    store, proxy, far, path, monkeypatch
):
    mark = b"COMMIT"
    if path == "compare-and-set":
        mark = b"UPDATE"
        monkeypatch.setattr(
            claims_module, "has_bounded_locks", lambda *args, **kwargs: False
        )
    value = store.arm(owner="gone")
    with far.connect() as connection:
        with lost(proxy, mark):
            far.claims.claim_orphans(connection, ME, [value])
    row = store.row()
    assert (row.owner_id, row.state, row.attempts) == (ME, CLAIMED, 1)
    assert store.find_work(["gone"], me="other").orphans == []
    (found,) = far.find_work().held
    with far.connect() as connection:
        (held,) = far.claims.adopt_lost(connection, ME, [found])
        assert far.deadlines.complete(connection, [held]) == set()
    assert held.attempts == 1


def test_a_chain_whose_answer_was_lost_did_both(store, proxy, far):
    mark = b"WITH gone" if far.backend == "postgresql" else b"COMMIT"
    done, due = store.claimed("done"), store.arm("due")
    with far.connect() as connection, lost(proxy, mark):
        far.claims.chain(connection, ME, [done], False, [due])
    assert store.find("done") is None
    (found,) = far.find_work().held
    with far.connect() as connection:
        assert far.deadlines.complete(connection, [done], again=True) == set()
        (held,) = far.claims.adopt_lost(connection, ME, [found])
    assert held.attempts == 1


LINES = pytest.mark.parametrize("line", list(Line), ids=["own", "nobodys"])


def head(store: Store, line: Line, done, again: bool = False):
    """Complete what is done and claim one, with an event."""
    told = Event(What.EXPIRED, ME)
    heads = Heads(store.clock, EventLog(store.clock))
    with store.connect() as connection:
        ask = Ask(ME, line, ("timer",), 1, told)
        stale, claimed = heads.claim(connection, ask, done, again)
        return stale, list(claimed)


def in_line(store: Store, line: Line, key: str):
    value = store.arm(key)
    if line is Line.NOBODYS:
        store.set_row(value, owner_id=None)
    return store.row(key)


@LINES
def test_a_claim_from_a_head_whose_answer_was_lost_did_both(store, proxy, far, line):
    mark = b"WITH " if far.backend == "postgresql" else b"COMMIT"
    done = store.claimed("done")
    in_line(store, line, "due"), in_line(store, line, "next")
    with far.connect():
        pass  # which may commit as well
    with lost(proxy, mark):
        head(far, line, [done])
    assert store.find("done") is None
    row = store.row("due")
    assert (row.owner_id, row.state, row.attempts) == (ME, CLAIMED, 1)
    assert store.row("next").state == ARMED
    (found,) = far.find_work().held
    with far.connect() as connection:
        (held,) = far.claims.adopt_lost(connection, ME, [found])
    assert (held.key, held.attempts) == ("due", 1)
    stale, claimed = head(far, line, [done], again=True)  # as it is sent again
    assert stale == set()
    assert [value.key for value in claimed] == ["next"]


@LINES
def test_a_claim_from_a_head_that_never_arrived_did_neither(store, proxy, far, line):
    """Not even what arrived of it."""
    done, due = store.claimed("done"), in_line(store, line, "due")
    statement = "WITH " if far.backend == "postgresql" else "COMMIT"

    def cut(connection, cursor, text, *rest):
        if text.startswith(statement):
            proxy.cut()

    sa.event.listen(far.pool, "before_cursor_execute", cut)
    with pytest.raises(Exception) as caught:
        head(far, line, [done])
    sa.event.remove(far.pool, "before_cursor_execute", cut)
    assert is_passing(caught.value)
    assert [store.row("done"), store.row("due")] == [done, due]
    assert [value.key for value in far.find_work().held] == ["done"]


def test_a_claim_that_never_arrived_is_not_held(store, proxy, far):
    value = store.arm(owner="gone")
    with far.connect() as connection, pytest.raises(Exception) as caught:
        with transaction(connection):
            connection.execute(sa.update(D).values(owner_id=ME, state=CLAIMED))
            proxy.cut()
    assert is_passing(caught.value)
    assert store.row() == value
    assert far.find_work().held == []


def test_a_connection_that_was_cut_is_not_given_out_again(store, proxy, far):
    value = store.arm(owner="gone")
    for _ in range(2):
        with far.connect() as connection, lost(proxy, b"COMMIT"):
            far.claims.claim_orphans(connection, ME, [store.row()])
        store.set_row(value, owner_id="gone")
    with far.connect() as connection:
        assert far.deadlines.find(connection, "timer", "k")


def test_a_lost_adoption_is_ones_own_by_the_next_sweep(store, proxy, far):
    value = store.arm(owner="gone", due=1.0)
    with far.connect() as connection, lost(proxy, b"COMMIT"):
        far.claims.adopt_orphans(connection, ME, [value])
    (own,) = far.find_work().own
    assert (own.owner_id, own.state, own.due_at) == (ME, ARMED, value.due_at)


def test_an_engine_runs_what_it_claimed_without_hearing_of_it(store, proxy, engine):
    handler = engine.live.handlers.get("timer")
    store.engine("dead")
    with store.connect() as connection:
        assert store.engines.resign(connection, "dead")
    store.arm(owner="dead", due=-9.0)
    with lost_and_sent_again(proxy, b"COMMIT"):
        engine.turn()
    assert handler.calls == [] and store.row().state == CLAIMED
    engine.turn()
    engine.settle()
    assert handler.keys == ["k"] and handler.calls[0][1].attempts == 1
    assert store.find() is None


# --- what owners write ------------------------------------------------------


def test_an_arm_sent_again_is_the_same_row(store, proxy, engine):
    with lost_and_sent_again(proxy, b"INSERT"):
        value = engine.live.arm("timer", "k", due_in=60)
    assert store.row() == value
    engine.live.disarm(value)
    assert store.keys() == []


@pytest.mark.parametrize(
    "mark, count", [(b"INSERT", 30), (b"INSERT", 1001), (b"COMMIT", 1001)]
)
def test_many_arms_sent_again_are_the_same_rows(store, proxy, engine, mark, count):
    arms = [Arm("timer", f"k{n:04}", due_in=60) for n in range(count)]
    with lost_and_sent_again(proxy, mark):
        values = engine.live.arm_many(arms)
    assert [value.key for value in values] == store.keys()
    last = count - 1
    assert [store.row("k0000"), store.row(f"k{last:04}")] == [values[0], values[last]]


def test_a_disarm_sent_again_is_done_and_not_stale(store, proxy, engine):
    value = engine.live.arm("timer", "k", due_in=60)
    with lost_and_sent_again(proxy, b"DELETE"):
        engine.live.disarm(value)
    assert store.keys() == []
    with pytest.raises(exceptions.StaleDeadline):
        engine.live.disarm(value)


def test_a_disarm_sent_again_leaves_a_key_that_was_armed_again(store, proxy, far):
    value = store.arm()
    with far.connect() as connection, lost(proxy, b"DELETE"):
        far.deadlines.complete(connection, [value])
    another = store.arm()
    with far.connect() as connection:
        assert far.deadlines.complete(connection, [value], again=True) == set()
    assert store.row() == another


def test_an_extension_sent_again_is_the_same_value(store, proxy, engine):
    value = engine.live.arm("timer", "k", due_in=60)
    with lost_and_sent_again(proxy, b"UPDATE"):
        extended = engine.live.extend(value, due_in=90)
    assert store.row() == extended
    engine.live.disarm(extended)


def test_an_extension_that_was_overtaken_while_its_answer_was_lost(store, proxy, far):
    value = store.arm()
    with far.connect() as connection, lost(proxy, b"UPDATE"):
        far.deadlines.extend(connection, value, -9.0, 99)
    with store.connect() as connection:
        assert store.claims.claim_overdue(connection, "other", [store.row()], 6.0)
    with far.connect() as connection, pytest.raises(exceptions.StaleDeadline):
        far.deadlines.extend(connection, value, -9.0, 99)


@pytest.mark.parametrize("answer", [None, Rearm(60.0)])
def test_an_outcome_sent_again_counts_once(store, proxy, engine, answer):
    handler = engine.live.handlers.get("timer")
    handler.answer = answer
    engine.live.arm("timer", "k", due_in=0)
    engine.turn()
    engine.turn()
    mark = b"DELETE" if answer is None else b"UPDATE"
    with pytest.raises(Exception) as caught:
        with lost_and_sent_again(proxy, mark):
            engine.settle()
    assert is_passing(caught.value)
    store.clock.advance(1)
    engine.settle()
    assert handler.keys == ["k"]
    if answer is None:
        assert store.find() is None
    else:
        row = store.row()
        assert (row.state, row.owner_id, row.attempts) == (ARMED, ME, 0)
        assert (row.due_at - store.clock.utc).total_seconds() == 59  # not moved twice
    assert not engine.parts.runner.busy


# --- engines ----------------------------------------------------------------


def test_a_beat_whose_answer_was_lost_is_followed_by_one_that_counts(
    store, proxy, engine
):
    assert engine.beat()
    before = store.engine_row(ME).beat_seq
    with lost_and_sent_again(proxy, b"UPDATE"):
        assert not engine.beat()
    assert store.engine_row(ME).beat_seq == before + 1
    assert not engine.trust.fenced
    assert engine.beat()
    assert store.engine_row(ME).beat_seq == before + 2


def test_beats_go_on_after_several_lost_answers_and_lost_beats(store, proxy, engine):
    for lose in (b"UPDATE", b"UPDATE", b"UPDATE"):
        with lost_and_sent_again(proxy, lose):
            assert not engine.beat()
        proxy.cut()
    assert engine.beat()
    assert store.engine_row(ME).beat_seq == 5


def test_a_fence_whose_answer_was_lost_is_seen_by_the_next_reading(store, proxy, far):
    victim = store.engine("victim")
    with far.connect() as connection, lost(proxy, b"UPDATE"):
        far.engines.fence(connection, victim, ME, "silent")
    with far.connect() as connection:
        assert far.engines.not_alive(connection, ["victim"]) == {"victim"}
        assert not far.engines.fence(connection, victim, ME, "silent")


def test_an_engine_registers_although_the_answer_was_lost(store, proxy, far):
    """As the engine does it: with a new connection for each try."""
    value = engine_value(ME)

    def register() -> None:
        with far.connect() as connection:
            far.engines.register(connection, value)

    with lost_and_sent_again(proxy, b"INSERT"):
        retrying(register)
    assert store.engine_row(ME).token == value.token


def test_an_engine_starts_although_the_answer_was_lost(store, proxy):
    with lost_and_sent_again(proxy, b"INSERT"):
        engine = Driven(through(store, proxy), store.clock, engine_id=ME)
    assert store.engine_row(ME).alive
    assert engine.beat()
    engine.abandon()


# --- the proxy --------------------------------------------------------------


def test_a_stalled_proxy_passes_nothing_on_until_it_is_resumed(store, proxy, far):
    with far.connect() as connection:
        proxy.stall()
        short = Store(through(store, proxy), store.clock, timeout=0.5)
        with pytest.raises(Exception) as caught, short.connect():
            pass
        assert is_database_error(caught.value)
        short.close()
        proxy.resume()
        assert connection.execute(sa.select(sa.literal(1))).scalar() == 1


def test_a_cut_proxy_takes_new_connections(store, proxy, far):
    with far.connect() as connection:
        connection.execute(sa.select(sa.literal(1)))
        proxy.cut()
        with pytest.raises(Exception) as caught:
            connection.execute(sa.select(sa.literal(1)))
        assert is_passing(caught.value)
    with far.connect() as connection:
        assert connection.execute(sa.select(sa.literal(1))).scalar() == 1


def test_a_first_connection_that_is_lost_while_the_server_is_asked_what_it_is(
    store, proxy, far, backend
):
    mark = b"sql_mode" if backend == "mariadb" else b"standard_conforming_strings"
    with lost(proxy, mark), far.connect():
        pass
    with far.connect() as connection:
        assert connection.execute(sa.select(sa.literal(1))).scalar() == 1
