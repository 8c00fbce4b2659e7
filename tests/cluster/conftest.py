"""A Galera cluster and a PostgreSQL pair, started once, whole again for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from liveness import Handler
from liveness.db import migration
from tests import conftest
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder
from tests.galera import Galera
from tests.servers import ServerError
from tests.standby import Pair
from tests.store.conftest import Store
from tests.store.proxy import Proxy

NAME = "cluster"

LONG = pytest.mark.skipif(
    os.environ.get("LIVENESS_CLUSTER") != "long",
    reason="only with LIVENESS_CLUSTER=long",
)
"""What takes its time, and is not the only test of its rule: `make cluster`."""


def _begun(cls: type) -> Iterator[object]:
    """The servers of ``cls`` with the tables on them; or skipped, aloud."""
    reason = cls.available()
    made = cls()
    if reason is None:
        try:
            made.start()
        except ServerError as error:
            reason = str(error)
    if reason is not None:
        if conftest._required():
            pytest.fail(conftest._MISSING + reason, pytrace=False)
        pytest.skip(conftest._MISSING + reason)
    try:
        made.create_database(NAME)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def _galera() -> Iterator[Galera]:
    for galera in _begun(Galera):
        migration.sync(galera[0].url(NAME))
        yield galera


@pytest.fixture
def galera(_galera: Galera) -> Galera:
    """Three nodes. A test may do to them what it likes: the next one restores them."""
    _galera.restore()
    return _galera


@pytest.fixture(scope="session")
def _pair() -> Iterator[Pair]:
    for pair in _begun(Pair):
        migration.sync(pair.url(NAME))
        yield pair


@pytest.fixture
def pair(_pair: Pair) -> Pair:
    """A primary and its standby. The next test restores them, in whatever roles."""
    _pair.restore()
    return _pair


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def stores(galera: Galera, clock: SettableClock) -> Iterator[list[Store]]:
    """The same empty tables by way of each node, on one clock that the test moves."""
    made = [Store(url, clock, timeout=5.0) for url in galera.urls(NAME)]
    made[0].clear()
    yield made
    for store in made:
        store.close()


class Fleet:
    """Engines driven by hand on one clock, each on a machine of its own, by way of a
    node or of an address before the nodes."""

    def __init__(self, galera: Galera, clock: SettableClock) -> None:
        self.clock = clock
        self._urls = galera.urls(NAME)
        self._engines: list[Driven] = []

    def __call__(
        self,
        *what: int | Handler,
        proxy: Proxy | None = None,
        timeout: float = 5.0,
    ) -> Driven:
        number = next((w for w in what if isinstance(w, int)), 0)
        handlers = tuple(w for w in what if not isinstance(w, int))
        url = sa.make_url(self._urls[number])
        if proxy is not None:
            url = url.difference_update_query(["unix_socket"]).set(port=proxy.port)
        engine = Driven(
            url.render_as_string(hide_password=False),
            self.clock,
            handlers or (Recorder(),),
            machine=f"machine-{len(self._engines)}",
            database_timeout=timeout,
        )
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            engine.abandon()


@pytest.fixture
def fleet(stores: list[Store], galera: Galera, clock: SettableClock) -> Iterator[Fleet]:
    made = Fleet(galera, clock)
    yield made
    made.close()


def needs_clocks(galera: Galera) -> None:
    """Skip where no server's clock can be moved."""
    if galera.clock_library is None:
        reason = conftest._MISSING + "libfaketime (apt-get install libfaketime)"
        if os.environ.get("LIVENESS_REQUIRE_SERVERS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
