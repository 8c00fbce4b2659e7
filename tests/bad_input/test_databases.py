"""Databases that cannot be used: one clear line, and no password.

Tried on the library and on both command lines.
"""

from __future__ import annotations

import logging
import socket
import threading
import traceback
import uuid
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from liveness import Liveness, Settings, exceptions
from liveness.cmd import engine, manage
from liveness.db import migration
from tests.commands import Command, one_line
from tests.fleet import Driven, Recorder, wait_until
from tests.test_migrations import run

SECRET = "hunter2/@:%-s3cr3t"
QUOTED = quote(SECRET, safe="")
SECRETS = (SECRET, QUOTED, "not-a-secret-9c1f")


def no_secret(text):
    for secret in SECRETS:
        assert secret not in text


# --- databases that cannot be used --------------------------------------------------


def start(url):
    live = Liveness(Settings.of(connection=url, database_timeout=2))
    live.start()


ACTIONS = [start, migration.version, migration.differences, migration.sync]


def refused_by_library(url, action, words, caplog):
    """``action`` fails with one of our errors in one line, without the password."""
    caplog.set_level(logging.DEBUG)
    threads = threading.active_count()
    with pytest.raises(exceptions.LivenessError) as caught:
        action(url)
    error = caught.value
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)
    formatted = "".join(traceback.format_exception(error))
    no_secret(str(error) + repr(error) + formatted + caplog.text)
    assert threading.active_count() <= threads


def commands(url, tmp_path):
    """Both command lines on ``url``, at work."""
    path = tmp_path / f"{uuid.uuid4().hex}.conf"
    path.write_text(
        f"[liveness]\nconnection = {url.replace('$', '$$')}\n"
        "ttl = 9\nbeat_interval = 1\nsweep_interval = 1\ndatabase_timeout = 2\n"
    )
    manages = [
        Command(manage.main, "db", "sync", "--connection", url),
        Command(manage.main, "db", "version", "--config-file", str(path)),
        Command(manage.main, "db", "check", "--config-file", str(path)),
    ]
    return [*manages, Command(engine.main, "--config-file", str(path))]


def refused_by_commands(url, words, tmp_path):
    """Each command line fails with one line on stderr, without the password."""
    refused(commands(url, tmp_path), words)


def refused(started, words):
    for command, code in zip(started, (1, 1, 2, 1), strict=True):
        text = one_line(command.result(), code)
        assert text.startswith("liveness-")
        no_secret(text)
        for word in words:
            assert word in text


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


DRIVERS = ["mysql+pymysql", "postgresql+psycopg"]


@pytest.fixture(params=DRIVERS)
def closed_url(request):
    return f"{request.param}://user:{QUOTED}@127.0.0.1:{closed_port()}/name"


@pytest.mark.parametrize("action", ACTIONS)
def test_an_unreachable_database_is_refused(closed_url, action, caplog):
    words = ["127.0.0.1", "/name", "efused"]
    refused_by_library(closed_url, action, words, caplog)


def test_an_unreachable_database_is_one_line_of_each_command(closed_url, tmp_path):
    refused_by_commands(closed_url, ["127.0.0.1", "efused"], tmp_path)


@pytest.fixture
def hung_urls():
    """Of a port that accepts, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        port = server.getsockname()[1]
        yield [f"{driver}://user:{QUOTED}@127.0.0.1:{port}/name" for driver in DRIVERS]


@pytest.mark.parametrize("driver", range(2))
def test_a_database_that_never_answers_is_given_up(hung_urls, driver, caplog):
    refused_by_library(hung_urls[driver], start, ["127.0.0.1"], caplog)


def test_a_database_that_never_answers_is_one_line_of_each_command(hung_urls, tmp_path):
    started = [commands(url, tmp_path) for url in hung_urls]
    for four in started:
        refused(four, ["127.0.0.1"])


@pytest.fixture(params=["mariadb", "postgresql"])
def real_server(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_wrong_password_is_refused(real_server, action, caplog):
    url = real_server.url("name", password=SECRET)
    words = [f"127.0.0.1:{real_server.port}", "'liveness'", "assword"]
    words[1:] = [] if real_server.label == "PostgreSQL" else words[1:2]
    refused_by_library(url, action, words, caplog)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_database_that_is_not_there_is_refused(real_server, action, caplog):
    url = real_server.url("no_such_database")
    refused_by_library(url, action, ["no_such_database"], caplog)


def test_access_refused_is_one_line_of_each_command(real_server, tmp_path):
    url = real_server.url("no_such_database", password=SECRET)
    refused_by_commands(url, [f"127.0.0.1:{real_server.port}"], tmp_path)
    url = real_server.url("no_such_database")
    refused_by_commands(url, ["no_such_database"], tmp_path)


@pytest.fixture
def read_only_url(schema_url, backend, server):
    """Of tables that can be read and not written."""
    if backend == "sqlite":
        path = schema_url.removeprefix("sqlite:///")
        yield f"sqlite:///file:{path}?mode=ro&uri=true"
        return
    name = sa.engine.make_url(schema_url).database
    if backend == "mariadb":
        server.admin(f"CREATE USER 'reader'@'%' IDENTIFIED BY '{SECRET}'")
        server.admin(f"GRANT SELECT ON `{name}`.* TO 'reader'@'%'")
    else:
        server.admin(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'")
        server.admin("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", name)
    yield server.url(name, user="reader", password=SECRET)
    if backend == "mariadb":
        server.admin("DROP USER 'reader'@'%'")
    else:
        server.admin("DROP OWNED BY reader", name)
        server.admin("DROP ROLE reader")


def test_an_engine_on_a_read_only_database_does_not_start(
    read_only_url, schema_url, caplog
):
    refused_by_library(read_only_url, start, [], caplog)
    assert run(schema_url, "SELECT * FROM liveness_engine") == [[]]
    assert migration.version(read_only_url) == migration.needed()
    assert migration.differences(read_only_url) == []
    assert migration.sync(read_only_url) == migration.needed()


def test_liveness_engine_on_a_read_only_database_is_one_line(read_only_url, tmp_path):
    path = tmp_path / "ro.conf"
    path.write_text(f"[liveness]\nconnection = {read_only_url}\n")
    command = Command(engine.main, "--config-file", str(path))
    text = one_line(command.result(20))
    no_secret(text)


@pytest.mark.parametrize("path", ["/proc/x.db", "/tmp/x%00y"])
def test_an_sqlite_file_that_cannot_be_made_is_refused_by_sync(path, caplog):
    """Who only looks makes none, and finds no tables."""
    url = f"sqlite:///{path}"
    refused_by_library(url, migration.sync, [path, "cannot be used"], caplog)
    for action in (start, migration.differences):
        with pytest.raises(exceptions.SchemaMissing):
            action(url)


SQLITE_PATHS = {
    "a folder that is not there": ("/nowhere/x.db", "unable to open"),
    "a folder in place of a file": ("/", "unable to open"),
    "a file of something else": ("/etc/passwd", "not a database"),
}


@pytest.mark.parametrize("case", SQLITE_PATHS)
@pytest.mark.parametrize("action", ACTIONS)
def test_an_sqlite_file_that_cannot_be_used_is_refused(case, action, caplog):
    path, word = SQLITE_PATHS[case]
    refused_by_library(f"sqlite:///{path}", action, [path, word], caplog)


@pytest.mark.parametrize("case", SQLITE_PATHS)
def test_an_sqlite_file_that_cannot_be_used_is_one_line_of_each_command(case, tmp_path):
    path, word = SQLITE_PATHS[case]
    refused_by_commands(f"sqlite:///{path}", [path, word], tmp_path)


# --- URLs ---------------------------------------------------------------------------

URLS = [
    pytest.param(f"nonsense {QUOTED}", ["mysql+pymysql://USER"], id="no URL"),
    pytest.param(f"mysql+pymysql:/user:{QUOTED}@h/x", ["USER:PASSWORD"], id="a slash"),
    pytest.param(f"mysql://user:{QUOTED}@h:port/x", ["USER:PASSWORD"], id="no port"),
    pytest.param(f"mysql://us:er:a@b:{QUOTED}/x", ["USER:PASSWORD"], id="unquoted"),
    pytest.param(
        f"oracle://user:{QUOTED}@h/x", ["'oracle'", "sqlite+pysqlite"], id="database"
    ),
    pytest.param(
        f"mysql+mysqldb://user:{QUOTED}@h/x",
        ["'mysql+mysqldb'", "mysql+pymysql"],
        id="driver",
    ),
    pytest.param(
        f"postgresql+asyncpg://user:{QUOTED}@h/x",
        ["'postgresql+asyncpg'", "postgresql+psycopg"],
        id="asynchronous driver",
    ),
    pytest.param("sqlite://", ["in memory", "sqlite:///PATH"], id="memory"),
    pytest.param("sqlite:///:memory:", ["in memory"], id="named memory"),
    pytest.param("sqlite:///file::memory:?uri=true", ["memory"], id="URI"),
    pytest.param(
        "sqlite:///file:x?mode=memory&uri=true", ["memory"], id="mode of a URI"
    ),
    pytest.param(
        f"mysql+pymysql://user:{QUOTED}@127.0.0.1:1/x?nonsense=1",
        ["nonsense"],
        id="parameter",
    ),
    pytest.param(
        f"mysql+pymysql://user:{QUOTED}@{'h' * 300}/x", ["hhh"], id="a long host"
    ),
    pytest.param(
        f"postgresql://user:{QUOTED}@127.0.0.1:99999999/x", ["99999999"], id="port"
    ),
    pytest.param(
        f"postgresql://127.0.0.1:1/x?user=u&password={QUOTED}",
        ["127.0.0.1:1"],
        id="password as a parameter",
    ),
]


@pytest.mark.parametrize(("url", "words"), URLS)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_url_that_leads_nowhere_is_refused(url, words, action, caplog):
    refused_by_library(url, action, words, caplog)


@pytest.mark.parametrize(("url", "words"), URLS)
def test_a_url_that_leads_nowhere_is_one_line_of_each_command(url, words, tmp_path):
    refused_by_commands(url, words, tmp_path)


def test_settings_that_are_printed_hold_no_password():
    settings = Settings.of(connection=f"mysql+pymysql://user:{QUOTED}@h/x")
    no_secret(f"{settings!r} {settings}")


def test_a_running_engine_logs_no_password(real_server, request, caplog):
    caplog.set_level(logging.DEBUG, logger="liveness")
    url = request.getfixturevalue(f"{real_server.label.lower()}_schema_url")
    live = Liveness(
        Settings.of(
            connection=url,
            ttl=3,
            beat_interval=0.1,
            sweep_interval=0.1,
            lease_margin=0.2,
            database_timeout=0.9,
        )
    )
    live.start()
    real_server.kill()
    try:
        wait_until(lambda: "could not beat" in caplog.text, 30)
        wait_until(lambda: "could not sweep" in caplog.text, 30)
    finally:
        real_server.start()
        live.stop()
    assert "is live on" in caplog.text
    no_secret(caplog.text)


def arm_without_table(url, owned_url, payload):
    driven = Driven(url, handlers=(Recorder(),))
    run(owned_url, "DROP TABLE liveness_deadline")
    with pytest.raises(Exception) as caught:
        driven.live.arm("timer", "k", due_in=1, payload=payload)
    driven.abandon()
    return caught.value


def test_a_database_error_of_an_arm_does_not_show_the_payload(
    schema_url, owned_url, caplog
):
    caplog.set_level(logging.DEBUG)
    error = arm_without_table(schema_url, owned_url, {"token": SECRET})
    no_secret("".join(traceback.format_exception(error)) + caplog.text)
    assert "exception wrapped" not in caplog.text


def test_a_database_error_of_an_arm_is_ours_in_one_line(schema_url, owned_url):
    error = arm_without_table(schema_url, owned_url, None)
    assert isinstance(error, exceptions.DatabaseError)
    assert "\n" not in str(error)
