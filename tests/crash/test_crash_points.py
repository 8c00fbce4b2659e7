"""Whatever statement a process dies at, somebody finishes its work.

Afterwards another engine lives on. Nothing that the dead one was told to be armed may
be missing: it is handled, or parked, or the dead one had done it. Nothing runs early,
and nothing is left that nobody will look at.

Each database gets a third of the points, so that together they get all of them; with
``LIVENESS_CRASH=all`` each gets all.
"""

from __future__ import annotations

import os
import time

import pytest
import sqlalchemy as sa

from liveness.db import migration, tables
from tests.clock import SettableClock
from tests.crash import covered
from tests.crash.operations import Doomed
from tests.crash.operators import OPERATIONS
from tests.crash.points import COUNTED, Point, Story, points, run
from tests.fleet import Driven, Recorder

D, E = tables.deadline, tables.engine

BACKENDS = ("sqlite", "mariadb", "postgresql")


def chosen(statements: int, what: str, backend: str) -> list[Point]:
    """The points to strike at, of all there are."""
    every = list(points(statements))
    mine = every[BACKENDS.index(backend) :: len(BACKENDS)]
    mine = every if os.environ.get("LIVENESS_CRASH") else mine
    COUNTED[f"{what} on {backend}"] = (len(mine), len(every))
    return mine


def story(url: str, name: str, point: Point | None, watched: bool = False) -> Story:
    """The operation in a process that dies at ``point``; ``watched``: it tells which
    methods of the store it calls."""

    def work(trace, tell):
        doomed = Doomed(url, tell)
        steps = OPERATIONS[name](doomed, tell)
        next(steps)
        if watched:
            covered.watch(tell)
        trace.begin()
        for _ in steps:
            raise AssertionError("one yield")
        trace.end()

    return run(work, point)


class Survivor:
    """Another engine, of the same machine, later."""

    def __init__(self, url: str) -> None:
        self.clock = SettableClock()
        self.early: list[str] = []
        self.timer, self.action = Recorder("timer"), Recorder("action")
        self.timer.answer = self._look
        self.action.when_orphaned = "retrigger"
        self.engine = Driven(url, self.clock, (self.timer, self.action))

    def _look(self, deadline):
        if deadline.expires_at > self.clock.utc:
            self.early.append(deadline.key)

    def finish(self) -> list:
        """Live on until nothing is left to do; the rows that are left."""
        end = time.monotonic() + 20
        while True:
            self.clock.advance(5)
            self.engine.beat()
            self.engine.turn()
            self.engine.settle()
            with self.engine.connect() as connection:
                rows = connection.execute(sa.select(D)).all()
            if all(row.state == "parked" for row in rows) or time.monotonic() > end:
                return rows
            if self.clock.monotonic() < 20_000:
                self.clock.advance(600)
            time.sleep(0.01)  # the server ends a dead client's transaction soon


@pytest.fixture
def rows_url(schema_url):
    """A database that can be emptied for each point."""

    def empty() -> str:
        engine = sa.create_engine(schema_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(sa.delete(table))
        return schema_url

    return empty


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_statement_it_dies_at_nothing_is_lost(rows_url, backend, name):
    whole = story(rows_url(), name, None)
    assert not whole.killed and not whole.of("error"), whole
    assert whole.statements
    for point in chosen(len(whole.statements), name, backend):
        url = rows_url()
        died = story(url, name, point)
        where = f"{name}, {point}: {died.statements[-1:]}"
        assert died.killed or "killed" not in point.how, where
        told = died.of("error")
        assert all("DatabaseError" in t or "Away" in t for t in told), (where, told)
        survivor = Survivor(url)
        try:
            check(where, died, survivor, survivor.finish())
        finally:
            survivor.engine.abandon()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_every_method_of_the_store_that_writes_is_in_some_operation(rows_url, backend):
    assert covered.READS <= covered.methods()
    called = set()
    for name in OPERATIONS:
        called |= story(rows_url(), name, None, watched=True).of("called")
    assert called == covered.methods() - covered.READS


def check(where: str, died: Story, survivor: Survivor, left: list) -> None:
    assert all(row.state == "parked" for row in left), (where, left)
    parked = {row.key for row in left}
    done = {*survivor.timer.keys, *survivor.action.keys}
    lost = died.of("armed") - died.of("done") - done - parked
    assert not lost, (where, died)
    assert not survivor.early, (where, died)
    assert not died.of("parked") - parked, (where, died)
    assert not died.of("unparked") - done, (where, died)
    assert not died.of("over") & parked, (where, died)
    for engine_id in died.of("fenced"):
        row = survivor.engine.row(engine_id)
        assert row is None or row.state == "fenced", (where, died)


@pytest.mark.timeout(600)
def test_whatever_statement_a_migration_dies_at_the_next_one_ends_it(
    backend, database_url, _obtain
):
    """MySQL commits before and after each statement that changes a table."""

    def work(trace, tell):
        trace.begin()
        migration.sync(database_url)

    def again() -> None:
        if backend == "sqlite":
            path = sa.make_url(database_url).database
            open(path, "w").close()
        else:
            name = sa.make_url(database_url).database
            _obtain(backend).drop_database(name)
            _obtain(backend).create_database(name)

    whole = run(work, None)
    assert not whole.of("error") and len(whole.statements) > 5
    for point in chosen(len(whole.statements), "migrate", backend):
        again()
        died = run(work, point)
        migration.sync(database_url)
        assert migration.differences(database_url) == [], (point, died)
