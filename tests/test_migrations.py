"""The schema's life: made, compared, walked, interrupted, raced, refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from liveness import Liveness, Settings, exceptions
from liveness.db import migration, tables
from tests.fleet import Recorder

ROOT = Path(__file__).parent.parent
CHANGES = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE")


def run(url, *statements):
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        results = [connection.exec_driver_sql(statement) for statement in statements]
        return [result.all() if result.returns_rows else None for result in results]


def table_names(url):
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return set(sa.inspect(engine).get_table_names())


def pretend(url, revision):
    """Have the version table say so, whatever the tables are."""
    run(url, f"UPDATE {tables.VERSION_TABLE} SET version_num = '{revision}'")


def engine_starts(url):
    live = Liveness(Settings.of(connection=url))
    live.add_handler(Recorder())
    live.start()
    try:
        live.disarm(live.arm("timer", "k", due_in=60))
    finally:
        live.stop()


def refused(url, error, action=engine_starts):
    """The one line with which ``action`` is refused; nothing was written."""
    with pytest.raises(error) as caught:
        action(url)
    text = str(caught.value)
    assert "\n" not in text
    if "liveness_engine" in table_names(url):
        assert run(url, "SELECT * FROM liveness_engine") == [[]]
    return text


# --- making and comparing -----------------------------------------------------


def test_after_a_sync_the_database_equals_the_tables_in_code(database_url):
    assert migration.version(database_url) == ""
    assert migration.sync(database_url) == ""
    assert migration.version(database_url) == migration.needed()
    assert migration.differences(database_url) == []


def test_a_second_sync_changes_nothing(schema_url, owned_url):
    live = Liveness(Settings.of(connection=schema_url))
    live.add_handler(Recorder())
    live.start()
    live.arm("timer", "k", due_in=3600)
    assert migration.sync(owned_url) == migration.needed()
    assert live.find("timer", "k") is not None
    live.stop()
    assert migration.differences(schema_url) == []


def test_the_revision_that_is_written_for_is_the_newest_migration():
    script = ScriptDirectory.from_config(migration._config())
    assert script.get_current_head() == migration.needed()


def test_every_revision_is_walked_up_down_and_up_again(database_url):
    script = ScriptDirectory.from_config(migration._config())
    revisions = [found.revision for found in script.walk_revisions()][::-1]
    for _ in range(2):
        for revision in revisions:
            migration.sync(database_url, revision)
            assert migration.version(database_url) == revision
        assert migration.differences(database_url) == []
        for revision in [*revisions[-2::-1], "base"]:
            migration.sync(database_url, revision)
        assert migration.version(database_url) == ""
        assert table_names(database_url) <= {tables.VERSION_TABLE}


def drop_index(backend, name, table):
    return f"DROP INDEX {name}" + (f" ON {table}" if backend == "mariadb" else "")


PLANTED = {
    "an index dropped": "index",
    "a column added": "ALTER TABLE liveness_engine ADD COLUMN extra INTEGER",
    "a column dropped": "ALTER TABLE liveness_engine DROP COLUMN fence_evidence",
    "a table dropped": "DROP TABLE liveness_engine",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_difference_is_found_and_named(owned_url, backend, planted):
    statement = PLANTED[planted]
    name = {"a column added": "extra", "a column dropped": "fence_evidence"}.get(
        planted, "liveness_engine"
    )
    if statement == "index":
        name = "ix_liveness_deadline_due"
        statement = drop_index(backend, name, "liveness_deadline")
    run(owned_url, statement)
    found = migration.differences(owned_url)
    assert found
    assert any(name in line for line in found)
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_changed_column_is_found_and_named(owned_url, backend):
    changed = {
        "mariadb": "MODIFY last_error VARCHAR(20)",
        "postgresql": "ALTER COLUMN last_error TYPE VARCHAR(20)",
    }
    run(owned_url, f"ALTER TABLE liveness_deadline {changed[backend]}")
    (line,) = migration.differences(owned_url)
    assert "liveness_deadline" in line
    assert "last_error" in line


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "MODIFY `key` VARCHAR(255) COLLATE utf8mb4_general_ci NOT NULL",
        "MODIFY due_at DATETIME NOT NULL",
    ],
)
def test_mariadb_with_other_collation_or_whole_seconds_is_different(owned_url, change):
    run(owned_url, f"ALTER TABLE liveness_deadline {change}")
    assert migration.differences(owned_url)


def test_a_host_programs_tables_and_version_are_left_alone(database_url):
    run(
        database_url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('c0ffee')",
        "CREATE TABLE stack (id INTEGER PRIMARY KEY)",
    )
    for revision in ("head", "base", "head"):
        migration.sync(database_url, revision)
        rows = run(database_url, "SELECT version_num FROM alembic_version")
        assert rows == [[("c0ffee",)]]
    assert {"stack", "alembic_version"} < table_names(database_url)
    assert migration.differences(database_url) == []


def test_looking_writes_nothing(database_url, backend, tmp_path):
    assert migration.version(database_url) == ""
    with pytest.raises(exceptions.SchemaMissing):
        migration.differences(database_url)
    assert table_names(database_url) == set()


def test_looking_makes_no_sqlite_file(sqlite_url, tmp_path):
    assert migration.version(sqlite_url) == ""
    refused_by = [migration.differences, engine_starts]
    for action in refused_by:
        with pytest.raises(exceptions.SchemaMissing):
            action(sqlite_url)
    assert list(tmp_path.iterdir()) == []


# --- interrupted and raced ----------------------------------------------------


class Statements:
    """Calls ``before(number, statement)`` before each statement that changes something,
    of the current thread, on any connection."""

    def __init__(self, before):
        self.before = before
        self.thread = threading.get_ident()
        self.number = 0

    def __enter__(self):
        sa.event.listen(sa.Engine, "before_cursor_execute", self._sent)

    def __exit__(self, *exc):
        sa.event.remove(sa.Engine, "before_cursor_execute", self._sent)

    def _sent(self, connection, cursor, statement, parameters, context, many):
        if threading.get_ident() != self.thread:
            return
        if statement.lstrip().upper().startswith(CHANGES):
            self.number += 1
            self.before(self.number, statement)


def forked_sync(url, before, close=None):
    """The pid of a child that syncs, calling ``before`` as :class:`Statements` does."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if close is not None:
            os.close(close)
        with Statements(before):
            migration.sync(url)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sync_killed_before(url, number):
    """A process syncs and dies before its statement of that number. False: it had
    fewer, and came to its end."""

    def die(count, statement):
        if count == number:
            os._exit(9)

    code = exit_code(forked_sync(url, die))
    assert code in (0, 9)
    return code == 9


def test_a_sync_killed_at_any_statement_can_be_run_again(database_url):
    number = 0
    while sync_killed_before(database_url, number := number + 1):
        migration.sync(database_url)
        assert migration.version(database_url) == migration.needed()
        assert migration.differences(database_url) == []
        migration.sync(database_url, "base")
    assert number > 5


def test_a_sync_goes_on_where_a_half_made_table_was_left(database_url):
    """Made, but the version not stamped: MariaDB commits every CREATE TABLE."""
    migration.sync(database_url)
    run(
        database_url,
        f"DELETE FROM {tables.VERSION_TABLE}",
        "DROP TABLE liveness_deadline",
    )
    assert migration.sync(database_url) == ""
    assert migration.version(database_url) == migration.needed()
    assert migration.differences(database_url) == []


@pytest.mark.parametrize(
    "at", ["liveness_alembic_version", "liveness_deadline", "CREATE INDEX", "INSERT"]
)
def test_two_syncs_at_once_do_no_harm(database_url, at):
    """The second runs, or waits, while the first stands before such a statement."""
    stands, stops = os.pipe()
    goes_on, let_go = os.pipe()

    def stop(count, statement):
        if at in statement:
            os.write(stops, b"!")
            os.read(goes_on, 1)

    # Another process: alembic can run but once at a time in one.
    first = forked_sync(database_url, stop, close=let_go)
    os.close(stops)
    assert os.read(stands, 1) == b"!"
    failures = []

    def second():
        try:
            migration.sync(database_url)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.5)  # it comes to its end, or to where it has to wait
    os.close(let_go)  # the first reads the end of the pipe, and goes on
    thread.join(60)
    assert exit_code(first) == 0
    assert failures == []
    assert run(database_url, f"SELECT * FROM {tables.VERSION_TABLE}") == [
        [(migration.needed(),)]
    ]
    assert migration.differences(database_url) == []


# --- another release's schema ---------------------------------------------------


def test_an_engine_without_tables_names_the_command_to_run(database_url):
    text = refused(database_url, exceptions.SchemaMissing)
    assert "run 'liveness-manage db sync'" in text
    assert table_names(database_url) == set()


def test_an_engine_on_an_old_schema_names_the_command_to_run(owned_url):
    pretend(owned_url, "0.9")
    text = refused(owned_url, exceptions.SchemaTooOld)
    assert "0.9" in text
    assert migration.needed() in text
    assert "run 'liveness-manage db sync'" in text


@pytest.mark.parametrize("revision", ["2.0", "10.0", "banana"])
@pytest.mark.parametrize("action", [engine_starts, migration.sync])
def test_a_newer_major_is_refused(owned_url, revision, action):
    pretend(owned_url, revision)
    text = refused(owned_url, exceptions.SchemaTooNew, action)
    assert revision in text
    assert migration.needed() in text
    assert "upgrade this program" in text
    assert migration.version(owned_url) == revision


def test_a_newer_minor_is_good_for_engines_and_left_by_sync(schema_url, owned_url):
    pretend(owned_url, "1.7")
    run(owned_url, "ALTER TABLE liveness_deadline ADD COLUMN extra INTEGER")
    engine_starts(schema_url)
    assert migration.sync(owned_url) == "1.7"
    assert migration.version(schema_url) == "1.7"
    assert migration.differences(schema_url) == []


def test_an_older_revision_that_nobody_knows_is_not_passed_over(owned_url):
    """Else 'db sync' says that all is well, and the engine asks for 'db sync'."""
    pretend(owned_url, "0.9")
    with pytest.raises(exceptions.DatabaseError, match="0.9"):
        migration.sync(owned_url)


# --- where they are, and by whom they are run ----------------------------------


def test_an_installed_package_finds_its_migrations_inside(tmp_path, sqlite_url):
    site = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "liveness", site / "liveness", ignore=ignore)
    shutil.copytree(
        ROOT / "migrations", site / "liveness" / "migrations", ignore=ignore
    )
    code = (
        "import sys; from liveness.db import migration;"
        "migration.sync(sys.argv[1]); print(migration._location())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, sqlite_url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(site / "liveness" / "migrations")
    assert migration.differences(sqlite_url) == []


@pytest.mark.parametrize("offline", [False, True])
def test_alembic_run_by_hand_is_told_what_to_run(offline):
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("sqlalchemy.url", "sqlite://")
    with pytest.raises(SystemExit, match="liveness-manage db sync"):
        command.upgrade(config, "head", sql=offline)


def test_a_path_with_a_per_cent_sign_is_no_obstacle(tmp_path):
    site = tmp_path / "100%"
    shutil.copytree(ROOT / "liveness", site / "liveness")
    shutil.copytree(ROOT / "migrations", site / "migrations")
    url = f"sqlite:///{site}/liveness.db"
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from liveness.db import migration;migration.sync(sys.argv[1])",
            url,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert migration.version(url) == migration.needed()
