"""Private servers with durable settings, and fresh databases on them.

The servers are those of the tests, which leave out the fsync; here it is on, and what
is committed is on the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liveness.db import migration
from tests import servers

CONNECTIONS = 2600


class MariaDB(servers.MariaDB):
    """Every commit is flushed; a buffer pool that holds a million rows."""

    settings = (
        "--innodb-flush-log-at-trx-commit=1",
        "--innodb-buffer-pool-size=1G",
        "--innodb-log-file-size=512M",
        f"--max-connections={CONNECTIONS}",
        "--thread-cache-size=256",
        "--open-files-limit=8192",
    )

    def _command(self) -> list[str]:
        return [*super()._command(), *self.settings]


class PostgreSQL(servers.PostgreSQL):
    """Every commit is flushed; statements are counted."""

    settings = (
        "--fsync=on",
        "--synchronous_commit=on",
        "--shared_buffers=512MB",
        "--max_wal_size=4GB",
        f"--max_connections={CONNECTIONS}",
        "--shared_preload_libraries=pg_stat_statements",
        "--pg_stat_statements.track=top",
    )

    def _command(self) -> list[str]:
        return [*super()._command(), *self.settings]


class SQLite:
    """No server: a folder for its files, on a disk."""

    label = "SQLite"
    settings = ("journal_mode = WAL", "synchronous = FULL")

    def start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="liveness-sqlite-")

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str) -> str:
        return f"sqlite:///{self.folder}/{name}.db"

    def create_database(self, name: str) -> None:
        """The first connection makes it."""

    def drop_database(self, name: str) -> None:
        for path in Path(self.folder).glob(f"{name}.db*"):
            path.unlink()

    @classmethod
    def available(cls) -> str | None:
        return None


KINDS: dict[str, Any] = {
    "mariadb": MariaDB,
    "postgresql": PostgreSQL,
    "sqlite": SQLite,
}


@dataclasses.dataclass(frozen=True)
class Place:
    """A database of its own on one server, with the program's tables and no rows."""

    database: str
    url: str
    server: Any

    def __str__(self) -> str:
        return self.database

    @property
    def name(self) -> str:
        """The database's name on its server."""
        return self.url.rpartition("/")[2].partition("?")[0]


class Servers:
    """Servers by name, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The running server of that name.

        :raises servers.ServerError: it cannot be had here; the text says why.
        """
        if name not in self._running:
            kind = KINDS[name]
            missing = kind.available()
            if missing:
                raise servers.ServerError(missing)
            server = kind()
            server.start()
            self._running[name] = server
            if name == "postgresql":
                # Into the template, for every database to have it.
                server.admin("CREATE EXTENSION pg_stat_statements", "template1")
        return self._running[name]

    @contextlib.contextmanager
    def place(self, name: str, tables: bool = True) -> Iterator[Place]:
        """A fresh database for the block."""
        server = self.get(name)
        database = f"bench_{uuid.uuid4().hex[:10]}"
        server.create_database(database)
        url = server.url(database)
        try:
            if tables:
                migration.sync(url)
            yield Place(name, url, server)
        finally:
            server.drop_database(database)

    def close(self) -> None:
        for server in self._running.values():
            server.close()
        self._running.clear()
