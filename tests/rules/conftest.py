"""A fleet of engines driven by hand, on one database and (unless told otherwise) one
clock; made by ``fleet(...)``, gone after the test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from liveness.db import tables
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder

D, E = tables.deadline, tables.engine


class Fleet:
    """Makes engines on one database and looks at its rows."""

    def __init__(self, url: str, clock: Any) -> None:
        self.url = url
        self.clock = clock
        self.engines: list[Driven] = []
        self._look = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
        )

    def __call__(self, *handlers: Any, **options: Any) -> Driven:
        """A new engine on a machine of its own, so that nothing but its silence shows
        that it is dead. Without ``handlers``: one for ``timer``."""
        options.setdefault("clock", self.clock)
        options.setdefault("machine", f"machine-{len(self.engines)}")
        engine = Driven(self.url, handlers=handlers or (Recorder(),), **options)
        self.engines.append(engine)
        return engine

    def rows(self) -> list[Any]:
        """Every deadline's row, by id."""
        return self.execute(sa.select(D).order_by(D.c.id))

    def row(self, key: str) -> Any:
        """The deadline's row of that key, or None."""
        return next((row for row in self.rows() if row.key == key), None)

    def engine_row(self, engine: Driven) -> Any:
        rows = self.execute(sa.select(E).where(E.c.id == engine.id))
        return rows[0] if rows else None

    def execute(self, statement: Any) -> list[Any]:
        """What an operator, or another release, does to the tables; or a look."""
        with self._look.connect() as connection:
            result = connection.execute(statement)
            return list(result) if result.returns_rows else []

    def live(self, seconds: float, *engines: Driven, step: float = 2.0) -> None:
        """Let so much time pass in which ``engines`` beat and sweep regularly."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 1e-9:
            self.clock.advance(min(step, left))
            for engine in engines:
                engine.beat()
                engine.turn()

    def bury(self, dead: Driven) -> None:
        """Fence an engine, as an operator can."""
        self.execute(
            sa.update(E)
            .where(E.c.id == dead.id)
            .values(state="fenced", ended_at=self.clock.utc)
        )

    def kill(self, engine: Driven) -> None:
        """What a SIGKILL leaves behind, and that the others know it."""
        engine.abandon()
        self.engines.remove(engine)
        self.bury(engine)

    def close(self) -> None:
        while self.engines:
            engine = self.engines.pop()
            engine.abandon()
            engine.parts.runner.spend_all()
        self._look.dispose()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def quick_url(sqlite_template: Path) -> Iterator[str]:
    """An SQLite database with the tables and no rows, without walking migrations; in
    memory where there is such a place, for nothing here depends on a disk."""
    memory = "/dev/shm"
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="liveness-", dir=where) as folder:
        path = Path(folder, "liveness.db")
        shutil.copy(sqlite_template, path)
        yield f"sqlite:///{path}"


@pytest.fixture
def fleet(quick_url: str, clock: SettableClock) -> Iterator[Fleet]:
    """Engines on SQLite."""
    made = Fleet(quick_url, clock)
    yield made
    made.close()


@pytest.fixture(scope="session")
def _schemas() -> dict[str, str]:
    """The URL of one database with the tables on each server, made when first asked
    for; it goes when the server does."""
    return {}


@pytest.fixture
def every_fleet(
    backend: str,
    clock: SettableClock,
    _schemas: dict[str, str],
    request: pytest.FixtureRequest,
) -> Iterator[Fleet]:
    """Engines on each of the three databases."""
    if backend == "sqlite":
        url = request.getfixturevalue("quick_url")
    else:
        server = request.getfixturevalue(backend)
        if backend not in _schemas:
            _schemas[backend] = server.create_schema("liveness_rules")
        url = _schemas[backend]
    made = Fleet(url, clock)
    yield made
    made.close()
    for table in (D, E):
        made.execute(sa.delete(table))
