"""The intended index serves every statement, and no statement reads more than it
gives: with 100,000 armed rows, 20,000 parked ones and 200 engines, whatever the
server knows of them by its statistics."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from liveness.clock import Clock
from liveness.db import migration, tables
from liveness.db.events import EventLog
from liveness.db.finding import FIRST, Finder, Scope
from liveness.db.heads import Ask, Heads, Line
from liveness.events import Event, What
from tests.store.conftest import Store, engine_value
from tests.store.plans import Explainer

D = tables.deadline
E = tables.engine

DEADLINE, ENGINE = "liveness_deadline", "liveness_engine"
BY_OWNER, BY_DUE = "ix_liveness_deadline_owner", "ix_liveness_deadline_due"
BY_ENDED = "ix_liveness_engine_ended"
PRIMARY = {"PRIMARY", "liveness_deadline_pkey", "liveness_engine_pkey"}

ENGINES, ARMED, PARKED, RELEASED = 200, 100_000, 20_000, 2_000
DEAD = [f"e{number:03}" for number in range(190, 200)]
ME = "e005"
LIMIT = 200
MOST_OF_A_WINDOW = 2 * (2 * 101 + len(DEAD)) + 20
"""Rows read to observe: those after and before one, which MariaDB counts twice."""

# Statistics are as old as the last ANALYZE: never, or now. Released rows: none, as
# nearly always, or many.
STATES = ["steady-unknown", "busy-unknown", "busy-analyzed", "steady-analyzed"]

# 100,000 rows of 190 engines a tenth of a second apart, the first 1,000 of them due,
# every fiftieth claimed; the youngest 4,000 are a dead engine's. Then the parked ones.
FILL = """
    INSERT INTO liveness_deadline
        (kind, {key}, owner_id, token, arm_token, epoch, state, due_at, expires_at,
         attempts, max_attempts, created_at, updated_at)
    SELECT
        CASE WHEN n %% 3 = 0 THEN 'action' ELSE 'timer' END,
        {name},
        CASE WHEN n > {armed} THEN NULL WHEN n > {armed} - 4000 THEN 'e199'
            ELSE {owner} END,
        n, n, 1,
        CASE WHEN n > {armed} THEN 'parked' WHEN n %% 50 = 3 THEN 'claimed'
            ELSE 'armed' END,
        {due}, {due}, 0, 5, {due}, {due}
    FROM {numbers}
"""
WORDS = {
    "mysql": {
        "key": "`key`",
        "name": "CONCAT('key-', n)",
        "owner": "CONCAT('e', LPAD(n %% 190, 3, '0'))",
        "due": "UTC_TIMESTAMP(6) + INTERVAL (CAST(n AS SIGNED) - 1000) * 100000"
        " MICROSECOND",
        "numbers": f"(SELECT seq AS n FROM seq_1_to_{ARMED + PARKED}) AS numbers",
    },
    "postgresql": {
        "key": "key",
        "name": "'key-' || n",
        "owner": "'e' || lpad((n %% 190)::text, 3, '0')",
        "due": "timezone('utc', statement_timestamp())"
        " + (n - 1000) * INTERVAL '100 milliseconds'",
        "numbers": f"generate_series(1, {ARMED + PARKED}) AS n",
    },
}
NO_STATISTICS = {
    "mysql": "ALTER TABLE liveness_deadline STATS_AUTO_RECALC = 0",
    "postgresql": "ALTER TABLE liveness_deadline SET (autovacuum_enabled = false)",
}
ANALYZE = {
    "mysql": "ANALYZE TABLE liveness_deadline, liveness_engine",
    "postgresql": "ANALYZE liveness_deadline, liveness_engine",
}


class Table:
    """A filled database, on its way from one of the STATES to the next."""

    def __init__(self, server) -> None:
        self.server = server
        self.name = f"plans_{uuid.uuid4().hex[:12]}"
        server.create_database(self.name)
        url = server.url(self.name)
        migration.sync(url)
        self.store = Store(url, Clock(), timeout=60.0)
        self.state = 0
        words = WORDS[self.store.backend]
        with self.store.connect() as connection:
            connection.exec_driver_sql(NO_STATISTICS[self.store.backend])
            for number in range(ENGINES):
                value = engine_value(f"e{number:03}")
                self.store.engines.register(connection, value)
                if value.id in DEAD:
                    self.store.engines.fence(connection, value, None, "dead")
            connection.exec_driver_sql(FILL.format(armed=ARMED, **words))

    def reach(self, state: int) -> None:
        """Go on to one of the STATES."""
        steps = [self._release, self._analyze, self._settle]
        for step in steps[self.state : state]:
            step()
        self.state = state

    def _release(self) -> None:
        some = sa.select(D.c.id).where(D.c.token.between(50_000, 50_000 + RELEASED))
        with self.store.connect() as connection:
            ids = list(connection.execute(some).scalars())
            connection.execute(
                sa.update(D).where(D.c.id.in_(ids)).values(owner_id=None, state="armed")
            )

    def _analyze(self) -> None:
        with self.store.connect() as connection:
            connection.exec_driver_sql(ANALYZE[self.store.backend]).close()

    def _settle(self) -> None:
        with self.store.connect() as connection:
            connection.execute(
                sa.delete(D).where(D.c.owner_id.is_(None), D.c.state == "armed")
            )
        self._analyze()

    def close(self) -> None:
        self.store.close()
        self.server.drop_database(self.name)


@pytest.fixture(scope="module")
def _tables(_obtain) -> Iterator[dict[str, Table]]:
    filled: dict[str, Table] = {}
    yield filled
    for table in filled.values():
        table.close()


@pytest.fixture(
    scope="module",
    params=[
        (backend, state) for backend in ("mariadb", "postgresql") for state in STATES
    ],
    ids="-".join,
)
def table(request, _obtain, _tables) -> Table:
    backend, state = request.param
    place = STATES.index(state)
    if backend in _tables and _tables[backend].state > place:
        _tables.pop(backend).close()
    if backend not in _tables:
        _tables[backend] = Table(_obtain(backend))
    _tables[backend].reach(place)
    return _tables[backend]


@pytest.fixture
def store(table) -> Store:
    return table.store


@pytest.fixture
def busy(table) -> bool:
    return STATES[table.state].startswith("busy")


@pytest.fixture
def plan(store) -> Explainer:
    return Explainer(store)


SCOPE = Scope(
    horizon=3.0,
    grace=6.0,
    kinds=("timer", "action"),
    unknown_grace=60.0,
    limit=LIMIT,
    own_limit=LIMIT,
)


@pytest.fixture
def finder(store) -> Finder:
    return Finder(store.clock, ME)


def by_key_only(plan: Explainer, table: str, rows: int) -> None:
    """``table`` was read by primary key and nothing else, at most ``rows`` of it each
    time."""
    assert plan.of(table), plan
    assert {access.index for access in plan.of(table)} <= PRIMARY, plan
    assert all(access.rows <= rows for access in plan.of(table)), plan
    assert not plan.sorts, plan


def by(plan: Explainer, table: str, *indexes: str) -> None:
    """``table`` was read through those indexes, in their order, and never whole."""
    assert {access.index for access in plan.of(table)} <= set(indexes), plan
    assert not any(access.whole for access in plan.of(table)), plan
    assert not plan.sorts, plan


# --- finding ----------------------------------------------------------------


@pytest.mark.parametrize("beside_engines", [False, True])
@pytest.mark.parametrize(
    "dead, fresh_only, offset",
    [([], False, 0), ([], True, 600), (DEAD, True, 0), (DEAD, False, 600)],
    ids=["nobody", "nobody, second page", "some dead", "some dead, second page"],
)
def test_finding_reads_what_it_finds(
    store, plan, finder, busy, dead, fresh_only, offset, beside_engines
):
    scope = dataclasses.replace(SCOPE, fresh_only=fresh_only)
    window = 0.0
    if beside_engines:
        question = finder.question(scope, dead, offset)
        found = plan.run(lambda c: store.engines.observe(c, ME, 100, question)).found
        by(plan, ENGINE, BY_ENDED, *PRIMARY)
        window = MOST_OF_A_WINDOW
    else:
        found = plan.run(lambda c: finder.find(c, finder.question(scope, dead, offset)))
    by(plan, DEADLINE, BY_OWNER, BY_DUE)
    rows = sum(
        len(part) for part in (found.own, found.held, found.orphans, found.overdue)
    )
    assert len(found.overdue) > LIMIT / 2
    if busy:
        assert len(found.orphans) >= LIMIT
    if offset == 0 and dead:
        assert len(found.orphans) >= LIMIT
    # What is skipped is read, in each part for orphans; and MariaDB counts what it
    # reads again from each part's result.
    most = rows + LIMIT + 3 * offset
    assert plan.rows_read <= 2 * most + 100 + window, plan


@pytest.mark.parametrize("beside_engines", [False, True])
def test_finding_stays_with_its_plan_when_it_is_prepared(store, finder, beside_engines):
    """psycopg prepares what is sent often; a plan for any value must not take over."""
    if store.backend != "postgresql":
        return

    def find(connection: sa.Connection) -> None:
        if beside_engines:
            question = finder.question(SCOPE, DEAD)
            store.engines.observe(connection, ME, 100, question)
        else:
            finder.find(connection, finder.question(SCOPE, DEAD))

    with store.connect() as connection:
        for _ in range(15):
            find(connection)
        connection.exec_driver_sql("BEGIN")
        before = connection.exec_driver_sql(READ).one()
        find(connection)
        after = connection.exec_driver_sql(READ).one()
        connection.exec_driver_sql("ROLLBACK")
    assert after.whole == before.whole
    assert after.fetched - before.fetched <= 5 * LIMIT


@pytest.mark.parametrize("skipped", [0, 1000])
def test_a_walk_reads_its_page_and_what_it_counts_off(store, plan, finder, skipped):
    def walk(connection: sa.Connection):
        assert finder.count_armed(connection, "e199", 2000) == 2000
        place = finder.place_after(connection, "e199", skipped)
        return finder.orphans_of(connection, SCOPE, "e199", place, LIMIT)

    page = plan.run(walk)
    by(plan, DEADLINE, BY_OWNER)
    assert len(page) == LIMIT
    # MariaDB counts what it counts off twice: it is a table of its own.
    assert plan.rows_read <= 2 * 2000 + skipped + LIMIT + 100, plan


def test_a_walk_stays_with_its_plan_when_it_is_prepared(store, finder):
    if store.backend != "postgresql":
        return
    with store.connect() as connection:
        place = finder.place_after(connection, "e199", 1000)
        for _ in range(15):
            finder.orphans_of(connection, SCOPE, "e199", place, LIMIT)
        connection.exec_driver_sql("BEGIN")
        before = connection.exec_driver_sql(READ).one()
        finder.orphans_of(connection, SCOPE, "e199", place, LIMIT)
        after = connection.exec_driver_sql(READ).one()
        connection.exec_driver_sql("ROLLBACK")
    assert after.whole == before.whole
    assert after.fetched - before.fetched <= 2 * LIMIT


@pytest.fixture(params=["mariadb", "postgresql"])
def inherited(request, _obtain) -> Iterator[Store]:
    """Whom the statistics take for the owner of all 6,000 rows has none any more."""
    server, name = _obtain(request.param), f"plans_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    migration.sync(server.url(name))
    store = Store(server.url(name), Clock(), timeout=60.0)
    words = {**WORDS[store.backend], "owner": "'dead'"}
    words["numbers"] = words["numbers"].replace(str(ARMED + PARKED), "6000")
    with store.connect() as connection:
        connection.exec_driver_sql(NO_STATISTICS[store.backend])
        connection.exec_driver_sql(FILL.format(armed=ARMED, **words))
        connection.execute(sa.update(D).values(state="armed"))
        connection.exec_driver_sql(ANALYZE[store.backend]).close()
        connection.execute(sa.update(D).values(owner_id="heir"))
    yield store
    store.close()
    server.drop_database(name)


def test_a_dead_engines_rows_are_not_sought_among_those_of_its_heirs(inherited):
    finder, plan = Finder(inherited.clock, ME), Explainer(inherited)
    scope = dataclasses.replace(SCOPE, foreign_due=False)

    def look(connection: sa.Connection):
        assert finder.count_armed(connection, "dead", 6000) == 0
        assert finder.place_after(connection, "dead", 1000) is None
        assert finder.orphans_of(connection, SCOPE, "dead", FIRST, LIMIT) == []
        assert finder.find(connection, finder.question(scope, ["dead"])).orphans == []

    plan.run(look)
    by(plan, DEADLINE, BY_OWNER, BY_DUE)
    assert plan.rows_read <= 100, plan


READ = """
    SELECT seq_scan AS whole, idx_tup_fetch AS fetched
    FROM pg_stat_xact_user_tables WHERE relname = 'liveness_deadline'
"""


def test_a_lookup_goes_by_kind_and_key(store, plan):
    assert plan.run(lambda c: store.deadlines.find(c, "timer", "key-70000"))
    by(plan, DEADLINE, "uq_liveness_deadline_kind_key")
    assert plan.rows_read <= 2


def test_the_list_of_parked_rows_comes_in_the_order_of_the_index(store, plan):
    assert len(plan.run(lambda c: store.deadlines.parked(c, 100))) == 100
    by(plan, DEADLINE, BY_DUE)
    assert plan.rows_read <= 110


# --- claiming ---------------------------------------------------------------


def found_by(store: Store, finder: Finder, dead=()):
    with store.connect() as connection:
        return finder.find(connection, finder.question(SCOPE, dead))


@pytest.mark.parametrize("count", [1, LIMIT])
def test_an_overdue_claim_locks_and_writes_by_primary_key(store, plan, finder, count):
    found = found_by(store, finder).overdue[:count]
    claims = store.claims
    taken = plan.run(lambda c: claims.claim_overdue(c, ME, found, SCOPE.grace))
    assert len(taken) == len(found)
    by_key_only(plan, DEADLINE, count)


@pytest.mark.parametrize("count", [1, LIMIT])
@pytest.mark.parametrize("take", ["claim_orphans", "adopt_orphans"])
def test_a_takeover_locks_and_writes_by_primary_key(store, plan, finder, take, count):
    wanted = [v for v in found_by(store, finder, DEAD).orphans if v.state == "armed"]
    found = wanted[-count:]  # the dead engine's, if there are any left
    taken = plan.run(lambda c: getattr(store.claims, take)(c, ME, found))
    assert len(taken) == len(found)
    by_key_only(plan, DEADLINE, count)
    assert {access.index for access in plan.of(ENGINE)} <= PRIMARY


@pytest.mark.parametrize("count", [1, LIMIT])
def test_ones_own_are_claimed_by_primary_key(store, plan, count):
    found = store.arm_many(*(new(store) for _ in range(count)))
    taken = plan.run(lambda c: store.claims.claim_own(c, ME, found))
    assert len(taken) == count
    by_key_only(plan, DEADLINE, count)


def test_lost_claims_are_held_by_primary_key(store, plan, finder):
    held = found_by(store, finder).held
    assert held
    assert plan.run(lambda c: store.claims.adopt_lost(c, ME, held))
    by_key_only(plan, DEADLINE, LIMIT)


def new(store: Store, due: float = 0.0):
    return store.new(uuid.uuid4().hex, owner=ME, due=due)


# --- settling ---------------------------------------------------------------


@pytest.mark.parametrize("count", [1, LIMIT])
def test_completing_goes_by_primary_key(store, plan, count):
    values = store.arm_many(*(new(store) for _ in range(count)))
    assert plan.run(lambda c: store.deadlines.complete(c, values)) == set()
    by_key_only(plan, DEADLINE, count)


@pytest.mark.parametrize("count", [1, LIMIT])
def test_a_chain_goes_by_primary_key(store, plan, count):
    with store.connect() as connection:
        due = store.arm_many(*(new(store) for _ in range(count)))
        done = store.claims.claim_own(connection, ME, due)
    found = store.arm_many(*(new(store) for _ in range(count)))
    stale, claimed = plan.run(lambda c: store.claims.chain(c, ME, done, False, found))
    assert (stale, len(claimed)) == (set(), count)
    by_key_only(plan, DEADLINE, 2 * count)


@pytest.mark.parametrize("count", [1, LIMIT])
@pytest.mark.parametrize("line", list(Line), ids=["own", "nobodys"])
def test_a_head_is_read_by_owner_and_written_by_primary_key(store, plan, line, count):
    """Among thousands that others have, are parked or not due, and behind what its
    batches have left."""
    me, heads = "head", Heads(store.clock, EventLog(store.clock))
    news = [new(store)._replace(owner_id=me) for _ in range(3 * count)]
    later = [new(store, 3600.0)._replace(owner_id=me) for _ in range(500)]
    done = store.arm_many(*news)[:count]
    store.arm_many(*later)
    told = Event(What.EXPIRED, me)
    ask = Ask(me, line, ("timer",), count, told)
    with store.connect() as connection:
        done = store.claims.claim_own(connection, me, done)
        if line is Line.NOBODYS:
            rest = sa.and_(D.c.owner_id == me, D.c.state == "armed")
            connection.execute(sa.update(D).where(rest).values(owner_id=None))
    stale, claimed = plan.run(lambda c: heads.claim(c, ask, done))
    assert (stale, len(claimed)) == (set(), count)
    assert not plan.sorts, plan
    found = [a for a in plan.of(DEADLINE) if a.index not in PRIMARY]
    assert [access.index for access in found] == [BY_OWNER], plan
    assert not any(access.whole for access in plan.of(DEADLINE)), plan
    written = [a for a in plan.of(DEADLINE) if a.index in PRIMARY]
    assert all(access.rows <= count for access in written), plan
    # Found, written, gone and told; MariaDB counts some of it twice.
    assert plan.rows_read <= 8 * count + 20, plan
    with store.connect() as connection:
        mine = D.c.key.in_([each.key for each in [*news, *later]])
        connection.execute(sa.delete(D).where(mine))
        # Of nobody's it may have taken some that were there before.
        given_back = {"owner_id": None, "state": "armed", "attempts": 0}
        connection.execute(sa.update(D).where(D.c.owner_id == me).values(given_back))


def test_moving_and_extending_go_by_primary_key(store, plan):
    value = store.arm_many(new(store))[0]

    def move(connection: sa.Connection) -> None:
        later = store.deadlines.extend(connection, value, 60.0, 98)
        assert store.deadlines.retry(connection, later, 99, 60.0, "why")

    plan.run(move)
    by_key_only(plan, DEADLINE, 1)


def test_handing_back_reads_the_owners_rows_and_writes_by_primary_key(store, plan):
    count = plan.run(lambda c: store.deadlines.hand_back(c, "e100", 50))
    assert count == 50
    read, written = plan.of(DEADLINE)
    assert read.index == BY_OWNER and written.index in PRIMARY, plan
    assert written.rows <= 50, plan


# --- engines ----------------------------------------------------------------


def test_a_beat_and_a_fence_go_by_primary_key(store, plan):
    def beat_and_miss(connection: sa.Connection) -> None:
        row = store.engines.get(connection, ME)
        seq = row.beat_seq
        assert store.engines.beat(connection, ME, row.token, seq, seq + 1, 30.0)
        assert not store.engines.fence(connection, row, None, "too late")

    plan.run(beat_and_miss)
    by_key_only(plan, ENGINE, 1)
    assert plan.rows_read <= 6


def test_observing_reads_the_window(store, plan):
    seen = plan.run(lambda c: store.engines.observe(c, ME, 100))
    assert len([engine for engine in seen.engines if engine.alive]) == 101
    by(plan, ENGINE, BY_ENDED, *PRIMARY)
    assert plan.rows_read <= MOST_OF_A_WINDOW


def test_owners_are_stepped_through(store, plan, table):
    owners = plan.run(lambda c: store.engines.owners_not_alive(c, 100))
    assert set(owners) <= {*DEAD}
    assert {access.index for access in plan.of(DEADLINE)} == {BY_OWNER}
    most = 10 * ENGINES
    if store.backend == "mysql" and "unknown" in STATES[table.state]:
        most = ARMED + PARKED + most  # once through the index, never more
    assert plan.rows_read <= most, plan


def test_who_is_not_alive_goes_by_primary_key(store, plan):
    asked = [*DEAD, ME, "missing"]
    gone = plan.run(lambda c: store.engines.not_alive(c, asked))
    assert gone == {*DEAD, "missing"}
    by(plan, ENGINE, *PRIMARY)


def test_a_purge_looks_at_the_ended_and_asks_for_one_row_of_each(store, plan):
    assert plan.run(lambda c: store.engines.purge(c, 3600.0, LIMIT)) == 0
    by(plan, ENGINE, BY_ENDED, *PRIMARY)
    by(plan, DEADLINE, BY_OWNER)
    assert plan.rows_read <= 3 * len(DEAD)
