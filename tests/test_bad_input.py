"""What nobody should send: one clear line, nothing lost, no password.

Whatever cannot be tried on a database that is in use is tried on the library and on
both command lines; what does not reach the database, on SQLite alone.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
import traceback
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from liveness import (
    Arm,
    Done,
    Handler,
    Liveness,
    Outcome,
    Park,
    Rearm,
    Release,
    Retry,
    Settings,
    exceptions,
)
from liveness.cmd import engine, manage
from liveness.db import migration
from tests.clock import SettableClock
from tests.commands import Command, one_line
from tests.fleet import Driven, Gate, Recorder, wait_until
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


# --- engine ids ---------------------------------------------------------------------


def test_a_second_program_with_the_same_id_is_refused_and_the_first_goes_on(rows_url):
    first = Driven(rows_url, handlers=(Recorder(),), engine_id="one")
    first.live.arm("timer", "k", due_in=60)
    second = Liveness(Settings.of(connection=rows_url))
    with pytest.raises(exceptions.EngineIdTaken) as caught:
        second.start("one")
    assert "'" not in str(caught.value)
    for word in ("Engine id one", "host", "pid", "new id"):
        assert word in str(caught.value)
    assert not second.trusted
    assert first.beat()
    assert first.row().state == "live"
    assert first.live.find("timer", "k").owner_id == "one"
    first.abandon()


def test_the_id_of_a_stopped_engine_is_not_given_out_again(rows_url):
    live = Liveness(Settings.of(connection=rows_url))
    live.start("one")
    live.stop()
    with pytest.raises(exceptions.EngineIdTaken):
        Liveness(Settings.of(connection=rows_url)).start("one")
    rows = run(rows_url, "SELECT id, state FROM liveness_engine")
    assert rows == [[("one", "stopped")]]


@pytest.mark.parametrize(
    "bad", ["", " x", "x ", "x" * 65, "é", "a\nb", "x\0", "\ud800", 5, b"x", True]
)
def test_an_engine_id_that_cannot_be_kept_is_refused(sqlite_url, bad):
    migration.sync(sqlite_url)
    with pytest.raises(exceptions.ConfigError, match="engine id") as caught:
        Liveness(Settings.of(connection=sqlite_url)).start(bad)
    assert "\n" not in str(caught.value)
    assert run(sqlite_url, "SELECT * FROM liveness_engine") == [[]]


@pytest.mark.parametrize("good", ["x", "x" * 64, "host:1 (a)"])
def test_an_engine_id_at_its_bounds_is_good(rows_url, good):
    driven = Driven(rows_url, engine_id=good)
    assert driven.row().id == good
    driven.abandon()


# --- what is armed ------------------------------------------------------------------


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


def not_written(driven, error=exceptions.InvalidDeadline, kind="timer", key="k", **arm):
    """The one line with which arming is refused; no row, and the engine goes on."""
    arm = {"due_in": 1} | arm
    texts = []
    for call in (
        lambda: driven.live.arm(kind, key, **arm),
        lambda: driven.live.arm_many([Arm("timer", "ok", 1), Arm(kind, key, **arm)]),
        lambda: driven.live.guard(kind, key, **arm).__enter__(),
    ):
        with pytest.raises(error) as caught:
            call()
        texts.append(str(caught.value))
        assert "\n" not in texts[-1]
        assert texts[-1].isprintable()
    assert len(set(texts)) == 1
    with driven.connect() as connection:
        assert driven.parts.deadlines.counts(connection) == {}
    driven.live.disarm(driven.live.arm("timer", "good", due_in=1))
    return texts[0]


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("", "not empty"),
        (None, "None"),
        (5, "5"),
        (b"a", "b'a'"),
        (["a"], "['a']"),
        ("x" * 256, "256 characters, more than 255"),
        ("a ", "white space"),
        (" a", "white space"),
        ("a\n", "white space"),
        ("a\nb", "printed"),
        ("a\0b", "printed"),
        ("\ud800", "printed"),
        ("a\u200d", "printed"),
        ("a\u202eb", "printed"),
        ("a\u00a0b", "printed"),
        ("\ufdd0", "printed"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(local, key, word):
    assert word in not_written(local, key=key)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("", "not empty"),
        (None, "None"),
        (5, "5"),
        ("x" * 65, "64"),
        ("zeit", "zeit"),
        ("é", "ASCII"),
        ("a\n", "ASCII"),
        (" timer", "space"),
        ("timer\0", "ASCII"),
    ],
)
def test_a_kind_that_cannot_be_kept_is_refused(local, kind, word):
    error = exceptions.UnknownKind if kind == "zeit" else exceptions.InvalidDeadline
    assert word in not_written(local, error, kind=kind)


def test_an_unknown_kind_is_refused_with_those_there_are(local):
    text = not_written(local, exceptions.UnknownKind, kind="martian")
    assert "'martian'" in text
    assert "timer" in text


HUGE = 10**400


@pytest.mark.parametrize(
    "due_in",
    [
        -1,
        -1e-9,
        math.nan,
        math.inf,
        -math.inf,
        1e300,
        HUGE,
        10 * 366 * 86400 + 1,
        True,
        False,
        "5",
        [],
        1 + 2j,
        timedelta(microseconds=-1),
        timedelta.max,
    ],
)
def test_a_duration_that_cannot_be_meant_is_refused(local, due_in):
    text = not_written(local, due_in=due_in)
    assert "due_in must be" in text


@pytest.mark.parametrize("due_in", [0, -0.0, 1e-9, 5, timedelta(seconds=5), 3.16224e8])
def test_a_duration_within_bounds_is_good_to_the_microsecond(driven, due_in):
    value = driven.live.arm("timer", "k", due_in=due_in)
    seconds = due_in.total_seconds() if isinstance(due_in, timedelta) else due_in
    expected = driven.parts._clock.utc + timedelta(seconds=seconds)
    assert value.due_at == value.expires_at == expected
    assert driven.live.find("timer", "k").due_at == expected


FAR_EAST, FAR_WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))


@pytest.mark.parametrize(
    ("due_at", "word"),
    [
        (datetime(2026, 1, 1), "time zone"),  # noqa: DTZ001
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "1970"),
        (datetime(1970, 1, 1, 13, tzinfo=FAR_EAST), "1970"),
        (datetime(3000, 1, 1, tzinfo=UTC), "2999"),
        (datetime(2999, 12, 31, 10, tzinfo=FAR_WEST), "2999"),
        (datetime.max.replace(tzinfo=FAR_WEST), "2999"),
        (datetime.min.replace(tzinfo=FAR_EAST), "1970"),
        (date(2026, 1, 1), "datetime"),
        ("2026-01-01", "datetime"),
        (5, "datetime"),
    ],
)
def test_a_moment_that_cannot_be_meant_is_refused(local, due_at, word):
    text = not_written(local, due_in=None, due_at=due_at)
    assert "due_at must" in text
    assert word in text


@pytest.mark.parametrize(
    "due_at",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 1, 5, tzinfo=FAR_EAST),
        datetime(3000, 1, 1, tzinfo=FAR_EAST),
    ],
)
def test_a_moment_within_bounds_is_kept_as_it_is(driven, due_at):
    assert driven.live.arm("timer", "k", due_at=due_at).due_at == due_at
    assert driven.live.find("timer", "k").due_at == due_at


@pytest.mark.parametrize("due_at", [None, datetime(2026, 1, 1, tzinfo=UTC)])
def test_one_of_duration_and_moment_is_to_be_given(local, due_at):
    due_in = None if due_at is None else 1
    assert "either" in not_written(local, due_in=due_in, due_at=due_at)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(object(), id="object"),
        pytest.param(b"x", id="bytes"),
        pytest.param({1, 2}, id="set"),
        pytest.param({"a": datetime.max.replace(tzinfo=UTC)}, id="datetime"),
        pytest.param(math.nan, id="nan"),
        pytest.param({"a": [math.inf]}, id="inf"),
        pytest.param(10**5000, id="a long number"),
        pytest.param(nested(100_000), id="deep"),
        pytest.param(ITSELF, id="itself"),
        pytest.param({(1, 2): 3}, id="tuple as key"),
        pytest.param({1: 2}, id="number as key"),
        pytest.param({"a": {None: 2}}, id="None as key"),
        pytest.param({1: "a", "1": "b"}, id="two keys in one"),
    ],
)
def test_a_payload_that_is_no_json_is_refused(local, payload):
    assert "payload is not JSON" in not_written(local, payload=payload)


def test_a_payload_of_just_the_limit_is_good_and_a_byte_more_is_not(driven):
    limit = driven.live.settings.payload_limit
    fits = "x" * (limit - 2)
    driven.live.disarm(driven.live.arm("timer", "k", due_in=1, payload=fits))
    text = not_written(driven, payload=fits + "x")
    assert f"{limit + 1} bytes" in text
    assert f"payload_limit ({limit})" in text
    # Bytes as JSON, not characters.
    not_written(driven, payload="é" * (limit // 6 + 1))


@pytest.mark.parametrize(
    "payload",
    [
        None,
        False,
        0,
        "",
        [],
        {"k\0": "a\0b", "\ud800": "\udfff", "é": "😀", "": [1.5, None, True]},
        2**100,
    ],
    ids=repr,
)
def test_a_payload_comes_back_as_it_was(driven, payload):
    value = driven.live.arm("timer", "k", due_in=1, payload=payload)
    found = driven.live.find("timer", "k").payload
    assert value.payload == found == payload
    assert type(found) is type(payload)


@pytest.mark.parametrize("most", [0, -1, True, 1.0, "3", 2**31, math.nan, []])
def test_attempts_that_cannot_be_counted_are_refused(local, most):
    assert "max_attempts" in not_written(local, max_attempts=most)


def test_a_refused_extend_changes_nothing(local):
    value = local.live.arm("timer", "k", due_in=60)
    for bad in ({}, {"due_in": -1}, {"due_in": 1, "due_at": value.due_at}):
        with pytest.raises(exceptions.InvalidDeadline):
            local.live.extend(value, **bad)
    assert local.live.find("timer", "k") == value


# --- keys are compared byte by byte, on every database --------------------------------

ALIKE = [
    "a", "A", "á", "Á", "a\u0301", "à", "ä", "ae", "æ", "ss", "ß", "ẞ", "i", "I", "ı",
    "İ", "fi", "ﬁ", "1", "１", "𝒳", "😀", "😁", "o", "ø", "ñ", "n\u0303", "%", "_",
    "a%", "a_", "\\", "'", '"', "x" * 255, "😀" * 255, "a" + "\ufe0f",
]  # fmt: skip


def test_keys_that_look_alike_are_different_keys(driven):
    arms = [Arm("timer", key, 60, payload=number) for number, key in enumerate(ALIKE)]
    driven.live.arm_many(arms[::2])
    for arm in arms[1::2]:
        driven.live.arm(arm.kind, arm.key, 60, payload=arm.payload)
    for number, key in enumerate(ALIKE):
        found = driven.live.find("timer", key)
        assert (found.key, found.payload) == (key, number)
        with pytest.raises(exceptions.AlreadyArmed):
            driven.live.arm("timer", key, due_in=60)
    driven.live.disarm(driven.live.find("timer", "a"))
    assert driven.live.find("timer", "a") is None
    assert driven.live.find("timer", "A") is not None


def test_kinds_that_differ_in_case_are_different_kinds(rows_url):
    handlers = Recorder("timer"), Recorder("Timer")
    driven = Driven(rows_url, SettableClock(), handlers)
    driven.live.arm("timer", "k", due_in=1)
    assert driven.live.find("Timer", "k") is None
    driven.live.arm("Timer", "k", due_in=1)
    driven.turn()
    driven.parts._clock.advance(1)
    driven.turn()
    driven.settle()
    assert [handler.keys for handler in handlers] == [["k"], ["k"]]
    driven.abandon()


def test_a_key_that_cannot_be_armed_is_not_found_either(driven):
    """MariaDB pads with spaces where it compares."""
    driven.live.arm("timer", "a", due_in=60)
    for key in ("a ", " a", "\ud800", "a\0", "", "x" * 300, None, 5, b"a", ["a"]):
        assert driven.live.find("timer", key) is None
        with pytest.raises(exceptions.NoSuchDeadline):
            driven.live.adopt("timer", key)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.parametrize("charset", ["utf8", "latin1"])
def test_whatever_charset_the_url_asks_for_every_key_is_kept(rows_url, charset):
    """Heat's documented URLs end in charset=utf8, which is three bytes."""
    url = rows_url.replace("utf8mb4", charset)
    driven = Driven(url, SettableClock(), (Recorder(),))
    try:
        driven.live.arm_many([Arm("timer", key, 60) for key in ALIKE])
        assert driven.live.find("timer", "😀").key == "😀"
    finally:
        driven.abandon()


# --- all or nothing -------------------------------------------------------------------


def test_many_of_which_one_cannot_be_are_none(driven):
    driven.live.arm("timer", "living", due_in=60)
    ok = [Arm("timer", f"k{number}", 60) for number in range(3)]
    for bad, error in (
        (Arm("timer", "living", 60), exceptions.AlreadyArmed),
        (Arm("timer", "k1", 60), exceptions.LivenessError),
        (Arm("timer", "bad", -1), exceptions.InvalidDeadline),
        (Arm("martian", "k", 60), exceptions.UnknownKind),
    ):
        with pytest.raises(error) as caught:
            driven.live.arm_many([*ok, bad])
        assert "\n" not in str(caught.value)
        with driven.connect() as connection:
            counts = driven.parts.deadlines.counts(connection)
        assert counts == {("timer", "armed"): 1}
    driven.live.arm_many(ok)


def test_of_many_the_one_that_lives_is_named(driven):
    driven.live.arm("timer", "living", due_in=60)
    with pytest.raises(exceptions.AlreadyArmed, match="living"):
        driven.live.arm_many([Arm("timer", "new", 60), Arm("timer", "living", 60)])


# --- rows written by others -----------------------------------------------------------

ROW = {
    "kind": "timer",
    "key": "bad",
    "owner_id": None,
    "token": 5,
    "arm_token": 5,
    "epoch": 1,
    "state": "armed",
    "due_at": "2026-01-01 00:00:01.000000",
    "expires_at": "2026-01-01 00:00:01.000000",
    "attempts": 0,
    "max_attempts": 5,
    "payload": None,
    "created_at": "2026-01-01 00:00:00.000000",
    "updated_at": "2026-01-01 00:00:00.000000",
}


def write_row(driven, **changes):
    row = ROW | changes
    quoted = {"mariadb": "`{}`"}.get(driven.parts.database.backend, '"{}"')
    quoted = "`{}`" if driven.parts.database.backend == "mysql" else '"{}"'
    columns = ", ".join(quoted.format(name) for name in row)
    values = ", ".join(f":{name}" for name in row)
    with driven.connect() as connection:
        connection.execute(
            sa.text(f"INSERT INTO liveness_deadline ({columns}) VALUES ({values})"), row
        )


def state_of(driven, key="bad"):
    with driven.connect() as connection:
        table = sa.table("liveness_deadline", sa.column("key"), sa.column("state"))
        table.append_column(sa.column("last_error"))
        row = connection.execute(
            sa.select(table.c.state, table.c.last_error).where(table.c.key == key)
        ).one_or_none()
        return None if row is None else tuple(row)


def pass_over(driven, *rows, later=False):
    """Have an engine meet such rows among good ones, which are all handled; and, with
    ``later``, again and again for more than a lease: an owner without a row is taken
    for dead only then. Return the keys that a handler was called for."""
    for row in rows:
        write_row(driven, **row)
    write_row(driven, key="orphan")
    driven.live.arm("timer", "own", due_in=1)
    clock, settings = driven.parts._clock, driven.live.settings
    clock.advance(10)
    _turn(driven)
    keys = driven.live.handlers.get("timer").keys
    assert {"orphan", "own"} <= set(keys)
    assert state_of(driven, "orphan") is state_of(driven, "own") is None
    for _ in range(20 if later else 0):
        clock.advance(settings.beat_interval)
        driven.beat()
        _turn(driven)
    assert not driven.parts.loop._failing
    return driven.live.handlers.get("timer").keys


def _turn(driven):
    for _ in range(3):
        driven.turn()
        driven.settle()


PARKED = {
    "no JSON": ({"payload": "{nope"}, "not JSON"),
    "an empty payload": ({"payload": ""}, "not JSON"),
    "nested too deep": ({"payload": "[" * 100_000}, "not JSON"),
    "nested too deep, and closed": (
        {"payload": "[" * 100_000 + "]" * 100_000},
        "not JSON",
    ),
    "a number too long": ({"payload": "1" * 5000}, "not JSON"),
    "attempts beyond the maximum": ({"attempts": 99}, "99 attempts"),
    "attempts at the maximum": ({"attempts": 5}, "5 attempts"),
    "attempts at the end of numbers": ({"attempts": 2**31 - 1}, "attempts"),
    "no attempt at all": ({"max_attempts": 0}, "attempts"),
    "an epoch at the end of numbers": ({"epoch": 2**63 - 1}, "out of range"),
}


@pytest.mark.parametrize("owner", [None, "ghost", "me"])
def test_rows_that_cannot_be_handled_are_parked_and_no_others(driven, owner):
    owner = driven.id if owner == "me" else owner
    rows = [
        {"key": case, "owner_id": owner, **changes}
        for case, (changes, _) in PARKED.items()
    ]
    keys = pass_over(driven, *rows, later=owner == "ghost")
    for case, (_, word) in PARKED.items():
        state, reason = state_of(driven, case)
        assert (case, state) == (case, "parked")
        assert word in reason
        assert case not in keys


STRANGE = [
    {"owner_id": "ghost"},
    {"owner_id": ""},
    {"owner_id": "ghost", "state": "claimed", "attempts": 1},
    {"attempts": -5},
    {"token": -7},
    {"token": 2**63 - 1},
    {"payload": "NaN"},
    {"payload": '"\\ud800"'},
    {"payload": "[" * 500 + "]" * 500},
    {"due_at": "0001-01-01 00:00:00.000000"},
    {"state": "claimed", "owner_id": None},
]


def test_strange_rows_that_can_be_handled_are(driven):
    rows = [{"key": f"row {n}", **changes} for n, changes in enumerate(STRANGE)]
    rows += [{"key": "bad\nkey"}, {"key": " "}, {"key": "{}%s%n"}]
    keys = pass_over(driven, *rows, later=True)
    for row in rows:
        assert row["key"] in keys
        assert state_of(driven, row["key"]) is None


DATES = {
    "sqlite": (
        ["0001-01-01 00:00:00.000000", "", "-infinity", "0000-00-00", 5, 1.5],
        ["9999-12-31 23:59:59.999999", "infinity", "294276-12-31 23:59:59", b"\xff"],
    ),
    "mariadb": (["0000-00-00 00:00:00"], ["9999-12-31 23:59:59.999999"]),
    "postgresql": (
        ["-infinity", "4713-01-01 00:00:00 BC"],
        ["infinity", "294276-12-31 23:59:59"],
    ),
}


def test_dates_that_python_does_not_know_are_in_nobodys_way(driven, backend):
    """However they came there."""
    if backend == "mariadb":

        @sa.event.listens_for(driven.parts._pool, "connect")
        @sa.event.listens_for(driven.parts._sweep_pool, "connect")
        def anything_goes(connection, record):
            connection.cursor().execute("SET SESSION sql_mode = ''")

    past, future = (
        [{"key": f"due {when}", "due_at": when, "expires_at": when} for when in whens]
        for whens in DATES[backend]
    )
    for row in future:
        row["owner_id"] = driven.id
    keys = pass_over(driven, *past, *future, later=True)
    assert {row["key"] for row in past} <= set(keys)
    assert not {row["key"] for row in future} & set(keys)
    for row in past:
        assert state_of(driven, row["key"]) is None
    for row in future:
        assert driven.live.find("timer", row["key"]).state == "armed"


def test_a_state_that_nobody_here_knows_is_left_to_who_knows_it(driven):
    rows = [
        {"key": "nobody's", "state": "paused"},
        {"key": "a ghost's", "state": "paused", "owner_id": "ghost"},
        {"key": "mine", "state": "paused", "owner_id": driven.id},
        {"key": "long", "state": "x" * 16},
        {"key": "none", "state": ""},
    ]
    keys = pass_over(driven, *rows, later=True)
    assert set(keys) == {"orphan", "own"}
    for row in rows:
        assert state_of(driven, row["key"]) == (row["state"], None)
        assert driven.live.find("timer", row["key"]).state == row["state"]


def test_an_unknown_kind_is_left_to_others_for_the_grace_and_then_parked(driven):
    grace = driven.live.settings.unknown_kind_grace
    clock = driven.parts._clock
    pass_over(driven, {"kind": "martian"})  # due at 1 s, it is 10 s now
    assert state_of(driven) == ("armed", None)

    def turn_at(seconds):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        clock.advance((now - clock.utc).total_seconds())
        driven.beat()
        driven.turn()

    turn_at(1 + grace - 0.000001)
    assert state_of(driven) == ("armed", None)
    turn_at(1 + grace)
    state, reason = state_of(driven)
    assert state == "parked"
    assert "'martian'" in reason
    assert "install" in reason


def test_an_engine_that_knows_the_kind_takes_what_another_left(rows_url):
    clock = SettableClock()
    old = Driven(rows_url, clock, (Recorder(),))
    write_row(old, kind="martian")
    clock.advance(10)
    old.turn()
    assert state_of(old) == ("armed", None)
    recorder = Recorder("martian")
    new = Driven(rows_url, clock, (recorder,))
    new.turn()
    new.settle()
    assert recorder.keys == ["bad"]
    old.abandon()
    new.abandon()


# --- handlers -------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Invisible:
    def __repr__(self):
        raise RuntimeError("no picture")


TRIED_AGAIN = {
    "an exception": ValueError("why"),
    "no outcome": lambda deadline: 42,
    "the class of one": lambda deadline: Done,
    "what cannot be shown": lambda deadline: Invisible(),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "a long exception": ValueError("😀" * 100_000),
    "an exception of several lines": ValueError("a\nb\n"),
    "an exception without words": Unspeakable(),
    "an exception with a surrogate": ValueError("a\udcffb"),
    "an exception with a NUL": ValueError("a\0b"),
    "a bare outcome": lambda deadline: Outcome(),
    "rearm in nan": lambda deadline: Rearm(math.nan),
    "rearm in inf": lambda deadline: Rearm(math.inf),
    "rearm in text": lambda deadline: Rearm("5"),
    "rearm in ages": lambda deadline: Rearm(HUGE),
    "rearm before now": lambda deadline: Rearm(-5),
    "rearm when?": lambda deadline: Rearm(None),
    "retry in text": lambda deadline: Retry("why", "5"),
    "retry before now": lambda deadline: Retry("why", -5),
    "retry for no text": lambda deadline: Retry(5),
    "park for no text": lambda deadline: Park(5),
    "park for nothing": lambda deadline: Park(None),
    "release for no text": lambda deadline: Release(5),
}


def test_nonsense_of_handlers_is_a_retry_and_disturbs_no_other(driven, caplog):
    """All of it at once, so that each has the others behind it."""
    caplog.set_level(logging.CRITICAL)  # pytest-xdist cannot pass surrogates on
    recorders = {}
    for number, answer in enumerate(TRIED_AGAIN.values()):
        recorder = recorders[f"kind {number}"] = Recorder(f"kind {number}")
        recorder.answer = answer
        driven.live.add_handler(recorder)
        driven.live.arm(recorder.kind, "bad", due_in=1)
        driven.live.arm("timer", f"good {number}", due_in=1)
    driven.turn()
    driven.parts._clock.advance(1)
    for _ in range(8):
        driven.turn()
        driven.settle()
    good = driven.live.handlers.get("timer").keys
    assert sorted(good) == sorted(f"good {number}" for number in range(len(recorders)))
    assert driven.parts._settler.pending == 0
    for case, kind in zip(TRIED_AGAIN, recorders, strict=True):
        row = driven.live.find(kind, "bad")
        facts = row.state, row.attempts, row.owner_id
        assert (case, facts) == (case, ("armed", 1, driven.id))
        assert row.last_error
        assert row.last_error.isprintable() or "lines" in case
        recorders[kind].answer = None
    # Each is called again; one that was claimed before is claimed alone.
    driven.parts._clock.advance(driven.live.settings.backoff_max)
    driven.beat()
    for _ in range(len(recorders) + 3):
        driven.turn()
        driven.settle()
    left = [
        case
        for kind, case in zip(recorders, TRIED_AGAIN, strict=True)
        if driven.live.find(kind, "bad")
    ]
    assert left == []


def answered(driven, answer):
    """A deadline that is answered so."""
    recorder = driven.live.handlers.get("timer")
    driven.live.arm("timer", "bad", due_in=1)
    recorder.answer = answer
    driven.turn()
    driven.parts._clock.advance(1)
    driven.turn()
    driven.settle()
    assert driven.parts._settler.pending == 0
    return driven.live.find("timer", "bad")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (exceptions.Reject("why"), "why"),
        (lambda deadline: Park("why"), "why"),
        (lambda deadline: Park("x" * 5000), "x" * 2000),
        (lambda deadline: Park("é😀\n'\""), "é😀\n'\""),
        (lambda deadline: Park(""), None),
        (exceptions.Reject(5), "5"),
    ],
)
def test_a_handler_can_refuse_a_deadline_with_its_reason(driven, answer, reason):
    row = answered(driven, answer)
    assert (row.state, row.owner_id, row.last_error) == ("parked", None, reason)


@pytest.mark.parametrize("reason", ["a\0b", "a\ud800b"])
def test_a_reason_that_cannot_be_kept_is_kept_as_well_as_can_be(driven, reason):
    row = answered(driven, lambda deadline: Park(reason))
    assert row.state == "parked"
    assert row.last_error.startswith("a")
    assert row.last_error.endswith("b")


def test_a_handler_that_always_fails_is_parked_after_its_attempts(driven):
    recorder = driven.live.handlers.get("timer")
    recorder.answer = ValueError("why")
    driven.live.arm("timer", "bad", due_in=1, max_attempts=3)
    driven.turn()
    for attempt in range(1, 4):
        driven.parts._clock.advance(driven.live.settings.backoff_max)
        driven.beat()
        for _ in range(2):
            driven.turn()
            driven.settle()
        assert len(recorder.calls) == attempt
    row = driven.live.find("timer", "bad")
    assert (row.state, row.attempts) == ("parked", 3)
    assert "gave up after attempt 3" in row.last_error
    assert "ValueError: why" in row.last_error


def test_a_hung_handler_delays_no_other(driven):
    gate = Gate()
    hung = Recorder("hung", handler_timeout=5.0)
    hung.answer = gate
    driven.live.add_handler(hung)
    driven.live.arm("hung", "bad", due_in=1)
    driven.live.arm("timer", "own", due_in=2)
    driven.turn()
    driven.parts._clock.advance(2)
    driven.turn()
    assert gate.entered.wait(10)
    wait_until(lambda: driven.live.handlers.get("timer").keys == ["own"])
    driven.parts._clock.advance(5)
    driven.turn()
    row = driven.live.find("hung", "bad")
    assert (row.state, row.attempts) == ("armed", 1)
    assert "did not return in 5 s" in row.last_error
    gate.open.set()
    time.sleep(0)
    driven.turn()
    assert driven.live.find("hung", "bad") == row


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"kind": ""}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "x" * 65}, "64"),
        ({"kind": "é"}, "ASCII"),
        ({"when_orphaned": "explode"}, "when_orphaned"),
        ({"handler_timeout": -1}, "handler_timeout"),
        ({"handler_timeout": math.nan}, "handler_timeout"),
        ({"handler_timeout": "5"}, "handler_timeout"),
        ({"backoff_initial": math.inf}, "backoff_initial"),
        ({"backoff_max": True}, "backoff_max"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
    ],
)
def test_a_handler_that_cannot_work_is_refused(sqlite_url, attributes, word):
    live = Liveness(Settings.of(connection=sqlite_url))
    with pytest.raises(exceptions.ConfigError, match=word) as caught:
        live.add_handler(Recorder(**{"kind": "timer", **attributes}))
    assert "\n" not in str(caught.value)
    assert not live.handlers


@pytest.mark.parametrize("handler", [None, 5, object(), "timer", Handler])
def test_what_is_no_handler_is_refused(sqlite_url, handler):
    live = Liveness(Settings.of(connection=sqlite_url))
    with pytest.raises(exceptions.ConfigError):
        live.add_handler(handler)


def test_a_decorator_with_an_unknown_attribute_is_refused(sqlite_url):
    live = Liveness(Settings.of(connection=sqlite_url))
    with pytest.raises(exceptions.ConfigError, match="'timeout'"):
        live.handler("timer", timeout=5)(lambda deadline: None)
