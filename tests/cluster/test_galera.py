"""The store on a Galera cluster: two nodes at once, an old reading, a lost answer.

Row locks are a node's own, and so is what it has not yet heard of. What is between two
engines on two nodes is the row's token, the row count, and who commits first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness.clock import Clock
from liveness.db import tables
from liveness.db.connection import is_database_error, is_passing, one_line, transaction
from liveness.db.events import EventLog
from liveness.db.heads import Ask, Heads, Line
from liveness.model import DeadlineState, EngineState
from tests.cluster.conftest import LONG, NAME, needs_clocks
from tests.fleet import Driven, Recorder
from tests.galera import Galera, Node
from tests.proc import until
from tests.store.conftest import ME, Store
from tests.store.interleave import Stopped
from tests.store.proxy import Proxy

D, E = tables.deadline, tables.engine
CLAIMED = DeadlineState.CLAIMED


def plain(node: Node) -> Any:
    """A connection as somebody has it who has not thought of Galera."""
    return pymysql.connect(
        unix_socket=node.socket, user="root", database=NAME, autocommit=True
    )


@contextlib.contextmanager
def behind(*nodes: Node) -> Iterator[None]:
    """For the block, these nodes apply nothing that others commit, and commit nothing;
    they go on answering reads. A backup does that to a node."""
    with contextlib.ExitStack() as stack:
        for node in nodes:
            connection = stack.enter_context(contextlib.closing(plain(node)))
            connection.cursor().execute("FLUSH TABLES WITH READ LOCK")
        yield


def claim(store: Store, me: str, value: Any) -> Any:
    with store.connect() as connection:
        return store.claims.claim_orphans(connection, me, [value])


# --- two nodes at once ----------------------------------------------------------


@pytest.mark.parametrize("mark", ["UPDATE", "COMMIT"])
def test_of_two_claims_on_two_nodes_one_counts(stores, mark):
    """Both have locked the row; the one that is stopped there learns at its next
    statement, or at its commit, that it has lost."""
    one, two, _ = stores
    value = one.arm(owner="gone")
    with Stopped(one.pool, mark, lambda: claim(one, "one", value)) as stopped:
        (won,) = claim(two, "two", value)
        with pytest.raises(db_exc.DBDeadlock) as lost:
            stopped.go_on()
    assert is_passing(lost.value)
    row = one.row()
    assert (row.owner_id, row.token, row.attempts) == ("two", won.token, 1)
    with two.connect() as connection:
        assert two.deadlines.complete(connection, [won]) == set()


def test_after_a_lost_conflict_the_connection_is_as_good_as_new(stores):
    one, two, _ = stores
    value = one.arm(owner="gone")
    with one.connect() as connection:
        with pytest.raises(db_exc.DBDeadlock), transaction(connection):
            connection.execute(sa.update(D).values(payload="lost"))
            claim(two, "two", value)
        assert one.row().payload is None
        one.deadlines.arm(connection, one.new("next"))
    assert two.row("next").owner_id == ME


def test_an_owner_does_not_wait_for_a_row_that_is_locked_on_another_node(stores):
    """The lock is of no use to its holder, who learns that it has lost."""
    one, two, _ = stores
    value = one.arm(owner=ME)
    with two.host() as host:
        host.execute(sa.select(D.c.id).where(D.c.id == value.id).with_for_update())
        with one.connect() as connection:
            (claimed,) = one.claims.claim_own(connection, ME, [value])
        with pytest.raises(sa.exc.OperationalError, match="1213"):
            host.execute(sa.update(D).values(payload="late"))
            host.commit()
    assert one.row().token == claimed.token


@pytest.fixture
def batches(stores) -> tuple[list[Any], list[Any]]:
    """Of an engine that nobody takes for alive: what it has done, and what is due."""
    done = [stores[0].claimed(f"done{n}") for n in range(3)]
    due = stores[0].arm_many(*(stores[0].new(f"due{n}") for n in range(3)))
    return done, due


def chain(store: Store, done: list[Any], due: list[Any]) -> tuple[set[int], list[Any]]:
    with store.connect() as connection:
        return store.claims.chain(connection, ME, done, False, due)


def did_the_rest(
    stores: list[Store],
    batches: tuple[list[Any], list[Any]],
    won: list[Any],
    outcome: tuple[set[int], list[Any]],
) -> None:
    """Of a chain: the first of either batch is another's, by its claim alone, and all
    else is as if nothing had been."""
    (done, due), (stale, claimed) = batches, outcome
    assert stale == {done[0].id}
    assert [value.key for value in claimed] == ["due1", "due2"]
    assert [(v.epoch, v.attempts) for v in [*won, *claimed]] == [
        (done[0].epoch + 1, done[0].attempts + 1),
        *[(due[0].epoch + 1, 1)] * 3,
    ]
    for store in stores:
        assert store.keys() == ["done0", "due0", "due1", "due2"]
        assert [store.row(value.key) for value in won] == won
        assert [store.row(value.key) for value in claimed] == claimed


@pytest.mark.parametrize("mark", ["SET STATEMENT", "COMMIT"])  # the claim, its end
def test_a_chain_that_lost_in_part_does_the_rest(stores, galera, batches, mark):
    """A batch is settled and the next one claimed when another node's transaction has
    one row of either. The server rolls both batches back; then each is done apart."""
    one, two, _ = stores
    done, due = batches
    lost = galera[0].conflicts()
    with Stopped(one.pool, mark, lambda: chain(one, done, due)) as stopped:
        with two.connect() as connection:
            won = two.claims.claim_orphans(connection, "two", [done[0], due[0]])
        outcome = stopped.go_on()
    # Now and then a transaction that is lost at its commit counts as two.
    assert galera[0].conflicts() > lost
    did_the_rest(stores, batches, won, outcome)


def test_a_chain_that_lost_while_it_was_being_committed_does_the_rest(
    galera, clock, stores, batches
):
    """Its COMMIT is on its way when the other one, which came first, arrives."""
    done, due = batches
    one = Store(galera[0].url(NAME), clock, timeout=30.0, patient=True)
    lost = galera[0].conflicts()
    with Stopped(one.pool, "COMMIT", lambda: chain(one, done, due)) as stopped:
        with ThreadPoolExecutor(1) as thread:
            with behind(galera[0]), stores[1].connect() as connection:
                won = stores[1].claims.claim_orphans(
                    connection, "two", [done[0], due[0]]
                )
                outcome = thread.submit(stopped.go_on)
                asked(galera[0], outcome, "COMMIT")
            did_the_rest(stores, batches, won, outcome.result(30))
    assert galera[0].conflicts() > lost
    one.close()


def head(
    store: Store, me: str, limit: int, done: Any = ()
) -> tuple[set[int], list[Any]]:
    heads = Heads(store.clock, EventLog(store.clock))
    with store.connect() as connection:
        ask = Ask(me, Line.NOBODYS, ("timer",), limit)
        stale, claimed = heads.claim(connection, ask, done)
    return stale, list(claimed)


@pytest.mark.parametrize("mark", ["UPDATE", "COMMIT"])
def test_a_head_that_lost_completes_what_was_done_and_claims_the_next(
    stores, galera, batches, mark
):
    """Both nodes begin at one head, and neither sees the other's locks."""
    one, two, _ = stores
    done, due = batches
    for value in due:
        one.set_row(value, owner_id=None)
    lost = galera[0].conflicts()
    with Stopped(one.pool, mark, lambda: head(one, ME, 3, done)) as stopped:
        _, won = head(two, "two", 1)
        stale, claimed = stopped.go_on()
    assert galera[0].conflicts() > lost
    assert stale == set()
    assert [value.key for value in won] == ["due0"]
    assert [value.key for value in claimed] == ["due1", "due2"]
    for store in stores:
        assert store.keys() == ["due0", "due1", "due2"]
        rows = [store.row(value.key) for value in [*won, *claimed]]
        assert [row.token for row in rows] == [v.token for v in [*won, *claimed]]
        assert [(row.epoch, row.attempts) for row in rows] == [(2, 1)] * 3


def test_a_head_with_nothing_done_says_that_it_lost(stores):
    """Whoever asked rests then, and goes by pages."""
    one, two, _ = stores
    (value,) = one.arm_many(one.new("due"))
    one.set_row(value, owner_id=None)
    with Stopped(one.pool, "COMMIT", lambda: head(one, ME, 3)) as stopped:
        _, won = head(two, "two", 3)
        with pytest.raises(db_exc.DBDeadlock):
            stopped.go_on()
    row = one.row("due")
    assert (row.owner_id, row.token, row.attempts) == ("two", won[0].token, 1)


@pytest.mark.parametrize("first", ["beat", "fence"])
def test_of_a_beat_and_a_fence_on_two_nodes_the_first_commit_counts(stores, first):
    """The other one's statement has run on its node already, and is not committed."""
    one, two, _ = stores
    victim = one.engine("victim")

    def beat(store: Store, connection: sa.Connection) -> bool:
        return store.engines.beat(connection, "victim", victim.token, 1, 2, 30.0)

    def fence(store: Store, connection: sa.Connection) -> bool:
        return store.engines.fence(connection, victim, ME, "silent")

    early, late = (beat, fence) if first == "beat" else (fence, beat)

    def stopped_late() -> bool:
        with one.connect() as connection, transaction(connection):
            return late(one, connection)

    with Stopped(one.pool, "COMMIT", stopped_late) as stopped:
        with two.connect() as connection:
            assert early(two, connection)
        with pytest.raises(db_exc.DBDeadlock):
            stopped.go_on()
    for store in (one, two):
        assert store.engine_row("victim").alive is (first == "beat")
    with one.connect() as connection:
        assert not late(one, connection)


# --- an old reading -------------------------------------------------------------


def test_each_node_is_another_server_to_an_observer(stores):
    seen = set()
    for store in stores:
        with store.connect() as connection:
            seen.add(store.engines.observe(connection, ME, 10).server)
    assert len(seen) == len(stores)


def test_what_is_looked_up_on_another_node_is_what_was_committed(stores, galera):
    """A lost answer is judged by this look; a plain one says that nothing is there."""
    one, two, _ = stores
    assert two.find() is None
    with ThreadPoolExecutor(1) as thread:
        with behind(galera[1]):
            (claimed,) = claim(one, ME, one.arm(owner="gone"))
            with contextlib.closing(plain(galera[1])) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT COUNT(*) FROM liveness_deadline")
                assert cursor.fetchone() == (0,)
            look = thread.submit(two.find)
            asked(galera[1], look, "SELECT liveness_deadline%")
        assert look.result(30).token == claimed.token


def asked(node: Node, look: Future, like: str) -> None:
    """Return when a statement is on its way there, or answered."""
    query = (
        f"SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '{like}'"
    )
    assert until(lambda: look.done() or node.admin(query) == [(1,)], 30)


def test_an_observer_on_a_node_that_lags_cannot_fence_who_has_beaten(stores, galera):
    """Even one that reads without waiting, and so sees no beat for as long as its node
    lags: the fence presents the beat that was read."""
    one, two, _ = stores
    victim = one.engine("victim")
    with two.connect() as stale, ThreadPoolExecutor(1) as thread:
        assert two.engines.get(stale, "victim") == victim
        stale.exec_driver_sql("SET SESSION wsrep_sync_wait = 0")
        with behind(galera[1]):
            with one.connect() as connection:
                assert one.engines.beat(connection, "victim", victim.token, 1, 2, 30.0)
            (read,) = two.engines.observe(stale, ME, 10).engines
            assert read.beat_seq == 1, "it does not lag"
            fence = thread.submit(two.engines.fence, stale, read, ME, "silent")
            asked(galera[1], fence, "UPDATE liveness_engine%")
        with contextlib.suppress(db_exc.DBDeadlock):
            assert fence.result(30) is False
    assert one.engine_row("victim").alive


def test_reads_that_work_while_nothing_commits_are_no_evidence(galera, fleet):
    """A whole cluster that stalls kills nobody: who could not beat judges nobody."""
    observer, victim = fleet(0, timeout=1.25), fleet(1)
    observer.turn()
    with behind(*galera):
        for step in range(8):
            fleet.clock.advance(5)
            observer.turn()
            if step % 4 == 0:
                assert not observer.beat()
    assert observer.beat() and observer.trust.good
    observer.turn()
    assert victim.row().state == EngineState.LIVE
    assert victim.beat()


# --- nodes that fail ------------------------------------------------------------


def test_who_is_cut_off_is_suspended_before_it_is_fenced_and_learns_of_it(
    galera, fleet
):
    """By the part of the cluster that decides; the other part answers nothing."""
    majority, minority = fleet(0), fleet(2)
    majority.turn()
    assert minority.beat()
    galera.partition(galera[2])
    assert until(lambda: not galera[2].primary, 30)
    assert not minority.beat()
    with pytest.raises(Exception) as refused, minority.connect() as connection:
        connection.execute(sa.select(E.c.id)).all()
    assert is_passing(refused.value), refused.value
    assert until(majority.beat, 30)
    trusted = True
    while majority.row(minority.id).alive:
        trusted = minority.trust.good
        fleet.clock.advance(2)
        assert majority.beat()
        majority.turn()
        assert not minority.beat()
    assert not trusted and not minority.trust.fenced
    galera.heal()
    galera.wait_whole()
    assert until(lambda: minority.beat() or minority.trust.fenced, 30)
    assert minority.trust.fenced


def test_a_cluster_without_a_quorum_fences_nobody_when_it_is_back(galera, fleet):
    engines = [fleet(number) for number in range(3)]
    for engine in engines:
        assert engine.beat()
        engine.turn()
    galera.partition(galera[0])
    galera.cut(galera[1], galera[2])
    assert until(lambda: not any(node.primary for node in galera), 30)
    for minute in range(3):
        fleet.clock.advance(60)
        for engine in engines:
            assert not engine.trust.good, minute
            assert not engine.beat()
            engine.turn()
    galera.heal()
    galera.wait_whole()
    for _ in range(4):
        fleet.clock.advance(5)
        for engine in engines:
            assert until(engine.beat, 10)
            engine.turn()
    assert {engine.row().state for engine in engines} == {EngineState.LIVE}


@LONG
def test_a_node_that_was_paused_never_answers_with_what_it_last_knew(stores, galera):
    """Left out meanwhile, and not yet aware of it: it waits, or fails."""
    one, _, three = stores
    victim = one.engine("victim")
    with three.connect() as connection, one.connect() as other:
        assert three.engines.get(connection, "victim").beat_seq == 1
        galera[2].pause()
        assert until(lambda: galera[0].sees == 2, 30)
        assert one.engines.beat(other, "victim", victim.token, 1, 2, 30.0)
        galera[2].resume()
        answers = set()
        while not galera.whole or not answers:
            try:
                answers.add(three.engines.get(connection, "victim").beat_seq)
            except db_exc.DBError:
                connection.rollback()  # of nothing; a broken one is made anew
        assert answers == {2}


def test_an_engine_that_is_led_to_another_node_observes_anew(galera, fleet):
    """By a proxy, in the middle of a lease; the silence so far was another server's."""
    with Proxy(galera[0].socket, 0) as address:
        observer = fleet(proxy=address)
        victim = fleet(1)
        observer.turn()

        def observe(seconds: float) -> None:
            for _ in range(round(seconds / 2)):
                fleet.clock.advance(2)
                assert until(observer.beat, 10)
                observer.turn()

        observe(28)
        address.point(galera[1].socket, 0)
        address.cut()
        observer.turn()
        observe(30)
        assert victim.row().alive
        observe(6)
        assert not victim.row().alive


def test_a_claim_whose_answer_died_with_its_node_is_held_on_another(
    galera, fleet, stores
):
    one, two, _ = stores
    action = Recorder("action", when_orphaned="retrigger")
    with Proxy(galera[0].socket, 0) as address:
        engine = fleet(action, proxy=address)
        engine.turn()
        two.arm(owner="gone", kind="action", due=3600.0)
        two.fenced("gone")
        address.cut_after_next_commit()
        address.point(galera[1].socket, 0)
        engine.turn()
        assert address.wait_cut(0.1)
        galera[0].kill()
        row = two.row(kind="action")
        assert (row.owner_id, row.state, row.attempts) == (engine.id, CLAIMED, 1)
        assert action.calls == []
        assert until(lambda: engine.beat() and engine.turn() and action.calls, 30)
        engine.settle()
        assert two.find(kind="action") is None
        assert [value.attempts for _, value in action.calls] == [1]


@LONG
def test_a_commit_that_was_cut_off_is_neither_done_nor_undone(stores, galera):
    """The error says that it may be tried again, and the row what became of it."""
    one, _, three = stores
    value = one.arm(owner="gone")
    with Stopped(three.pool, "COMMIT", lambda: claim(three, ME, value)) as stopped:
        galera.partition(galera[2])
        with pytest.raises(Exception) as caught:
            stopped.go_on()
    assert is_passing(caught.value), one_line(caught.value)
    galera.heal()
    galera.wait_whole()
    row = three.row()
    held = three.find_work().held
    assert [found.token for found in held] == (
        [row.token] if row.owner_id == ME else []
    )


# --- node's clocks --------------------------------------------------------------


@pytest.fixture
def two_minutes_apart(galera: Galera) -> Galera:
    needs_clocks(galera)
    galera[1].set_clock(120)
    return galera


def test_the_clock_of_the_node_that_is_asked_says_what_is_due(two_minutes_apart):
    """So others have to leave the owner more time than the clocks are apart."""
    urls = two_minutes_apart.urls(NAME)
    one, two = (Store(url, Clock()) for url in urls[:2])
    one.clear()
    value = one.arm(owner="owner", due=60.0)
    one.engine("owner")
    assert [v.key for v in two.find_work(grace=6.0).overdue] == ["k"]
    assert two.find_work(grace=6.0 + 130.0).overdue == []
    assert one.find_work(grace=0.0).overdue == []
    with two.connect() as connection:
        assert two.claims.claim_overdue(connection, ME, [value], 136.0) == []
    for store in (one, two):
        store.close()


@LONG
def test_clocks_of_nodes_apart_or_set_fence_nobody(two_minutes_apart):
    galera = two_minutes_apart
    first = Store(galera[0].url(NAME), Clock())
    first.clear()
    first.close()
    engines = [
        Driven(
            url,
            machine=f"m{n}",
            ttl=2.0,
            beat_interval=0.4,
            sweep_interval=0.4,
            lease_margin=0.2,
            database_timeout=0.6,
        )
        for n, url in enumerate(galera.urls(NAME))
    ]

    def live(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for engine in engines:
                engine.beat()
                engine.turn()

    live(2.5)
    galera[1]._write_clock(-120)
    galera[2]._write_clock(3600)
    live(3.5)
    assert {engine.row().state for engine in engines} == {EngineState.LIVE}
    for engine in engines:
        engine.abandon()


# --- what its errors mean -------------------------------------------------------


def test_what_a_node_without_a_quorum_says_is_worth_another_try(galera, stores):
    galera.partition(galera[2])
    assert until(lambda: not galera[2].primary, 30)
    with pytest.raises(Exception) as caught:
        stores[2].find()
    assert "(1047," in one_line(caught.value)
    assert is_database_error(caught.value) and is_passing(caught.value)


def test_a_causal_read_that_waited_in_vain_is_worth_another_try(stores, galera):
    one, two, _ = stores
    galera[1].admin(
        "SET GLOBAL wsrep_provider_options='repl.causal_read_timeout=PT0.5S'"
    )
    try:
        with behind(galera[1]):
            one.arm()
            with pytest.raises(Exception) as caught:
                two.find()
    finally:
        galera[1].admin(
            "SET GLOBAL wsrep_provider_options='repl.causal_read_timeout=PT30S'"
        )
    assert "(1205," in one_line(caught.value)
    assert is_passing(caught.value)


def test_a_row_that_changed_since_a_snapshot_is_worth_another_try(stores):
    """1020, for a host under REPEATABLE READ; from MariaDB 11.6 that is the default."""
    one, two, _ = stores
    value = one.arm()
    engine = sa.create_engine(one.url, poolclass=sa.NullPool)
    from liveness.db.connection import translate_errors

    translate_errors(engine)
    with engine.connect() as host:
        host.exec_driver_sql("SET SESSION innodb_snapshot_isolation = ON")
        host.exec_driver_sql("SET SESSION wsrep_sync_wait = 7")
        host.commit()
        host.execute(sa.select(D)).all()
        two.set_row(value, payload="new")
        one.find()
        with pytest.raises(db_exc.DBDeadlock) as caught:
            host.execute(sa.update(D).values(payload="old"))
    assert is_passing(caught.value), one_line(caught.value)
