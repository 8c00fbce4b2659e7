"""Databases that have the tables, and an engine driven by hand on one."""

from __future__ import annotations

import pytest

from liveness.db import migration
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder
from tests.test_migrations import run


@pytest.fixture(scope="module")
def shared_url(_obtain, tmp_path_factory):
    """One schema of each database for all tests that only write rows."""
    urls, name = {}, "liveness_bad_input"

    def url_of(backend):
        if backend not in urls:
            if backend == "sqlite":
                urls[backend] = f"sqlite:///{tmp_path_factory.mktemp('bad')}/shared.db"
                migration.sync(urls[backend])
            else:
                urls[backend] = _obtain(backend).create_schema(name)
        return urls[backend]

    yield url_of
    for backend in urls:
        if backend != "sqlite":
            _obtain(backend).drop_database(name)


@pytest.fixture
def rows_url(backend, shared_url):
    """The URL of a database that has the tables and no rows."""
    url = shared_url(backend)
    run(url, "DELETE FROM liveness_deadline", "DELETE FROM liveness_engine")
    return url


@pytest.fixture
def driven(rows_url):
    driven = Driven(rows_url, SettableClock(), (Recorder(),))
    yield driven
    driven.abandon()


@pytest.fixture
def local(sqlite_url):
    migration.sync(sqlite_url)
    driven = Driven(sqlite_url, SettableClock(), (Recorder(),))
    yield driven
    driven.abandon()
