"""Databases for the tests: SQLite files, and private real servers.

`backend` runs a test once per database. A server starts when the first test asks
for it and ends with the run; under pytest-xdist each worker has its own. One that
cannot be had skips its tests aloud, and fails them where LIVENESS_REQUIRE_SERVERS
is set.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests import servers

# A shell that runs this in its background has SIGINT ignored, here and in all children.
signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = ("sqlite", "mariadb", "postgresql")
_CLASSES = {"mariadb": servers.MariaDB, "postgresql": servers.PostgreSQL}
_MISSING = "NO SERVER: "


def _required() -> bool:
    return os.environ.get("LIVENESS_REQUIRE_SERVERS", "") not in ("", "0")


def lacking(reason: str) -> NoReturn:
    """Skip this test aloud, or fail it where nothing may be lacking."""
    if _required():
        pytest.fail(_MISSING + reason, pytrace=False)
    pytest.skip(_MISSING + reason)


@pytest.fixture(scope="session")
def _obtain() -> Iterator[Callable[[str], servers.Server]]:
    started: dict[str, servers.Server] = {}
    missing: dict[str, str] = {}

    def obtain(backend: str) -> servers.Server:
        if backend not in started and backend not in missing:
            cls = _CLASSES[backend]
            reason = cls.available()
            if reason is None:
                server = cls()
                try:
                    server.start()
                    started[backend] = server
                except servers.ServerError as exc:
                    reason = str(exc)
            if reason is not None:
                missing[backend] = _MISSING + reason
        if backend in missing:
            if _required():
                pytest.fail(missing[backend], pytrace=False)
            pytest.skip(missing[backend])
        return started[backend]

    try:
        yield obtain
    finally:
        for server in started.values():
            server.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def _lent(server: servers.Server) -> Iterator[servers.Server]:
    server.restore()
    yield server
    server.restore()


@pytest.fixture
def mariadb(_obtain) -> Iterator[servers.Server]:
    """The MariaDB server. A test may stop, kill or pause it: it is restored."""
    yield from _lent(_obtain("mariadb"))


@pytest.fixture
def postgresql(_obtain) -> Iterator[servers.Server]:
    """The PostgreSQL server. A test may stop, kill or pause it: it is restored."""
    yield from _lent(_obtain("postgresql"))


@pytest.fixture
def server(backend: str, request: pytest.FixtureRequest) -> servers.Server | None:
    """The server behind `database_url`; None for SQLite, which has none."""
    return None if backend == "sqlite" else request.getfixturevalue(backend)


def _fresh_url(server: servers.Server) -> Iterator[str]:
    name = f"liveness_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield server.url(name)
    server.restore()
    server.drop_database(name)


def _fresh_schema(server: servers.Server) -> Iterator[str]:
    name = f"liveness_{uuid.uuid4().hex[:12]}"
    yield server.create_schema(name)
    server.restore()
    server.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/liveness.db"


@pytest.fixture
def mariadb_url(mariadb) -> Iterator[str]:
    yield from _fresh_url(mariadb)


@pytest.fixture
def postgresql_url(postgresql) -> Iterator[str]:
    yield from _fresh_url(postgresql)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, empty database on `backend`, for the user who owns it."""
    return request.getfixturevalue(f"{backend}_url")


@pytest.fixture
def schema_url(request: pytest.FixtureRequest, backend: str) -> str:
    """The URL of a fresh database that has the tables and no rows, for an engine's
    user: one that has the rights that the documentation names, and no other."""
    return request.getfixturevalue(f"{backend}_schema_url")


@pytest.fixture
def owned_url(schema_url: str, server: servers.Server | None) -> str:
    """The same database as `schema_url`, for the user who may change its tables."""
    if server is None:
        return schema_url
    return server.url(schema_url.rpartition("/")[2].partition("?")[0])


@pytest.fixture
def sqlite_schema_url(synced: str) -> str:
    return synced


@pytest.fixture
def mariadb_schema_url(mariadb) -> Iterator[str]:
    yield from _fresh_schema(mariadb)


@pytest.fixture
def postgresql_schema_url(postgresql) -> Iterator[str]:
    yield from _fresh_schema(postgresql)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database that has the tables and no rows, to be copied: quicker than
    to walk through the migrations once more."""
    from liveness.db import migration

    path = tmp_path_factory.mktemp("template") / "template.db"
    migration.sync(f"sqlite:///{path}")
    return path


@pytest.fixture
def synced(sqlite_url: str, sqlite_template: Path) -> str:
    """The URL of a fresh SQLite database that has the tables and no rows."""
    shutil.copy(sqlite_template, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture(autouse=True)
def _no_command_outlives_its_test() -> Iterator[None]:
    yield
    commands = sys.modules.get("tests.commands")
    for command in list(commands.Command.running) if commands else ():
        command.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            _, _, reason = report.longrepr
            if _MISSING in reason:
                counts[reason.partition(_MISSING)[2]] += 1
    for reason, count in counts.items():
        terminalreporter.write_line(
            f"NOT RUN: {count} tests for want of {reason}", yellow=True, bold=True
        )
