"""Private database servers for the tests.

Each server lives in a folder of its own under the temporary directory, listens
on 127.0.0.1 on a free port and keeps that port over a restart. A crash of the
server (``kill``) loses nothing that was committed: the servers leave out the
fsync, not the write.

MariaDB and PostgreSQL only. Oracle's MySQL is not started by the suite.
"""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import pwd
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any
from urllib.parse import quote

from tests.proc import Process, gone, until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RIGHTS = os.path.join(ROOT, "doc/source/databases.rst")

START_SECONDS = 60
STOP_SECONDS = 30


class ServerError(Exception):
    pass


def _free_port() -> int:
    # Below the ephemeral range: a client that keeps trying a port of that range
    # while its server is down can connect to itself, and then own the port.
    for _ in range(200):
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError("no free port between 20000 and 32000")


def _program(name: str, *folders: str) -> str | None:
    # Debian leaves /usr/sbin out of an ordinary user's PATH.
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(
        name, path=os.pathsep.join([*folders, path, "/usr/sbin", "/usr/local/sbin"])
    )


def _name(value: str) -> str:
    if not value.replace("_", "").isalnum():
        raise ValueError(f"not a plain database name: {value!r}")
    return value


class Server:
    """One server: made by ``start``, gone with its folder after ``close``.

    Between the two it may be stopped, killed, paused and started again at will;
    port, users and data stay.
    """

    label: str
    install: str
    driver: str
    options = ""
    user = "liveness"
    """Owns the databases: it may make tables, as the user of `db sync` does."""
    engine = "engine"
    """Has the rights that doc/source/databases.rst lists, and no other."""
    password = "not-a-secret-9c1f"
    max_connections = 300

    def __init__(self) -> None:
        self.folder: str | None = None
        self.port = 0
        self._popen: subprocess.Popen | None = None
        self._watcher: subprocess.Popen | None = None

    # What a kind of server has to say.

    @classmethod
    def available(cls) -> str | None:
        """None, or why this server cannot be had and what to install."""
        raise NotImplementedError

    def admin(self, sql: str, database: str | None = None) -> list[tuple]:
        """Run one statement as the superuser, and return its rows."""
        raise NotImplementedError

    def create_database(self, name: str) -> None:
        raise NotImplementedError

    def drop_database(self, name: str) -> None:
        """Drop it, and whoever is still connected to it."""
        raise NotImplementedError

    def grants(self, name: str) -> list[str]:
        """The statements of the documentation that give an engine's user its rights on
        the tables of a database."""
        with open(RIGHTS, encoding="utf-8") as file:
            blocks = re.findall(r"code-block:: sql\n\n((?: {3}.*\n)+)", file.read())
        ours = f"TO {self._quoted_engine}"
        statements = [s.strip() for block in blocks for s in block.split(";")]
        return [s.replace("shop.", f"`{name}`.") for s in statements if ours in s]

    _quoted_engine: str

    def create_schema(self, name: str) -> str:
        """Make a database that has the tables; the URL of an engine's user."""
        if not self._template:
            from liveness.db import migration

            self._template = "liveness_template"
            self.create_database(self._template)
            migration.sync(self.url(self._template))
            self._grant(self._template)
        self._copy(self._template, name)
        return self.url(name, user=self.engine)

    _template = ""

    def _grant(self, name: str) -> None:
        for grant in self.grants(name):
            self.admin(grant, name)

    def _copy(self, template: str, name: str) -> None:
        """Make a database like `template`, rights and all: quicker than to walk through
        the migrations once more."""
        raise NotImplementedError

    def _initialise(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _create_user(self) -> None:
        raise NotImplementedError

    _stop_signal: int
    _abort_signal: int

    def _run_as(self) -> dict[str, Any]:
        """How ``subprocess`` has to start it: as whom, with which environment."""
        return {}

    def _check_ready(self) -> None:
        """Raise unless it does its work."""
        self.admin("SELECT 1")

    # What is the same for all.

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{self.label} on 127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def process(self) -> Process:
        assert self._popen is not None, f"{self.label} is not running"
        return Process.of(self._popen.pid)

    def url(
        self, name: str = "", user: str | None = None, password: str | None = None
    ) -> str:
        user = quote(self.user if user is None else user, safe="")
        password = quote(self.password if password is None else password, safe="")
        return (
            f"{self.driver}://{user}:{password}@127.0.0.1:{self.port}"
            f"/{name}{self.options}"
        )

    def start(self) -> None:
        if self.running:
            return
        first = self.folder is None
        if first:
            self._make_folder()
        try:
            if first:
                self._initialise()
            self._launch()
            if first:
                self._create_user()
        except BaseException:
            if first:
                self.close()
            raise

    def stop(self) -> None:
        """Stop cleanly: sessions are cut off, the data is flushed."""
        self.resume()
        if not self._end(self._stop_signal, STOP_SECONDS):
            self.kill()

    def kill(self) -> None:
        self._end(signal.SIGKILL, STOP_SECONDS)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: it neither answers nor closes a connection."""
        process = self.process
        # The postmaster first: a stopped one starts no more children.
        process.send(signal.SIGSTOP)
        until(lambda: process.state in (None, "T"), STOP_SECONDS)
        family = process.family()
        for member in family:
            member.send(signal.SIGSTOP)
        if not until(lambda: all(p.state in (None, "T") for p in family), 10):
            raise ServerError(f"{self} cannot be paused")

    def resume(self) -> None:
        if self.running:
            for member in reversed(self.process.family()):
                member.send(signal.SIGCONT)

    def restore(self) -> None:
        """Whatever a test did to the server: have it running and answering."""
        if self.running:
            self.resume()
            self._wait_ready()
        else:
            self.start()

    def close(self) -> None:
        """End it for good and remove its folder."""
        self.resume()
        if not self._end(self._abort_signal, 5):
            self.kill()
        atexit.unregister(self._close_at_exit)
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def log_tail(self, lines: int = 20) -> str:
        try:
            with open(self._path("server.log"), errors="replace") as file:
                return "".join(file.readlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def _path(self, *names: str) -> str:
        assert self.folder is not None
        return os.path.join(self.folder, *names)

    def _make_folder(self) -> None:
        self.folder = tempfile.mkdtemp(prefix=f"liveness-{self.label.lower()}-")
        self.port = _free_port()
        self._owner = os.getpid()
        atexit.register(self._close_at_exit)
        run_as = self._run_as()
        if "user" in run_as:
            os.chown(self.folder, run_as["user"], run_as["group"])
        # SIGKILL runs no atexit, and PR_SET_PDEATHSIG goes by the thread that
        # started the server and is lost with a change of user. A process that
        # waits for the end of this one has neither weakness.
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "tests.servers", str(self._owner), self.folder],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _close_at_exit(self) -> None:
        # A child forked by a test has inherited this hook, not the server.
        if os.getpid() == self._owner:
            self.close()

    def _initialise_with(self, command: list[str]) -> None:
        result = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=START_SECONDS,
            **self._run_as(),
        )
        if result.returncode:
            raise ServerError(
                f"{self.label}: {command[0]} failed with {result.returncode}:\n"
                + result.stdout[-2000:]
            )

    def _launch(self) -> None:
        with open(self._path("server.log"), "ab") as log:
            self._popen = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._run_as(),
            )
        process = self.process
        with open(self._path("watched"), "w") as file:
            file.write(f"{process.pid} {process.started} {self._abort_signal:d}")
        self._wait_ready()

    def _wait_ready(self) -> None:
        last = "it did not answer"

        def ready() -> bool:
            nonlocal last
            if not self.running:
                return True
            try:
                self._check_ready()
            except Exception as exc:
                last = str(exc).strip()
                return False
            return True

        answered = until(ready, START_SECONDS)
        if answered and self.running:
            return
        if not self.running:
            assert self._popen is not None
            last = f"it ended with {self._popen.returncode}"
        raise ServerError(
            f"{self} did not start in {START_SECONDS} s: {last}\n{self.log_tail()}"
        )

    def _end(self, signum: int, seconds: float) -> bool:
        if self._popen is None:
            return True
        family = self.process.family()
        if signum == signal.SIGKILL:
            for member in family:
                member.send(signum)
        else:
            self.process.send(signum)
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        # PostgreSQL does not start again while a child of the last one lives.
        for member in family:
            member.send(signal.SIGKILL)
        gone(family, STOP_SECONDS)
        self._popen = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path("watched"))
        return True


class MariaDB(Server):
    label = "MariaDB"
    install = "apt-get install mariadb-server-core mariadb-client-core"
    driver = "mysql+pymysql"
    # Without TLS, for which PyMySQL would read every certificate of the host at each
    # connection: 40 ms.
    options = "?charset=utf8mb4&ssl_disabled=1"
    _stop_signal = signal.SIGTERM
    _abort_signal = signal.SIGKILL
    _quoted_engine = "'engine'@'%'"

    @classmethod
    def available(cls) -> str | None:
        for name in ("mariadbd", "mariadb-install-db", "my_print_defaults"):
            if _program(name) is None:
                return f"{cls.label}: no {name} here ({cls.install})"
        return None

    def admin(self, sql: str, database: str | None = None) -> list[tuple]:
        import pymysql

        connection = pymysql.connect(
            unix_socket=self._path("sock"),
            user="root",
            database=database,
            charset="utf8mb4",
            ssl_disabled=True,
            autocommit=True,
            connect_timeout=5,
            read_timeout=STOP_SECONDS,
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def create_database(self, name: str) -> None:
        self.admin(f"CREATE DATABASE `{_name(name)}` CHARACTER SET utf8mb4")
        # Of this database only: a user with a global grant would not notice
        # read_only, nor the lack of a privilege.
        self.admin(f"GRANT ALL ON `{name}`.* TO '{self.user}'@'%'")

    def _copy(self, template: str, name: str) -> None:
        self.create_database(name)
        for (table,) in self.admin("SHOW TABLES", template):
            (_, create) = self.admin(f"SHOW CREATE TABLE `{table}`", template)[0]
            self.admin(create, name)
            if table.endswith("version"):
                self.admin(
                    f"INSERT `{table}` SELECT * FROM `{template}`.`{table}`", name
                )
        self._grant(name)

    def drop_database(self, name: str) -> None:
        # A session that holds a metadata lock on a table would make the drop
        # wait for a day.
        sessions = self.admin(
            f"SELECT id FROM information_schema.processlist WHERE db = '{_name(name)}'"
        )
        for (session,) in sessions:
            with contextlib.suppress(Exception):  # it may have left by itself
                self.admin(f"KILL {session}")
        self.admin(f"DROP DATABASE IF EXISTS `{name}`")
        with contextlib.suppress(Exception):
            self.admin(f"REVOKE ALL ON `{name}`.* FROM '{self.user}'@'%'")
        # What was granted outlives what it was granted on.
        for grant in self.grants(name):
            revoke = grant.replace("GRANT", "REVOKE", 1).replace(" TO ", " FROM ")
            with contextlib.suppress(Exception):  # it had no tables
                self.admin(revoke)

    def _settings(self) -> list[str]:
        settings = [
            "--no-defaults",
            f"--datadir={self._path('data')}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=64M",
            "--innodb-use-native-aio=0",
        ]
        if os.geteuid() == 0:
            settings.append("--user=root")
        return settings

    def _initialise(self) -> None:
        install = _program("mariadb-install-db")
        assert install is not None, self.available()
        self._initialise_with(
            [
                install,
                *self._settings(),
                # Not one that it shares: servers that start clear theirs.
                f"--tmpdir={self.folder}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
        )

    def _command(self) -> list[str]:
        program = _program("mariadbd")
        assert program is not None, self.available()
        return [
            program,
            *self._settings(),
            f"--socket={self._path('sock')}",
            f"--pid-file={self._path('pid')}",
            f"--tmpdir={self.folder}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--skip-log-bin",
            f"--max-connections={self.max_connections}",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=2",
            "--debug-no-sync",
        ]

    def _create_user(self) -> None:
        for user in (self.user, self.engine):
            self.admin(f"CREATE USER '{user}'@'%' IDENTIFIED BY '{self.password}'")


class PostgreSQL(Server):
    label = "PostgreSQL"
    install = "apt-get install postgresql"
    driver = "postgresql+psycopg"
    system_user = "postgres"
    _stop_signal = signal.SIGINT
    _abort_signal = signal.SIGQUIT
    _quoted_engine = "engine"

    @classmethod
    def _binary(cls, name: str) -> str | None:
        def version(folder: str) -> float:
            try:
                return float(folder.split("/")[-2])
            except ValueError:
                return 0

        folders = sorted(
            glob.glob("/usr/lib/postgresql/*/bin"), key=version, reverse=True
        )
        return _program(name, *folders)

    @classmethod
    def available(cls) -> str | None:
        for name in ("postgres", "initdb"):
            if cls._binary(name) is None:
                return f"{cls.label}: no {name} here ({cls.install})"
        try:
            import psycopg  # noqa: F401
        except ImportError as exc:
            return f'{cls.label}: {exc} (pip install "psycopg[binary]")'
        if os.geteuid() == 0:
            try:
                pwd.getpwnam(cls.system_user)
            except KeyError:
                return (
                    f"{cls.label}: does not run as root, and there is no user "
                    f"{cls.system_user} to run it as ({cls.install})"
                )
        return None

    def _run_as(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        entry = pwd.getpwnam(self.system_user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def admin(self, sql: str, database: str | None = None) -> list[tuple]:
        import psycopg

        with psycopg.connect(
            host=self.folder,
            port=self.port,
            user=self.system_user,
            dbname=database or "postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> None:
        self.admin(f'CREATE DATABASE "{_name(name)}" OWNER "{self.user}"')

    def _copy(self, template: str, name: str) -> None:
        self.admin(
            f'CREATE DATABASE "{_name(name)}" OWNER "{self.user}" TEMPLATE "{template}"'
        )

    def drop_database(self, name: str) -> None:
        self.admin(f'DROP DATABASE IF EXISTS "{_name(name)}" WITH (FORCE)')

    def _initialise(self) -> None:
        initdb = self._binary("initdb")
        assert initdb is not None, self.available()
        self._initialise_with(
            [
                initdb,
                f"--pgdata={self._path('data')}",
                f"--username={self.system_user}",
                "--encoding=UTF8",
                "--no-locale",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--no-sync",
            ]
        )

    def _command(self) -> list[str]:
        program = self._binary("postgres")
        assert program is not None, self.available()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": self.max_connections,
            "shared_buffers": "64MB",
            "fsync": "off",
            # A small /dev/shm, as containers have, would not hold it; and what
            # a killed server leaves there would stay for good.
            "dynamic_shared_memory_type": "mmap",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [program, "-D", self._path("data"), *options]

    def _create_user(self) -> None:
        for user in (self.user, self.engine):
            self.admin(f"CREATE ROLE \"{user}\" LOGIN PASSWORD '{self.password}'")


def _watch(parent: int, folder: str) -> None:
    """Wait for the end of `parent`, then end its server and remove `folder`."""
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        pass
    else:
        select.select([handle], [], [])
    try:
        with open(os.path.join(folder, "watched")) as file:
            pid, started, abort = file.read().split()
    except FileNotFoundError:
        pass
    else:
        family = Process(int(pid), int(started)).family()
        for member in reversed(family):
            member.send(signal.SIGCONT)
        for member in family[:1]:
            member.send(int(abort))
        if not gone(family, 5):
            for member in family:
                member.send(signal.SIGKILL)
            gone(family, 5)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
