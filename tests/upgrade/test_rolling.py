"""Engines of the release before and of this one, side by side on one database.

The release before is real code, kept in previous.tar.xz by tools/keep-release; each
engine is a process. Until there was a release it is what ran on schema 1.0.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from liveness.db import migration
from tests.fleet import wait_until
from tests.test_migrations import run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SYNC = "import sys; from liveness.db import migration; migration.sync(sys.argv[1])"


@pytest.fixture(scope="module")
def previous(tmp_path_factory):
    """The folder with the code of the release before."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(HERE / "previous.tar.xz") as kept:
        kept.extractall(folder, filter="data")
    code = folder / "previous"
    # As installed: else those of this checkout would be found.
    (code / "migrations").rename(code / "liveness" / "migrations")
    return code


def python(code_of, *argv, **how):
    env = {**os.environ, "PYTHONPATH": str(code_of), "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        [sys.executable, *argv], cwd=code_of, env=env, text=True, **how
    )


class Engine:
    """A process with an engine of one release."""

    def __init__(self, code_of, url):
        self.process = python(
            code_of,
            str(HERE / "worker.py"),
            url,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.said = []
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.started = self.until("live")
        assert Path(self.started["code"]).parents[1] == code_of

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def until(self, what, key=None):
        """The first thing it says of that sort, and on that key."""
        while True:
            for fact in self.said:
                if fact["what"] == what and key in (None, fact.get("key")):
                    return fact
            self.said.append(self._lines.get(timeout=60))

    def arm(self, kind, key, due_in):
        print(kind, key, due_in, file=self.process.stdin, flush=True)
        self.until("armed", key)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        print("stop - 0", file=self.process.stdin, flush=True)
        self.until("stopped")
        assert self.process.wait(30) == 0

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@pytest.fixture
def fleet(database_url):
    """Starts engines by the folder of their code; they end with the test."""
    started = []

    def start(code_of):
        started.append(Engine(code_of, database_url))
        return started[-1]

    yield start
    for engine in started:
        engine.close()


def synced(code_of, url):
    assert python(code_of, "-c", SYNC, url).wait(60) == 0


def states(url):
    (rows,) = run(url, "SELECT id, state FROM liveness_engine")
    return dict(map(tuple, rows))


def newest(code_of):
    """The schema that the code writes for, by the names of its migrations."""
    found = [
        path
        for folder in ("migrations", "liveness/migrations")
        for path in (code_of / folder / "versions").glob("v*.py")
    ]
    return ".".join(max(found).name[1:].split("_")[:2])


def test_an_upgrade_one_engine_after_the_other_loses_nothing(
    database_url, fleet, previous
):
    synced(previous, database_url)
    old, other = fleet(previous), fleet(previous)
    assert old.started["needs"] == newest(previous)
    old.arm("timer", "of-old", 600)
    other.arm("action", "of-other", 600)

    # The schema first, while the old ones run: they go on with it.
    migration.sync(database_url)
    assert migration.differences(database_url) == []
    old.arm("timer", "while-old", 0)
    assert old.until("ran", "while-old")["attempt"] == 1

    # A new one beside them; each fires what is its own.
    new = fleet(ROOT)
    assert new.started["needs"] == newest(ROOT) == migration.needed()
    new.arm("timer", "of-new", 0)
    old.arm("timer", "beside", 0)
    assert new.until("ran", "of-new")["payload"] == {"of": "of-new"}
    assert old.until("ran", "beside")["payload"] == {"of": "beside"}

    # An old one is killed: the new one or the old one fences it and does its work.
    other.kill()
    wait_until(lambda: states(database_url)[other.started["engine"]] == "fenced", 60)
    wait_until(lambda: owners(database_url).keys() == {"of-old"}, 60)

    # The last old one is stopped in good order: the new one has what it handed back.
    old.stop()
    wait_until(lambda: owners(database_url) == {"of-old": new.started["engine"]}, 60)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_each_release_takes_over_from_the_other(database_url, fleet, previous):
    """Whichever dies: also back again, as long as the major is the same."""
    migration.sync(database_url)
    for dies, lives in ((previous, ROOT), (ROOT, previous)):
        victim = fleet(dies)
        victim.arm("action", f"again-{dies.name}", 600)
        victim.arm("timer", f"timer-{dies.name}", 600)
        heir = fleet(lives)
        victim.kill()
        ran = heir.until("ran", f"again-{dies.name}")
        assert ran["payload"] == {"of": f"again-{dies.name}"}
        assert ran["attempt"] == 1
        mine = heir.started["engine"]
        wait_until(
            lambda d=dies, m=mine: owners(database_url).get(f"timer-{d.name}") == m, 60
        )
        heir.stop()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_both_work_on_what_a_newer_minor_has_added(database_url, fleet, previous):
    """A column that neither knows, with a default; rows of whoever knows it."""
    migration.sync(database_url)
    added = "ALTER TABLE liveness_{} ADD COLUMN extra VARCHAR(8) DEFAULT 'x'"
    run(database_url, *(added.format(table) for table in ("engine", "deadline")))
    run(database_url, "UPDATE liveness_alembic_version SET version_num = '1.99'")
    old, new = fleet(previous), fleet(ROOT)
    old.arm("timer", "of-old", 600)
    new.arm("action", "of-new", 600)
    run(database_url, "UPDATE liveness_deadline SET extra = 'newer'")
    new.kill()
    assert old.until("ran", "of-new")["payload"] == {"of": "of-new"}
    (rows,) = run(database_url, "SELECT extra FROM liveness_deadline")
    assert [tuple(row) for row in rows] == [("newer",)]


def owners(url):
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        key = sa.column("key")
        found = sa.select(key, sa.column("owner_id")).select_from(
            sa.table("liveness_deadline")
        )
        return dict(map(tuple, connection.execute(found)))
