"""One server, or a file: MariaDB, PostgreSQL and SQLite under chaos."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable

from sqlalchemy.engine import make_url

from tests import servers
from tests.chaos.database import Database
from tests.chaos.engine_faults import CLOCKS
from tests.chaos.faults import DATABASE, Do, Fault, Kind
from tests.chaos.link import Link
from tests.chaos.quota import OnQuota

NAME = "chaos"
FEW = 3
"""Connections that all engines together may have when there are too few."""

ERRORS = 20
"""Lines of a server's log that are shown when it has broken."""


class MariaDBOnQuota(OnQuota, servers.MariaDB):
    megabytes = 224

    def _settings(self) -> list[str]:
        small = ["--innodb-log-file-size=16M", "--innodb-buffer-pool-size=48M"]
        return [*super()._settings(), *small]

    def limit(self, connections: int | None) -> None:
        """How many connections the engines may have; None: as many as they like."""
        self.admin(
            f"ALTER USER '{self.user}'@'%' WITH MAX_USER_CONNECTIONS {connections or 0}"
        )

    def version(self) -> str:
        return str(self.admin("SELECT VERSION()")[0][0])

    def errors(self) -> list[str]:
        """The last of what the server's log calls errors."""
        with open(self._path("server.log"), errors="replace") as file:
            return [line.strip() for line in file if "[ERROR]" in line][-ERRORS:]


class PostgreSQLOnQuota(OnQuota, servers.PostgreSQL):
    megabytes = 160

    def limit(self, connections: int | None) -> None:
        """How many connections the engines may have; None: as many as they like."""
        most = -1 if connections is None else connections
        self.admin(f'ALTER ROLE "{self.user}" CONNECTION LIMIT {most}')

    def version(self) -> str:
        return str(self.admin("SHOW server_version")[0][0])


class Single(Database):
    """One server, with a link to it for each engine."""

    server_class: Callable[[], MariaDBOnQuota | PostgreSQLOnQuota]

    def start(self) -> None:
        self.server = self.server_class()
        self.label = self.server.label
        self.server.start()
        self.server.create_database(NAME)
        self.links = [Link("127.0.0.1", self.server.port) for _ in range(self.slots)]

    def close(self) -> None:
        super().close()
        if hasattr(self, "server"):
            self.server.close()

    def urls(self) -> list[str]:
        url = make_url(self.server.url(NAME))
        return [
            url.set(port=link.port).render_as_string(hide_password=False)
            for link in self.links
        ]

    def direct_url(self) -> str:
        return self.server.url(NAME)

    def versions(self) -> dict[str, str]:
        return {self.label: self.server.version()}

    def unavailable(self) -> dict[str, str]:
        if self.server.quota:
            return {}
        return {"full disk": "a tmpfs cannot be mounted here (run as root)"}

    def heal(self) -> None:
        self.server.empty()
        self.server.restore()
        self.server.limit(None)
        super().heal()

    def faults(self) -> dict[str, Kind]:
        kinds = {
            "database restart": Kind(DATABASE, 1, 0.0, 0.0, self._restart),
            "database kill -9": Kind(DATABASE, 1, 0.0, 1.5, self._kill),
            "database stop": Kind(DATABASE, 1.5, 0.2, 2.0, self._stop),
            "few connections": Kind(DATABASE, 1, 0.5, 2.0, self._few),
        }
        if self.server.quota:
            kinds["full disk"] = Kind(DATABASE, 1, 0.5, 2.0, self._full)
        return {**super().faults(), **kinds}

    def _restart(self, fault: Fault, rng: random.Random) -> Do:
        return Do(self.server.restart)

    def _kill(self, fault: Fault, rng: random.Random) -> Do:
        return Do(self.server.kill, self.server.start)

    def _stop(self, fault: Fault, rng: random.Random) -> Do:
        return Do(self.server.pause, self.server.resume)

    def _few(self, fault: Fault, rng: random.Random) -> Do:
        def begin() -> None:
            self.server.limit(FEW)
            for link in self.links:
                link.cut()

        return Do(begin, lambda: self.server.limit(None))

    def _full(self, fault: Fault, rng: random.Random) -> Do:
        def heal() -> None:
            self.server.empty()
            self.server.restore()

        return Do(self.server.fill, heal)


class MariaDB(Single):
    server_class = MariaDBOnQuota

    def corrupt(self) -> list[str]:
        """A full disk may leave InnoDB with an index that does not fit its table."""
        names = [str(row[0]) for row in self.server.admin(f"SHOW TABLES FROM {NAME}")]
        rows = [
            row
            for name in names
            for row in self.server.admin(f"CHECK TABLE {NAME}.{name}")
            if row[-1] != "OK"
        ]
        return [": ".join(map(str, row)) for row in rows] + (
            self.server.errors() if rows else []
        )


class PostgreSQL(Single):
    server_class = PostgreSQLOnQuota


class SQLite(Database):
    """A file. Its faults are those of the engines, and somebody who keeps its lock."""

    label = "SQLite"

    def start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="liveness-chaos-")

    def close(self) -> None:
        super().close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def urls(self) -> list[str]:
        return [self.direct_url()] * self.slots

    def direct_url(self) -> str:
        return f"sqlite:///{self.folder}/chaos.db"

    def versions(self) -> dict[str, str]:
        return {self.label: sqlite3.sqlite_version}

    def unavailable(self) -> dict[str, str]:
        reason = "an engine's time of day is the database's: it tells the time itself"
        return dict.fromkeys(CLOCKS, reason)

    def faults(self) -> dict[str, Kind]:
        return {"locked": Kind(DATABASE, 2, 0.1, 1.5, self._lock)}

    def _lock(self, fault: Fault, rng: random.Random) -> Do:
        locks: list[sqlite3.Connection] = []

        def begin() -> None:
            lock = sqlite3.connect(
                f"{self.folder}/chaos.db",
                isolation_level=None,
                timeout=5,
                check_same_thread=False,
            )
            locks.append(lock)
            lock.execute("BEGIN IMMEDIATE")

        def heal() -> None:
            for lock in locks:
                with contextlib.suppress(sqlite3.Error):
                    lock.execute("ROLLBACK")
                lock.close()

        return Do(begin, heal)


SINGLES: dict[str, type[Database]] = {
    "mariadb": MariaDB,
    "postgresql": PostgreSQL,
    "sqlite": SQLite,
}
