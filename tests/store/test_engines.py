"""The engine table keeps its promises on every database."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from liveness import exceptions
from liveness.db import tables
from liveness.db.engines import DEAD_SHOWN, Engines
from liveness.db.finding import Finder, Scope
from liveness.model import Deadline, EngineState
from tests.store.conftest import ME, Store, engine_value

D = tables.deadline
E = tables.engine


def beat(store: Store, engine_id=ME, sent=1, seq=2, ttl=30.0, token=7) -> bool:
    with store.connect() as connection:
        return store.engines.beat(connection, engine_id, token, sent, seq, ttl)


def fence(store: Store, victim, by="by", evidence="silent") -> bool:
    with store.connect() as connection:
        return store.engines.fence(connection, victim, by, evidence)


def observe(store: Store, me=ME, window=100):
    with store.connect() as connection:
        return store.engines.observe(connection, me, window)


# --- register ---------------------------------------------------------------


def test_a_registered_engine_is_live_at_the_databases_time(store):
    value = engine_value(
        "x" * 64,
        token=(1 << 63) - 1,
        host="höst" * 60,
        pid=4194304,
        process_start=1 << 40,
        boot_id="boot",
        namespaces="pid time",
        ttl=0.1,
    )
    with store.connect() as connection:
        store.engines.register(connection, value)
    row = store.engine_row("x" * 64)
    assert row == dataclasses.replace(
        value, started_at=store.clock.utc, beat_at=store.clock.utc
    )
    assert row.alive


def test_registering_again_after_a_lost_answer_changes_nothing(store):
    first = store.engine(ME)
    assert beat(store)
    store.clock.advance(1)
    again = store.engine(ME)
    assert again.beat_seq == 2 and again.started_at == first.started_at


def test_the_id_of_another_incarnation_is_refused(store):
    store.engine(ME, host="elsewhere", pid=42)
    with store.connect() as connection:
        with pytest.raises(exceptions.EngineIdTaken) as caught:
            store.engines.register(connection, engine_value(ME, token=8))
        assert "elsewhere" in str(caught.value) and "42" in str(caught.value)
        # The connection is as good as before.
        assert store.engines.get(connection, ME).token == 7


def test_the_id_of_a_fenced_incarnation_is_refused(store):
    store.fenced(ME)
    with store.connect() as connection, pytest.raises(exceptions.EngineIdTaken):
        store.engines.register(connection, engine_value(ME, token=8))
    assert store.engine_row(ME).state == EngineState.FENCED


def test_ids_that_differ_in_case_are_two_engines(store):
    store.engine("abc")
    store.engine("ABC")
    assert beat(store, "abc", 1, 1, 2)
    assert store.engine_row("ABC").beat_seq == 1


def test_a_row_that_cannot_be_written_says_so(store):
    value = dataclasses.replace(engine_value(ME), binary=None)
    with store.connect() as connection:
        with pytest.raises(Exception, match="(?i)null"):
            store.engines.register(connection, value)
        assert store.engines.get(connection, ME) is None


# --- beat -------------------------------------------------------------------


def test_a_beat_writes_its_number_its_ttl_and_the_databases_time(store):
    store.engine(ME)
    store.clock.advance(2.5)
    assert beat(store, sent=1, seq=2, ttl=12.5)
    row = store.engine_row(ME)
    assert (row.beat_seq, row.ttl, row.beat_at) == (2, 12.5, store.clock.utc)
    assert row.state == EngineState.LIVE


@pytest.mark.parametrize(
    "in_row, counts", [(1, True), (6, True), (7, True), (8, False), (9, False)]
)
def test_a_beat_counts_on_any_number_up_to_the_last_sent(store, in_row, counts):
    store.engine(ME, beat_seq=in_row)
    assert beat(store, sent=7, seq=8) is counts
    assert store.engine_row(ME).beat_seq == (8 if counts else in_row)


def test_a_beat_is_an_absolute_number(store):
    """After a failover that lost a commit the row is behind; the number must not
    be one that somebody has already seen."""
    store.engine(ME, beat_seq=3)
    assert beat(store, sent=9, seq=10)
    assert store.engine_row(ME).beat_seq == 10


def test_a_beat_that_arrives_late_is_refused_after_a_newer_one(store):
    store.engine(ME)
    # Beat 2 is sent and its answer lost; beat 3 is committed; now 2 arrives.
    assert beat(store, sent=2, seq=3)
    assert not beat(store, sent=1, seq=2)
    assert store.engine_row(ME).beat_seq == 3


def test_a_beat_of_another_incarnation_with_the_same_id_is_refused(store):
    store.engine(ME)
    assert not beat(store, token=8)
    assert store.engine_row(ME).beat_seq == 1


def test_a_late_beat_cannot_undo_a_fence(store):
    store.fenced(ME)
    before = store.engine_row(ME)
    assert not beat(store)
    assert store.engine_row(ME) == before


def test_a_stopped_engine_does_not_beat(store):
    store.stopped(ME)
    assert not beat(store)
    assert store.engine_row(ME).beat_seq == 1


def test_an_engine_without_a_row_does_not_beat(store):
    store.engine("other")
    assert not beat(store)
    assert store.engine_row("other").beat_seq == 1


def test_a_draining_engine_beats(store):
    store.draining(ME)
    assert beat(store)
    assert store.engine_row(ME).state == EngineState.DRAINING


def test_a_beat_moves_no_other_engine(store):
    store.engine(ME)
    other = store.engine("other")
    store.clock.advance(1)
    assert beat(store)
    assert store.engine_row("other") == other


# --- fence ------------------------------------------------------------------


@pytest.mark.parametrize("state", [EngineState.LIVE, EngineState.DRAINING])
def test_a_fence_says_who_when_and_why(store, state):
    victim = store.engine("victim") if state == "live" else store.draining("victim")
    store.clock.advance(40)
    assert fence(store, victim, ME, "silent for 40 s")
    row = store.engine_row("victim")
    assert row.state == EngineState.FENCED and not row.alive
    assert row.fenced_by == ME
    assert row.fence_evidence == "silent for 40 s"
    assert row.ended_at == store.clock.utc
    assert row.beat_seq == victim.beat_seq


def test_only_the_first_of_two_fences_counts(store):
    victim = store.engine("victim")
    assert fence(store, victim, "first", "one")
    ended = store.engine_row("victim")
    store.clock.advance(1)
    assert not fence(store, victim, "second", "two")
    assert store.engine_row("victim") == ended


def test_a_fence_decided_on_an_old_reading_misses_an_engine_that_has_beaten(store):
    seen = store.engine("victim")
    assert beat(store, "victim")
    assert not fence(store, seen)
    assert store.engine_row("victim").alive


def test_a_fence_on_a_reading_from_the_future_misses(store):
    """A failover lost the beat that was seen: nobody knows what the engine did."""
    seen = dataclasses.replace(store.engine("victim"), beat_seq=2)
    assert not fence(store, seen)


def test_a_fence_does_not_hit_another_incarnation_of_the_same_id(store):
    seen = dataclasses.replace(store.engine("victim"), token=8)
    assert not fence(store, seen)
    assert store.engine_row("victim").alive


def test_a_stopped_engine_is_not_fenced(store):
    stopped = store.stopped("victim")
    assert not fence(store, stopped)
    assert store.engine_row("victim").state == EngineState.STOPPED


def test_a_fence_hits_its_victim_alone(store):
    victim, other = store.engine("victim"), store.engine("other")
    assert fence(store, victim)
    assert store.engine_row("other") == other


def test_long_evidence_is_cut_and_the_operator_may_fence(store):
    assert fence(store, store.engine("victim"), None, "é" * 300)
    row = store.engine_row("victim")
    assert row.fence_evidence == "é" * 255 and row.fenced_by is None


# --- draining, resign -------------------------------------------------------


def test_draining_is_not_dead(store):
    row = store.draining(ME)
    assert row.state == EngineState.DRAINING
    assert row.alive and row.ended_at is None


@pytest.mark.parametrize("end", ["fenced", "stopped"])
def test_draining_does_not_bring_back_the_dead(store, end):
    before = getattr(store, end)(ME)
    with store.connect() as connection:
        store.engines.set_draining(connection, ME)
    assert store.engine_row(ME) == before


@pytest.mark.parametrize("start", ["engine", "draining"])
def test_resigning_ends_an_engine_once(store, start):
    getattr(store, start)(ME)
    store.clock.advance(1)
    with store.connect() as connection:
        assert store.engines.resign(connection, ME)
        row = store.engine_row(ME)
        assert row.state == EngineState.STOPPED and row.ended_at == store.clock.utc
        store.clock.advance(1)
        assert not store.engines.resign(connection, ME)
    assert store.engine_row(ME) == row


def test_a_fenced_engine_learns_it_when_it_resigns(store):
    before = store.fenced(ME)
    with store.connect() as connection:
        assert not store.engines.resign(connection, ME)
    assert store.engine_row(ME) == before


# --- observe ----------------------------------------------------------------


def ring(store: Store, me: str, window: int) -> list[str]:
    return [engine.id for engine in observe(store, me, window).engines if engine.alive]


def fleet(store: Store, size: int) -> list[str]:
    ids = [f"e{number:03}" for number in range(size)]
    for engine_id in ids:
        store.engine(engine_id)
    return ids


WINDOW = 5


@pytest.mark.parametrize("size", [1, 3, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_every_engine_sees_the_window_that_follows_it_in_the_ring(store, size):
    ids = fleet(store, size)
    for place, me in enumerate(ids):
        turned = ids[place:] + ids[:place]
        assert ring(store, me, WINDOW) == turned[: WINDOW + 1]


def test_the_ring_closes_behind_the_last_engine(store):
    fleet(store, 3 * WINDOW)
    assert ring(store, "e013", WINDOW) == [
        "e013",
        "e014",
        "e000",
        "e001",
        "e002",
        "e003",
    ]


def test_where_enough_engines_follow_the_rings_beginning_is_not_read(store):
    engines, rows = Engines(store.clock), []
    read = engines._read

    def counted(*args):
        seen, living = read(*args)
        rows.append(living)
        return seen, living

    engines._read = counted

    def ring_without(*gone: str) -> list[str]:
        rows.clear()
        with store.connect() as connection:
            connection.execute(sa.delete(E).where(E.c.id.in_(gone)))
            seen = engines.observe(connection, "e007", WINDOW)
        return [engine.id for engine in seen.engines if engine.id != "e007"]

    fleet(store, 4 * WINDOW)
    assert ring_without() == ["e008", "e009", "e010", "e011", "e012"]
    assert rows == [1 + 2 * WINDOW]
    assert ring_without() == ["e008", "e009", "e010", "e011", "e012"]
    assert rows == [1 + WINDOW]
    short = [f"e{n:03}" for n in range(8, 16)]
    assert ring_without(*short) == ["e016", "e017", "e018", "e019", "e000"]
    assert rows == [5, 5 + WINDOW]  # it has become too short
    for _ in range(2):
        assert ring_without() == ["e016", "e017", "e018", "e019", "e000"]
        assert rows == [5 + WINDOW]


def test_an_engine_without_a_row_observes_all_the_same(store):
    ids = fleet(store, 3)
    assert set(ring(store, "e0015", WINDOW)) == set(ids)
    assert ring(store, "e0015", 2)[0] == "e002"


def test_an_empty_table_still_tells_the_server_and_the_time(store):
    seen = observe(store)
    assert seen.engines == ()
    assert seen.server and seen.now == store.clock.utc


def test_an_observation_shows_each_row_as_it_is(store):
    store.engine(ME)
    store.draining("n-draining")
    store.fenced("n-fenced")
    store.stopped("n-stopped")
    seen = observe(store)
    assert {engine.id: engine.state for engine in seen.engines} == {
        ME: "live",
        "n-draining": "draining",
        "n-fenced": "fenced",
        "n-stopped": "stopped",
    }
    for engine in seen.engines:
        assert engine == store.engine_row(engine.id)
    assert seen.now == store.clock.utc


def test_engines_and_deadlines_of_one_reading_are_each_as_they_are(store):
    store.engine(ME)
    store.fenced("dead")
    own = store.arm("own", payload='{"a": 1}', max_attempts=2)
    orphan = store.arm("orphan", owner="dead", due=1e6)
    scope = Scope(3.0, 6.0, ("timer",), 60.0, limit=10, own_limit=10)
    question = Finder(store.clock, ME).question(scope, ["dead"])
    with store.connect() as connection:
        seen = store.engines.observe(connection, ME, 100, question)
        alone = store.engines.observe(connection, ME, 100)
    assert {engine.id for engine in seen.engines} == {ME, "dead"}
    for engine in seen.engines:
        assert engine == store.engine_row(engine.id)
    assert seen.found is not None
    assert seen.found.own == [own._replace(expired=True, due=True)]
    assert seen.found.orphans == [orphan._replace(orphaned=True)]
    assert dataclasses.replace(seen, found=None, took=alone.took) == alone


def test_the_dead_take_no_place_in_the_ring(store):
    fleet(store, 6)
    store.fenced("e0001")
    store.stopped("e0002")
    assert ring(store, "e000", 3) == ["e000", "e001", "e002", "e003"]


def test_only_the_latest_dead_are_shown(store):
    store.engine(ME)
    start = store.clock.utc
    rows = [
        {
            **dataclasses.asdict(engine_value(f"dead{number:03}")),
            "state": "fenced",
            "started_at": start,
            "beat_at": start,
            "ended_at": start + timedelta(seconds=number),
        }
        for number in range(DEAD_SHOWN + 5)
    ]
    with store.connect() as connection:
        connection.execute(sa.insert(E), rows)
    dead = {engine.id for engine in observe(store).engines if not engine.alive}
    assert dead == {f"dead{number:03}" for number in range(5, DEAD_SHOWN + 5)}


def test_one_server_has_one_identity_on_every_connection(store):
    with store.connect() as one, store.connect() as two:
        first = store.engines.observe(one, ME, 1).server
        assert store.engines.observe(two, ME, 1).server == first
        store.engine(ME)
        assert store.engines.observe(one, ME, 1).server == first


# --- who is not alive -------------------------------------------------------


def test_not_alive_are_the_fenced_the_stopped_and_the_missing(store):
    store.engine("live")
    store.draining("draining")
    store.fenced("fenced")
    store.stopped("stopped")
    asked = ["live", "draining", "fenced", "stopped", "missing"]
    with store.connect() as connection:
        assert store.engines.not_alive(connection, asked) == {
            "fenced",
            "stopped",
            "missing",
        }
        assert store.engines.not_alive(connection, []) == set()
        assert store.engines.not_alive(connection, iter(["live"])) == set()


def lingering(store: Store, limit: int = 100) -> list[str]:
    with store.connect() as connection:
        return sorted(store.engines.owners_not_alive(connection, limit))


def test_owners_that_are_fenced_stopped_or_missing_are_found(store):
    store.engine("live")
    store.draining("draining")
    store.fenced("fenced")
    store.stopped("stopped")
    for owner in ("live", "draining", "fenced", "stopped", "missing"):
        store.arm(f"{owner}-1", owner=owner)
        store.arm(f"{owner}-2", owner=owner)
    assert lingering(store) == ["fenced", "missing", "stopped"]
    with store.connect() as connection:
        has_row = store.engines.owners_not_alive(connection, 10)
    assert has_row == {"fenced": True, "missing": False, "stopped": True}


def test_a_dead_owner_of_a_claimed_row_is_found(store):
    store.claimed(owner="gone")
    assert lingering(store) == ["gone"]


def test_nobody_lingers_without_rows_and_released_rows_have_no_owner(store):
    assert lingering(store) == []
    store.released()
    store.parked("p")
    assert lingering(store) == []
    store.fenced("fenced")  # owns nothing
    assert lingering(store) == []


@pytest.mark.parametrize("owner", ["", " ", "\x01", "A", "a", "~", "é", "0" * 64])
def test_any_owner_can_be_missing(store, owner):
    store.engine("m")
    store.arm("1", owner="m")
    store.arm("2", owner=owner)
    store.released("3")
    assert lingering(store) == [owner]


def test_many_owners_are_stepped_through(store):
    store.engine("o0017")
    store.arm_many(*(store.new(f"k{n}", owner=f"o{n:04}") for n in range(150)))
    found = lingering(store, 1000)
    assert sorted(found) == [f"o{n:04}" for n in range(150) if n != 17]
    assert len(lingering(store, 10)) == 10


# --- purge ------------------------------------------------------------------


def purge(store: Store, older_than=60.0, limit=100) -> int:
    with store.connect() as connection:
        return store.engines.purge(connection, older_than, limit)


def engine_ids(store: Store) -> set[str]:
    with store.connect() as connection:
        return set(connection.execute(sa.select(E.c.id)).scalars())


@pytest.mark.parametrize("end", ["fenced", "stopped"])
def test_the_dead_are_purged_after_the_retention_and_not_before(store, end):
    getattr(store, end)("gone")
    store.clock.advance(60)
    assert purge(store) == 0
    assert engine_ids(store) == {"gone"}
    store.clock.advance(0.000001)
    assert purge(store) == 1
    assert engine_ids(store) == set()


def test_the_living_are_never_purged(store):
    store.engine("live")
    store.draining("draining")
    store.clock.advance(1e8)
    assert purge(store, 0.0) == 0
    assert engine_ids(store) == {"live", "draining"}


def test_an_engine_that_still_owns_rows_is_never_purged(store):
    store.fenced("armed")
    store.fenced("claimed")
    store.fenced("nothing")
    armed = store.arm("1", owner="armed")
    claimed = store.claimed("2", owner="claimed")
    store.clock.advance(100)
    assert purge(store) == 1
    assert engine_ids(store) == {"armed", "claimed"}
    for value in (armed, claimed):
        with store.connect() as connection:
            assert store.deadlines.complete(connection, [value]) == set()
    assert purge(store) == 2


def test_a_purge_is_bounded(store):
    for number in range(5):
        store.stopped(f"e{number}")
    store.clock.advance(100)
    assert purge(store, limit=2) == 2
    assert purge(store, limit=2) == 2
    assert purge(store, limit=2) == 1
    assert purge(store, limit=2) == 0


# --- all --------------------------------------------------------------------


def test_all_lists_the_living_first(store):
    store.fenced("a")
    store.clock.advance(1)
    store.engine("b")
    store.clock.advance(1)
    store.engine("c")
    with store.connect() as connection:
        assert [engine.id for engine in store.engines.all(connection)] == [
            "b",
            "c",
            "a",
        ]


def test_times_are_kept_to_the_microsecond(store):
    store.clock.utc = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
    store.engine(ME)
    assert store.engine_row(ME).beat_at == store.clock.utc
    assert observe(store).now == store.clock.utc


def test_no_deadline_row_is_touched_by_engines(store):
    value: Deadline = store.arm(owner=ME)
    store.engine(ME)
    beat(store)
    fence(store, store.engine_row(ME))
    assert store.row() == value
