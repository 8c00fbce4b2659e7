"""One database per kind for the whole run, emptied before each test.

A fresh one for each of several hundred tests would cost more than the tests.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from liveness.clock import Clock
from liveness.db import migration, tables
from liveness.db.arming import NewDeadline
from liveness.db.claims import Claims
from liveness.db.connection import Database
from liveness.db.deadlines import Deadlines
from liveness.db.engines import Engines
from liveness.db.finding import Finder, Found, Scope, Since
from liveness.db.rows import new_token
from liveness.model import Deadline, Engine, EngineState
from tests.clock import SettableClock

D = tables.deadline
E = tables.engine

ME = "me"


def engine_value(engine_id: str, **fields: Any) -> Engine:
    """What an engine of that id registers with."""
    values: dict[str, Any] = {
        "id": engine_id,
        "token": 7,
        "host": "host",
        "pid": 1,
        "process_start": None,
        "boot_id": None,
        "namespaces": None,
        "binary": "test",
        "version": "0",
        "state": EngineState.LIVE,
        "started_at": None,
        "beat_seq": 1,
        "beat_at": None,
        "ttl": 30.0,
        "ended_at": None,
        "fenced_by": None,
        "fence_evidence": None,
    }
    return Engine(**{**values, **fields})


class Store:
    """A database with the tables, and what writes to it, on a clock of the test's.

    Its connections give up a wait for a lock after a second: nothing here may have
    to wait for one.
    """

    def __init__(
        self, url: str, clock: Any, timeout: float = 5.0, patient: bool = False
    ) -> None:
        self.url = url
        self.clock = clock
        self.database = Database(url, timeout)
        self.backend = self.database.backend
        self.pool = self.database.pool(20)
        if not patient:
            sa.event.listen(self.pool, "connect", self._hurry)
        self.engines = Engines(self.clock)
        self.deadlines = Deadlines(self.clock)
        self.claims = Claims(self.clock, self.engines)

    def connect(self) -> sa.Connection:
        return self.pool.connect()

    def _hurry(self, dbapi_connection: Any, record: Any) -> None:
        hurry = {
            "mysql": "SET SESSION innodb_lock_wait_timeout = 1, lock_wait_timeout = 1",
            "postgresql": "SET lock_timeout = '1s'",
            "sqlite": "PRAGMA busy_timeout = 1000",
        }
        cursor = dbapi_connection.cursor()
        cursor.execute(hurry[self.backend])
        cursor.close()

    def close(self) -> None:
        self.database.close()

    def clear(self) -> None:
        with self.connect() as connection:
            connection.execute(sa.delete(D))
            connection.execute(sa.delete(E))

    # --- engines --------------------------------------------------------------

    def engine(self, engine_id: str, **fields: Any) -> Engine:
        """Register a live engine; the value as its row shows it."""
        with self.connect() as connection:
            self.engines.register(connection, engine_value(engine_id, **fields))
        return self.engine_row(engine_id)

    def fenced(self, engine_id: str) -> Engine:
        engine = self.engine(engine_id)
        with self.connect() as connection:
            assert self.engines.fence(connection, engine, "tester", "silent")
        return self.engine_row(engine_id)

    def stopped(self, engine_id: str) -> Engine:
        self.engine(engine_id)
        with self.connect() as connection:
            assert self.engines.resign(connection, engine_id)
        return self.engine_row(engine_id)

    def draining(self, engine_id: str) -> Engine:
        self.engine(engine_id)
        with self.connect() as connection:
            self.engines.set_draining(connection, engine_id)
        return self.engine_row(engine_id)

    def engine_row(self, engine_id: str) -> Engine:
        with self.connect() as connection:
            engine = self.engines.get(connection, engine_id)
        assert engine is not None
        return engine

    def set_engine(self, engine_id: str, **values: Any) -> None:
        """Change an engine's row behind everybody's back."""
        with self.connect() as connection:
            connection.execute(sa.update(E).where(E.c.id == engine_id).values(values))

    # --- deadlines ------------------------------------------------------------

    def new(
        self,
        key: str = "k",
        owner: str = ME,
        due: float | datetime = 0.0,
        kind: str = "timer",
        payload: str | None = None,
        max_attempts: int = 5,
        **fields: Any,
    ) -> NewDeadline:
        token = fields.pop("token", None) or new_token()
        return NewDeadline(kind, key, owner, due, max_attempts, payload, token)

    def arm(self, key: str = "k", **fields: Any) -> Deadline:
        with self.connect() as connection:
            return self.deadlines.arm(connection, self.new(key, **fields))

    def arm_many(self, *news: NewDeadline) -> list[Deadline]:
        with self.connect() as connection:
            return self.deadlines.arm_many(connection, news)

    def released(self, key: str = "k", **fields: Any) -> Deadline:
        """An armed row without an owner."""
        value = self.arm(key, **fields)
        with self.connect() as connection:
            assert self.deadlines.release(connection, value, 55, "")
        return self.row(key, value.kind)

    def claimed(self, key: str = "k", owner: str = ME, **fields: Any) -> Deadline:
        value = self.arm(key, owner=owner, **fields)
        with self.connect() as connection:
            (claimed,) = self.claims.claim_own(connection, owner, [value])
        return claimed

    def claimed_at_once(self, *keys: str) -> list[Deadline]:
        """By one statement: their tokens are made of one number."""
        values = self.arm_many(*(self.new(key, due=0.0) for key in keys))
        with self.connect() as connection:
            return self.claims.claim_own(connection, ME, values)

    def parked(self, key: str = "k", reason: str = "why", **fields: Any) -> Deadline:
        value = self.arm(key, **fields)
        with self.connect() as connection:
            assert self.deadlines.park(connection, value, 56, reason)
        return self.row(key, value.kind)

    def find(self, key: str = "k", kind: str = "timer") -> Deadline | None:
        with self.connect() as connection:
            return self.deadlines.find(connection, kind, key)

    def row(self, key: str = "k", kind: str = "timer") -> Deadline:
        found = self.find(key, kind)
        assert found is not None
        return found

    def keys(self) -> list[str]:
        with self.connect() as connection:
            return list(
                connection.execute(sa.select(D.c.key).order_by(D.c.key)).scalars()
            )

    def set_row(self, deadline: Deadline, **values: Any) -> None:
        """Change a deadline's row behind everybody's back."""
        with self.connect() as connection:
            connection.execute(sa.update(D).where(D.c.id == deadline.id).values(values))

    def find_work(
        self,
        dead: Sequence[str] = (),
        offset: int = 0,
        me: str = ME,
        since: Since | None = None,
        **scope: Any,
    ) -> Found:
        """What there is to do for ``me``, found alone and beside the engines; its own
        horizon is 3 s, the head start of others 6 s."""
        values: dict[str, Any] = {
            "horizon": 3.0,
            "grace": 6.0,
            "kinds": ("timer",),
            "unknown_grace": 60.0,
            "limit": 100,
            "own_limit": 100,
        }
        finder, asked = Finder(self.clock, me), Scope(**{**values, **scope})
        question = finder.question(asked, dead, offset, since)
        with self.connect() as connection:
            found = finder.find(connection, question)
            beside = self.engines.observe(connection, me, 10, question).found
        assert beside == found
        return found

    # --- the host program -----------------------------------------------------

    @contextlib.contextmanager
    def host(self, isolation: str | None = None) -> Iterator[sa.Connection]:
        """A connection as a host program has it: its own engine, transactions by
        default, ``isolation`` or the server's default, none of our settings."""
        options = {} if isolation is None else {"isolation_level": isolation}
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, **options)
        with engine.connect() as connection:
            yield connection


@pytest.fixture(scope="session")
def _store_url(_obtain, tmp_path_factory) -> Iterator[Callable[[str], str]]:
    urls: dict[str, str] = {}

    def obtain(backend: str) -> str:
        if backend not in urls:
            if backend == "sqlite":
                folder = tmp_path_factory.mktemp("store")
                urls[backend] = f"sqlite:///{folder}/store.db"
                migration.sync(urls[backend])
            else:
                name = f"store_{uuid.uuid4().hex[:12]}"
                urls[backend] = _obtain(backend).create_schema(name)
        return urls[backend]

    yield obtain


@pytest.fixture
def store_url(backend: str, _store_url) -> str:
    """The URL of a database with the tables, shared by the tests of this folder, for an
    engine's user."""
    return _store_url(backend)


@pytest.fixture(scope="session")
def _stores() -> Iterator[dict[tuple[str, bool], Store]]:
    stores: dict[tuple[str, bool], Store] = {}
    yield stores
    for store in stores.values():
        store.close()


def _emptied(stores: dict[tuple[str, bool], Store], url: str, real: bool) -> Store:
    # Kept from test to test: compiling the statements again costs more than running
    # them.
    if (url, real) not in stores:
        stores[url, real] = Store(url, Clock() if real else SettableClock())
    store = stores[url, real]
    if not real:
        store.clock.__init__()
    store.clear()
    return store


@pytest.fixture
def store(store_url: str, _stores) -> Store:
    """A store on a clock that the test moves, with no rows."""
    return _emptied(_stores, store_url, False)


@pytest.fixture
def patient(store: Store) -> Iterator[Store]:
    """The same rows and the same clock, through connections that wait for locks, and
    that the server lets wait, for half a minute."""
    made = Store(store.url, store.clock, timeout=30.0, patient=True)
    yield made
    made.close()


@pytest.fixture
def real_store(store_url: str, _stores) -> Store:
    """The same on the database's own clock."""
    return _emptied(_stores, store_url, True)


@pytest.fixture(params=["one", "several", "at once"])
def done(request, store: Store) -> list[Deadline]:
    """Claimed deadlines: by a statement each, or by one for all."""
    if request.param == "at once":
        return store.claimed_at_once("done0", "done1", "done2")
    return [
        store.claimed(f"done{n}") for n in range(3 if request.param == "several" else 1)
    ]
