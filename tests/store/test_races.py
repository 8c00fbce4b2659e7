"""Races on real servers, by interleavings that the tests force."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from liveness import exceptions
from liveness.db import claims as claims_module
from liveness.db import tables
from liveness.db.connection import Database, is_passing, transaction
from liveness.db.events import EventLog
from liveness.db.heads import Ask, Heads, Line
from liveness.model import Deadline, DeadlineState
from tests.fleet import Driven, Recorder, wait_until
from tests.store.conftest import ME, Store
from tests.store.interleave import Stopped, elsewhere, wait_for_waiters

D = tables.deadline
E = tables.engine

ARMED, CLAIMED = DeadlineState.ARMED, DeadlineState.CLAIMED

SERVERS = ["mariadb", "postgresql"]
ISOLATIONS = ["READ COMMITTED", "REPEATABLE READ"]


@pytest.fixture(params=SERVERS)
def backend(request) -> str:
    return request.param


def orphans(store: Store, count: int, due: float = -9.0) -> list[Deadline]:
    """Overdue rows of an engine that is gone: anybody may take them in any way."""
    return store.arm_many(
        *(store.new(f"k{n}", owner="gone", due=due) for n in range(count))
    )


def keys(values: list[Deadline]) -> list[str]:
    return [value.key for value in values]


def claim(store: Store, *found: Deadline, me: str = ME) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.claim_orphans(connection, me, found)


def adopt(store: Store, *found: Deadline, me: str = ME) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.adopt_orphans(connection, me, found)


def claim_overdue(store: Store, *found: Deadline, me: str = ME) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.claim_overdue(connection, me, found, 6.0)


TAKES = [claim, adopt, claim_overdue]


def compare_and_set(monkeypatch) -> None:
    monkeypatch.setattr(
        claims_module, "has_bounded_locks", lambda *args, **kwargs: False
    )


def heads_of(store: Store) -> Heads:
    return Heads(store.clock, EventLog(store.clock))


def line_of(
    store: Store, line: Line, values: list[Deadline], owner: str = ME
) -> list[Deadline]:
    """Put these in a line: ``owner``'s, or nobody's."""
    for value in values:
        store.set_row(value, owner_id=owner if line is Line.OWN else None)
    return [store.row(value.key) for value in values]


def head(
    store: Store, line: Line, limit: int = 2, me: str = ME, done=(), again=False
) -> tuple[set[int], list[Deadline]]:
    with store.connect() as connection:
        ask = Ask(me, line, ("timer",), limit)
        stale, claimed = heads_of(store).claim(connection, ask, done, again)
    return stale, list(claimed)


@contextlib.contextmanager
def open_head(
    store: Store,
    patient: Store,
    line: Line,
    limit: int = 2,
    me: str = ME,
    stop="COMMIT",
) -> Iterator[Callable[[], list[Deadline]]]:
    """A claim from the head of a line that is not committed yet; what it gives ends it
    and says what it claimed."""
    if store.backend == "mysql":
        work = lambda: head(patient, line, limit, me)  # noqa: E731
        with Stopped(patient.pool, stop, work) as claimer:
            yield lambda: claimer.go_on()[1]
        return
    with store.host() as host:  # one statement: as a part of another's transaction
        _, claimed = heads_of(store).claim(host, Ask(me, line, ("timer",), limit))

        def go_on() -> list[Deadline]:
            host.commit()
            return sorted(claimed)

        yield go_on


lines = pytest.mark.parametrize("line", list(Line), ids=["own", "nobodys"])
on_mariadb = pytest.mark.parametrize("backend", ["mariadb"])


# --- two claimers -----------------------------------------------------------


@pytest.mark.parametrize(
    "first, second", [(claim, claim), (claim_overdue, adopt), (adopt, claim_overdue)]
)
@pytest.mark.parametrize("stop", ["UPDATE", "COMMIT"])
def test_a_second_claimer_passes_by_what_the_first_has_locked(
    store, patient, first, second, stop
):
    values = orphans(store, 4)
    with Stopped(
        patient.pool, stop, lambda: first(patient, *values[:2], me="1st")
    ) as a:
        assert keys(second(store, *values)) == ["k2", "k3"]
        assert keys(a.go_on()) == ["k0", "k1"]
    assert [store.row(f"k{n}").owner_id for n in range(4)] == ["1st"] * 2 + [ME] * 2
    assert second(store, *values) == []


def test_what_a_claimer_rolls_back_is_there_for_the_next(store, patient):
    values = orphans(store, 2)
    with patient.connect() as connection, contextlib.suppress(ZeroDivisionError):
        with transaction(connection):
            connection.execute(sa.update(D).values(token=1, owner_id="first"))
            assert claim(store, *values) == []
            raise ZeroDivisionError
    assert keys(claim(store, *values)) == ["k0", "k1"]


def heads_pass_by(store: Store, patient: Store, line: Line, stop: str) -> None:
    values = line_of(store, line, orphans(store, 4))
    with open_head(store, patient, line, stop=stop) as go_on:
        assert sorted(keys(head(store, line, 3)[1])) == ["k2", "k3"]
        assert keys(go_on()) == ["k0", "k1"]
    assert head(store, line) == (set(), [])
    rows = [store.row(value.key) for value in values]
    assert [(row.state, row.epoch, row.attempts) for row in rows] == [
        (CLAIMED, 2, 1)
    ] * 4


@lines
def test_a_second_head_passes_by_what_the_first_has_claimed(store, patient, line):
    heads_pass_by(store, patient, line, "COMMIT")


@lines
@on_mariadb
def test_a_second_head_passes_by_what_the_first_has_locked(store, patient, line):
    heads_pass_by(store, patient, line, "UPDATE")


@lines
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_head_passes_by_what_is_locked_and_takes_it_when_it_is_left(
    store, line, isolation
):
    """By one and the same engine: it does not go on for ever from where it was."""
    values = line_of(store, line, orphans(store, 6))
    heads, ask = heads_of(store), Ask(ME, line, ("timer",), 2)
    with store.host(isolation) as host, store.connect() as connection:
        for value in values[:2]:
            host.execute(sa.select(D).where(D.c.id == value.id).with_for_update())
        for expected in (["k2", "k3"], ["k4", "k5"], []):
            _, claimed = heads.claim(connection, ask)
            assert sorted(keys(claimed)) == expected
        host.rollback()
        _, claimed = heads.claim(connection, ask)
    assert sorted(keys(claimed)) == ["k0", "k1"]


@lines
def test_a_head_leaves_what_was_claimed_while_it_waited_for_what_is_done(
    store, patient, server, line
):
    done = store.claimed("done")
    line_of(store, line, orphans(store, 4))
    with store.host() as host:
        host.execute(sa.select(D.c.id).where(D.c.id == done.id).with_for_update())
        with elsewhere(lambda: head(patient, line, done=[done])) as waiting:
            wait_for_waiters(server, 1)
            _, first = head(store, line)
            host.rollback()
            stale, second = waiting.result(60)
    assert stale == set()
    assert (len(first), len(second)) == (2, 2)
    assert sorted(keys([*first, *second])) == ["k0", "k1", "k2", "k3"]
    for value in [*first, *second]:
        assert store.row(value.key).token == value.token
    assert store.find("done") is None


@pytest.mark.parametrize("take", TAKES)
def test_of_two_compare_and_set_claimers_one_wins_each_row(
    store, patient, server, monkeypatch, take
):
    compare_and_set(monkeypatch)
    values = orphans(store, 3)
    with store.host() as host:
        host.execute(sa.select(D.c.id).where(D.c.id == values[0].id).with_for_update())
        with (
            elsewhere(lambda: take(patient, *values[:2], me="one")) as one,
            elsewhere(lambda: take(patient, *values, me="two")) as two,
        ):
            wait_for_waiters(server, 2)
            host.rollback()
            taken = [*one.result(60), *two.result(60)]
    assert sorted(keys(taken)) == ["k0", "k1", "k2"]
    for value in taken:
        assert store.row(value.key) == value


# --- claim against disarm ---------------------------------------------------


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_claim_passes_by_a_row_that_is_being_disarmed(store, take, isolation):
    values = orphans(store, 3)
    with store.host(isolation) as host:
        assert store.deadlines.complete(host, values[:1]) == set()
        assert keys(take(store, *values[:2])) == ["k1"]
        host.commit()
    assert take(store, values[0]) == []
    assert store.find("k0") is None


def test_a_disarm_that_is_rolled_back_leaves_the_row_to_be_claimed(store):
    values = orphans(store, 1)
    with store.host() as host:
        assert store.deadlines.complete(host, values) == set()
        assert claim(store, *values) == []
        host.rollback()
    assert keys(claim(store, *values)) == ["k0"]


@pytest.mark.parametrize("take", TAKES)
def test_a_disarm_that_waits_for_a_claim_is_told_that_it_is_stale(
    store, patient, server, take
):
    (value,) = orphans(store, 1)

    def disarm():
        with patient.connect() as connection:
            return patient.deadlines.complete(connection, [value])

    with Stopped(patient.pool, "COMMIT", lambda: take(patient, value)) as claimer:
        with elsewhere(disarm) as disarmed:
            wait_for_waiters(server, 1)
            (taken,) = claimer.go_on()
            assert disarmed.result(60) == {value.id}
    assert store.row("k0") == taken


def test_firing_own_deadlines_passes_by_one_that_is_being_disarmed(store):
    """A host transaction that stays open must not stop the engine's other timers."""
    values = store.arm_many(*(store.new(f"k{n}") for n in range(3)))
    with store.host() as host:
        assert store.deadlines.complete(host, values[:1]) == set()
        with store.connect() as connection:
            claimed = store.claims.claim_own(connection, ME, values)
        assert keys(claimed) == ["k1", "k2"]
        host.commit()


def test_what_is_done_is_settled_though_a_row_of_the_next_batch_is_locked(store):
    done = store.claimed("done")
    values = store.arm_many(*(store.new(f"k{n}") for n in range(3)))
    with store.host() as host:
        assert store.deadlines.complete(host, values[:1]) == set()
        with store.connect() as connection:
            stale, claimed = store.claims.chain(connection, ME, [done], False, values)
        assert stale == set()
        assert keys(claimed) == ["k1", "k2"]
        assert store.find("done") is None
        host.commit()


@pytest.fixture
def unhurried(store, server) -> Iterator[None]:
    """PostgreSQL looks for deadlocks when a wait has lasted so long: who waits first
    is its victim, if the others have joined by then."""
    change = f'ALTER DATABASE "{sa.make_url(store.url).database}"'
    if store.backend == "postgresql":
        server.admin(f"{change} SET deadlock_timeout = '3s'")
    yield
    if store.backend == "postgresql":
        server.admin(f"{change} RESET deadlock_timeout")


CHAINS = pytest.mark.parametrize(
    "line", [None, *Line], ids=["by-key", "own-head", "nobodys-head"]
)


def chain(
    store: Store,
    line: Line | None,
    done: list[Deadline],
    due: list[Deadline],
    again: bool = False,
) -> tuple[set[int], list[Deadline]]:
    """Complete what is ``done`` and claim what is ``due``: by key, or from the head of
    the ``line`` that it is in."""
    if line is not None:
        stale, claimed = head(store, line, len(due), done=done, again=again)
        return stale, sorted(claimed)
    with store.connect() as connection:
        return store.claims.chain(connection, ME, done, again, due)


def tokens(values: list[Deadline]) -> list[tuple[str, int]]:
    return [(value.key, value.token) for value in values]


@CHAINS
def test_a_chain_that_is_the_victim_of_a_deadlock_does_all_that_is_left(
    store, unhurried, patient, server, line
):
    """A host's transaction has one row that is done, and wants another; it has written
    more, so that MariaDB spares it."""
    done = [store.claimed(f"done{n}") for n in range(3)]
    due = store.arm_many(*(store.new(f"due{n}") for n in range(2)))
    due = due if line is None else line_of(store, line, due)
    more = store.arm_many(*(store.new(f"more{n}", "other", 99.0) for n in range(50)))
    refused: list[str] = []
    locked = threading.Event()

    def note(context):
        refused.append(str(context.original_exception))
        assert locked.wait(60)  # or else it may be the victim once more

    sa.event.listen(patient.pool, "handle_error", note)
    with store.host("READ COMMITTED") as host:
        ids = [value.id for value in [done[1], *more]]
        host.execute(sa.update(D).where(D.c.id.in_(ids)).values(token=1))
        with elsewhere(lambda: chain(patient, line, done, due)) as outcome:
            wait_for_waiters(server, 1)
            host.execute(sa.select(D).where(D.c.id == done[0].id).with_for_update())
            locked.set()
            host.commit()
            stale, claimed = outcome.result(60)
    assert len(refused) == 1 and "deadlock" in refused[0].lower()
    assert stale == {done[1].id}
    assert store.row("done1") == done[1]._replace(token=1)
    assert [store.find(key) for key in ("done0", "done2")] == [None, None]
    assert tokens([store.row(value.key) for value in due]) == tokens(claimed)
    assert [value.attempts for value in claimed] == [1, 1]


@CHAINS
def test_a_chain_that_waits_in_vain_for_what_is_done_changes_nothing(store, line):
    """It can be sent again, and then counts once."""
    done = [store.claimed(f"done{n}") for n in range(2)]
    due = [store.arm("due")]
    due = due if line is None else line_of(store, line, due)
    with store.host() as host:
        host.execute(sa.select(D).where(D.c.id == done[1].id).with_for_update())
        with pytest.raises(Exception) as caught:
            chain(store, line, done, due)
        assert is_passing(caught.value)
        assert [store.row(v.key) for v in [*done, *due]] == [*done, *due]
        host.rollback()
    stale, claimed = chain(store, line, done, due, again=True)
    assert stale == set()
    assert tokens(claimed) == tokens([store.row("due")])
    assert store.row("due").attempts == 1
    assert store.keys() == ["due"]


def test_parking_passes_by_a_row_that_is_being_disarmed(store):
    (value,) = orphans(store, 1)
    with store.host() as host:
        assert store.deadlines.complete(host, [value]) == set()
        with store.connect() as connection:
            assert not store.claims.park(connection, value, "why")
        host.rollback()


def test_handing_back_leaves_what_was_taken_over_meanwhile(store, patient):
    """A draining engine may be fenced; its rows are another's from then on."""
    values = store.arm_many(*(store.new(f"k{n}", due=-9.0) for n in range(2)))

    def hand_back():
        with patient.connect() as connection:
            return patient.deadlines.hand_back(connection, ME, 10)

    with Stopped(patient.pool, "UPDATE", hand_back) as draining:
        (taken,) = claim_overdue(store, values[0], me="other")
        draining.go_on()
    assert store.row("k0") == taken
    assert store.row("k1").owner_id is None


# --- claim against extend ---------------------------------------------------


@pytest.mark.parametrize("due", [60.0, -9.0])
def test_what_was_extended_after_it_was_found_is_not_claimed(store, due):
    """Even when the new time has passed as well: the owner gave it a new promise."""
    value = store.arm(owner="other", due=-9.0)
    (found,) = store.find_work().overdue
    with store.connect() as connection:
        extended = store.deadlines.extend(connection, value, due, 99)
    for take in (claim_overdue, claim, adopt):
        assert take(store, found) == []
    assert store.row() == extended


def test_an_extension_that_waits_for_a_claim_is_told_that_it_is_stale(
    store, patient, server
):
    (value,) = orphans(store, 1)

    def extend():
        with patient.connect() as connection:
            return patient.deadlines.extend(connection, value, 60.0, 99)

    with Stopped(patient.pool, "COMMIT", lambda: claim(patient, value)) as claimer:
        with elsewhere(extend) as extended:
            wait_for_waiters(server, 1)
            (taken,) = claimer.go_on()
            with pytest.raises(exceptions.StaleDeadline):
                extended.result(60)
    assert store.row("k0") == taken


# --- fence against a late beat ----------------------------------------------


@pytest.mark.parametrize("order", [("beat", "fence"), ("fence", "beat")])
def test_of_a_beat_and_a_fence_in_flight_the_first_wins(store, patient, server, order):
    victim = store.engine("victim")

    def beat():
        with patient.connect() as connection:
            return patient.engines.beat(connection, "victim", 7, 1, 2, 30.0)

    def fence():
        with patient.connect() as connection:
            return patient.engines.fence(connection, victim, ME, "silent")

    work = {"beat": beat, "fence": fence}
    with store.host() as host:
        host.execute(sa.select(E.c.id).where(E.c.id == "victim").with_for_update())
        with elsewhere(work[order[0]]) as first:
            wait_for_waiters(server, 1)
            with elsewhere(work[order[1]]) as second:
                wait_for_waiters(server, 2)
                host.rollback()
                assert first.result(60) is True
                assert second.result(60) is False
    assert store.engine_row("victim").alive is (order[0] == "beat")


@pytest.mark.parametrize("order", ["register", "fence"])
def test_a_fence_in_flight_never_hits_the_next_incarnation_of_an_id(store, order):
    seen = store.engine("victim")
    with store.connect() as connection:
        connection.execute(sa.delete(E))
        store.engines.register(connection, dataclasses.replace(seen, token=8))
        assert not store.engines.fence(connection, seen, ME, "silent")


# --- arm and beat behind a claim held open ----------------------------------


@pytest.fixture(params=[None, *Line], ids=["by-key", "own-head", "nobodys-head"])
def open_claim(request, store, patient):
    """A claim of three rows of the middle, stopped before its COMMIT; what it gives
    ends it."""
    line = request.param
    for engine_id in (ME, "victim", "owner", "claimer"):
        store.engine(engine_id)
    store.fenced("dead")
    values = store.arm_many(
        *(store.new(f"k{n}", owner="gone", due=-9.0 + n / 10) for n in range(9))
    )
    if line is None:
        work = lambda: claim(patient, *values[3:6], me="claimer")  # noqa: E731
        with Stopped(patient.pool, "COMMIT", work) as claimer:
            yield claimer.go_on
        return
    line_of(store, line, values[3:6], "claimer")
    # (At the end of a line InnoDB locks the entry after it as well.)
    with open_head(store, patient, line, 3, "claimer") as go_on:
        yield go_on


@pytest.mark.parametrize("isolation", [None, "READ COMMITTED", "REPEATABLE READ"])
def test_no_arm_waits_behind_a_claim(store, open_claim, isolation):
    """Under whatever isolation level: before, between and behind the claimed rows, in
    every index."""
    with store.host(isolation) as host:
        hurry(store, host)
        host.execute(sa.select(sa.func.count()).select_from(D)).scalar()  # a snapshot
        for number, owner in enumerate(["claimer", "gone", "a", "zzz"]):
            for key in ("", "k3a", "k4a", "k5a", "zz"):
                new = store.new(
                    f"{key}-{owner}", owner=owner, due=-9.0 + 0.1 * number + 0.25
                )
                store.deadlines.arm(host, new)
        store.deadlines.arm_many(
            host, [store.new(f"k{n}-many") for n in range(9)], hosted=True
        )
        host.commit()
    with store.connect() as connection:
        later = store.deadlines.arm(connection, store.new("k4b", "claimer", -8.55))
        assert store.deadlines.release(connection, later, 55, "")
        with pytest.raises(exceptions.AlreadyArmed):
            store.deadlines.arm(connection, store.new("k7"))
    assert keys(open_claim()) == ["k3", "k4", "k5"]


def hurry(store: Store, connection: sa.Connection) -> None:
    store._hurry(connection.connection.dbapi_connection, None)


def passes(store: Store) -> dict:
    """Everything that an engine does, each with a connection that cannot wait."""
    engines, deadlines, claims = store.engines, store.deadlines, store.claims
    victim = store.engine_row("victim")
    mine = store.row("k7")
    return {
        "beat": lambda c: engines.beat(c, ME, 7, 1, 2, 30.0),
        "observe": lambda c: engines.observe(c, ME, 100),
        "fence": lambda c: engines.fence(c, victim, ME, "silent"),
        "not_alive": lambda c: engines.not_alive(c, ["owner", "gone"]) == {"gone"},
        "owners_not_alive": lambda c: (
            engines.owners_not_alive(c, 100) == {"gone": False}
        ),
        "purge": lambda c: engines.purge(c, -1.0, 100) > 0,
        "draining": lambda c: engines.set_draining(c, "owner") is None,
        "resign": lambda c: engines.resign(c, "owner"),
        "find": lambda c: store.find_work(["gone"]).orphans,
        "claim": lambda c: claims.claim_orphans(c, ME, [store.row("k0")]),
        "claim_overdue": lambda c: claims.claim_overdue(c, ME, [store.row("k1")], 6.0),
        "adopt": lambda c: claims.adopt_orphans(c, ME, [store.row("k2")]),
        "park": lambda c: claims.park(c, store.row("k6"), "why"),
        "complete": lambda c: deadlines.complete(c, [mine]) == set(),
        "hand_back": lambda c: deadlines.hand_back(c, ME, 100) > 0,
        "arm": lambda c: deadlines.arm(c, store.new("new")),
    }


def test_nothing_that_engines_do_waits_behind_a_claim(store, open_claim):
    for name, work in passes(store).items():
        with store.connect() as connection:
            assert work(connection), name
    assert keys(open_claim()) == ["k3", "k4", "k5"]


# --- a host transaction held open -------------------------------------------


@pytest.mark.parametrize("owner", [ME, "victim", "dead", "owner"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_nothing_that_engines_do_waits_behind_an_arm_that_is_not_committed(
    store, isolation, owner
):
    for engine_id in (ME, "victim", "owner"):
        store.engine(engine_id)
    store.fenced("dead")
    orphans(store, 9)
    with store.host(isolation) as host:
        store.deadlines.arm(host, store.new("k4a", owner=owner, due=-9.0))
        for name, work in passes(store).items():
            with store.connect() as connection:
                assert work(connection), name
        assert store.deadlines.find(host, "timer", "k4a").owner_id == owner
        host.commit()
    assert store.row("k4a").owner_id == owner


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_nothing_waits_behind_a_disarm_but_what_wants_that_row(store, isolation):
    for engine_id in (ME, "victim", "owner"):
        store.engine(engine_id)
    store.fenced("dead")
    values = orphans(store, 9)
    with store.host(isolation) as host:
        assert store.deadlines.complete(host, [values[4]]) == set()
        for name, work in passes(store).items():
            with store.connect() as connection:
                assert work(connection), name
        host.commit()


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_two_hosts_arm_side_by_side(store, isolation):
    with store.host(isolation) as one, store.host(isolation) as two:
        for host in (one, two):
            hurry(store, host)
        for number in range(20):
            # Names of no test before: what was deleted is locked until it is purged.
            key = f"{isolation} {number:02}"
            store.deadlines.arm(one, store.new(f"{key}-one", owner="a"))
            store.deadlines.arm(two, store.new(f"{key}-two", owner="a"))
        one.commit()
        two.commit()
    assert len(store.keys()) == 40


# --- two hosts and one key ----------------------------------------------------


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_second_arm_of_a_key_waits_for_the_first_to_be_real(
    store, patient, server, isolation, end
):
    def arm():
        with patient.host(isolation) as two:
            value = patient.deadlines.arm(two, store.new("k", owner="two"))
            two.commit()
            return value

    with store.host(isolation) as one:
        first = store.deadlines.arm(one, store.new("k", owner="one"))
        with elsewhere(arm) as second:
            wait_for_waiters(server, 1)
            getattr(one, end)()
            if end == "rollback":
                assert second.result(60) == store.row("k")
                return
            error = second.exception(60)
    if (store.backend, isolation) == ("postgresql", "REPEATABLE READ"):
        assert is_passing(error)  # its snapshot cannot hold both
    else:
        assert isinstance(error, exceptions.AlreadyArmed)
    assert store.row("k") == first


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_arming_a_key_that_was_committed_after_the_snapshot(store, isolation):
    with store.host(isolation) as host:
        assert store.deadlines.find(host, "timer", "k") is None
        first = store.arm("k", owner="other")
        if (store.backend, isolation) == ("postgresql", "REPEATABLE READ"):
            with pytest.raises(Exception) as caught:
                store.deadlines.arm(host, store.new("k"))
            assert is_passing(caught.value)
            host.rollback()  # the host tries again, as always at this level
        with pytest.raises(exceptions.AlreadyArmed):
            store.deadlines.arm(host, store.new("k"))
        store.deadlines.arm(host, store.new("more"))
        host.commit()
    assert store.row("k") == first and store.row("more")


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_already_armed_key_in_an_open_host_transaction_is_in_nobodys_way(
    store, isolation
):
    value = store.arm("k")
    with store.host(isolation) as host:
        with pytest.raises(exceptions.AlreadyArmed):
            store.deadlines.arm(host, store.new("k", owner="other"), hosted=True)
        store.arm("j")
        with store.connect() as connection:
            assert store.deadlines.complete(connection, [value]) == set()
        store.deadlines.arm(host, store.new("more"))
        host.commit()
    assert store.keys() == ["j", "more"]


# --- an arm that is committed after its engine is over -----------------------


@pytest.fixture
def survivor(store):
    engine = Driven(
        store.url, store.clock, (Recorder("timer"),), engine_id=ME, machine="here"
    )
    yield engine
    engine.abandon()


@pytest.mark.parametrize("purged", [False, True])
def test_an_arm_committed_after_its_engine_was_taken_over_is_found(
    store, survivor, purged
):
    """Takeover is a state, not an event; and a missing owner is not alive."""
    victim = store.engine("victim")
    store.arm("early", owner="victim", due=1e6)
    with store.host() as host:
        store.deadlines.arm(host, store.new("late", owner="victim", due=1e6))
        with store.connect() as connection:
            assert store.engines.fence(connection, victim, "x", "silent")
        survivor.turn()
        assert store.row("early").owner_id == ME
        if purged:
            with store.connect() as connection:
                connection.execute(sa.delete(E).where(E.c.id == "victim"))
        host.commit()
    assert store.row("late").owner_id == "victim"
    for _ in range(40):  # a missing owner is looked for once in a lease
        store.clock.advance(1)
        survivor.beat()
        survivor.turn()
        if store.row("late").owner_id == ME:
            break
    after = store.row("late")
    assert (after.owner_id, after.state, after.epoch) == (ME, ARMED, 2)


# --- a claimer that is stopped mid-transaction ------------------------------


def test_the_server_ends_the_claim_of_a_client_that_hangs(store):
    """SIGSTOP leaves a connection that says nothing: its locks hide rows from all."""
    values = orphans(store, 2)
    hung = Store(store.url, store.clock, timeout=1.0)
    try:
        with hung.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            connection.execute(
                sa.select(D.c.id).where(D.c.id == values[0].id).with_for_update()
            )
            connection.execute(
                sa.update(D).where(D.c.id == values[0].id).values(owner_id="hung")
            )
            assert keys(claim(store, *values)) == ["k1"]
            wait_until(lambda: claim(store, values[0]), 30)
            with pytest.raises(Exception) as caught:
                connection.exec_driver_sql("COMMIT")
            assert is_passing(caught.value)
            connection.invalidate()
    finally:
        hung.close()
    assert store.row("k0").owner_id == ME


def test_a_connection_that_does_nothing_outside_a_transaction_is_kept(store):
    """A beat every few seconds, on a connection with a timeout of one."""
    store.engine(ME)
    short = Store(store.url, store.clock, timeout=1.0)
    try:
        with short.connect() as connection, short.connect() as hung:
            assert short.engines.beat(connection, ME, 7, 1, 2, 30.0)
            hung.exec_driver_sql("BEGIN")
            hung.execute(sa.update(E).values(pid=2))

            def ended():
                with store.connect() as other:
                    rows = other.execute(
                        sa.select(E.c.id).with_for_update(skip_locked=True)
                    )
                    return rows.all()

            wait_until(ended, 30)  # so the other one has been idle for as long
            assert short.engines.beat(connection, ME, 7, 2, 3, 30.0)
            hung.invalidate()
    finally:
        short.close()


# --- SQLite: one writer at a time -------------------------------------------


def test_on_sqlite_no_reader_waits_for_a_writer(sqlite_store):
    store = sqlite_store
    store.engine(ME)
    store.arm("k", owner="gone")
    with store.host() as host:
        store.deadlines.arm(host, store.new("new"))
        with store.connect() as connection:
            store.engines.observe(connection, ME, 10)
            assert store.engines.owners_not_alive(connection, 10) == {"gone": False}
        assert keys(store.find_work(["gone"]).orphans) == ["k"]
        assert store.find("new") is None
        host.commit()
    assert store.find("new") is not None


def test_on_sqlite_a_beat_behind_a_hosts_write_fails_and_then_succeeds(sqlite_store):
    store = sqlite_store
    store.engine(ME)
    short = Store(store.url, store.clock, timeout=0.2, patient=True)
    with store.host() as host:
        store.deadlines.arm(host, store.new("new"))
        with short.connect() as connection:
            with pytest.raises(Exception) as caught:
                short.engines.beat(connection, ME, 7, 1, 2, 30.0)
            assert is_passing(caught.value)
            host.commit()
            assert short.engines.beat(connection, ME, 7, 2, 3, 30.0)
    short.close()


def test_on_sqlite_the_row_is_there_once_for_two_claimers(sqlite_store):
    """Both found it; one write follows the other, and the second hits nothing."""
    store = sqlite_store
    values = orphans(store, 3)
    taken: list[Deadline] = []

    def take(me: str) -> list[Deadline]:
        return claim(store, *values, me=me)

    with elsewhere(lambda: take("one")) as one, elsewhere(lambda: take("two")) as two:
        taken = [*one.result(60), *two.result(60)]
    assert sorted(keys(taken)) == ["k0", "k1", "k2"]
    for value in taken:
        assert store.row(value.key) == value


@pytest.fixture
def sqlite_store(_store_url, _stores):
    from tests.store.conftest import _emptied

    return _emptied(_stores, _store_url("sqlite"), False)


def test_the_servers_timeouts_are_those_of_the_option(store):
    database = Database(store.url, 3.0)
    asked = {
        "mysql": "SELECT @@idle_transaction_timeout, @@innodb_lock_wait_timeout",
        "postgresql": "SELECT current_setting('idle_in_transaction_session_timeout'),"
        " current_setting('lock_timeout')",
    }
    with database.pool(1).connect() as connection:
        found = connection.exec_driver_sql(asked[database.backend]).one()
    # The server's word about a lock comes before the client hangs up.
    wanted = {"mysql": (3, 2), "postgresql": ("3s", "2400ms")}
    assert tuple(found) == wanted[database.backend]
    database.close()
