"""Connections: timeouts that really end a wait, the transactions that were asked for
and no others, and errors that say what they are."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from oslo_db import exception as db_exc
from oslo_db.sqlalchemy import exc_filters

from liveness import Arm, exceptions
from liveness.clock import Clock
from liveness.db import connection as connection_module
from liveness.db import tables
from liveness.db.connection import (
    Database,
    is_database_error,
    is_passing,
    one_line,
    parse_url,
    retrying,
    transaction,
)
from tests.fleet import Driven, Recorder
from tests.store.conftest import ME

D = tables.deadline
E = tables.engine

SLACK = 20.0
"""Seconds that a slow machine may take on top of a timeout."""

servers_only = pytest.mark.parametrize(
    "backend", ["mariadb", "postgresql"], indirect=True
)


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer, instead of waiting for ever with it."""
    over = threading.Timer(seconds + SLACK, lambda: None)
    started = time.monotonic()
    over.start()
    try:
        yield
    finally:
        over.cancel()
    assert time.monotonic() - started < seconds + SLACK


@pytest.fixture
def database(store) -> Iterator[Database]:
    made = Database(store.url, 1.0)
    yield made
    made.close()


def ask(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.literal(1))).scalar_one()


# --- timeouts ---------------------------------------------------------------


@servers_only
def test_connecting_to_a_port_that_never_answers_ends(store):
    """The kernel completes the connection; nobody ever says a word on it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = store.database.url.set(port=silent.getsockname()[1])
        silent_one = Database(url.render_as_string(hide_password=False), 1.0)
        with ends_within(5), pytest.raises(Exception) as caught:
            silent_one.pool(1).connect()
        silent_one.close()
    assert is_database_error(caught.value)
    assert is_passing(caught.value)


@servers_only
def test_connecting_to_a_port_where_nobody_listens_ends(store):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = store.database.url.set(port=gone.getsockname()[1])
    nobody = Database(url.render_as_string(hide_password=False), 1.0)
    with ends_within(5), pytest.raises(Exception) as caught:
        nobody.pool(1).connect()
    assert is_database_error(caught.value)
    assert is_passing(caught.value)


@servers_only
def test_a_server_that_hangs_ends_a_statement(server, database):
    """SIGSTOP: the server's own timeouts cannot fire; the client stops waiting."""
    with database.pool(1).connect() as connection:
        ask(connection)
        server.pause()
        with ends_within(2), pytest.raises(Exception) as caught:
            ask(connection)
        assert is_database_error(caught.value) and is_passing(caught.value)
        assert connection.invalidated
        server.resume()


@servers_only
@pytest.mark.parametrize("when", ["BEGIN", "COMMIT"])
def test_a_server_that_hangs_ends_a_transaction(server, database, when):
    pool = database.pool(1)

    def pause(connection, cursor, statement, *rest):
        if statement == when:
            server.pause()

    sa.event.listen(pool, "before_cursor_execute", pause)
    with pool.connect() as connection:
        ask(connection)
        with ends_within(3), pytest.raises(Exception) as caught:
            with transaction(connection):
                ask(connection)
        assert is_passing(caught.value)
        assert connection.invalidated
    server.resume()
    with pool.connect() as connection:
        assert ask(connection) == 1


@servers_only
def test_a_pool_whose_server_hangs_can_be_left(server, database):
    pool = database.pool(1)
    with pool.connect() as connection:
        ask(connection)
        server.pause()
        with ends_within(1):
            connection.close()
    with ends_within(2), pytest.raises(Exception) as caught:
        with pool.connect() as connection:
            ask(connection)
    assert is_passing(caught.value)
    with ends_within(1):
        database.close()
    server.resume()


@servers_only
def test_a_beat_through_a_hanging_server_ends_and_the_next_one_counts(server, store):
    engine = Driven(store.url, Clock(), engine_id=ME, database_timeout=1.0)
    assert engine.beat()
    server.pause()
    with ends_within(3):
        assert not engine.beat()
    server.resume()
    wait = time.monotonic() + SLACK
    while not engine.beat():
        assert time.monotonic() < wait
    assert store.engine_row(ME).alive and not engine.trust.fenced
    engine.abandon()


@servers_only
def test_a_connection_that_the_server_closed_is_replaced_before_it_is_used(
    database, store, backend, monkeypatch
):
    monkeypatch.setattr(connection_module, "IDLE", 0.0)
    kill = {"mariadb": "KILL {}", "postgresql": "SELECT pg_terminate_backend({})"}
    which = {
        "mariadb": "SELECT CONNECTION_ID()",
        "postgresql": "SELECT pg_backend_pid()",
    }
    pool = database.pool(1)
    with pool.connect() as connection:
        first = connection.exec_driver_sql(which[backend]).scalar_one()
        link = connection.connection.dbapi_connection
    with store.host() as host:
        host.exec_driver_sql(kill[backend].format(first))
    fileno = getattr(link, "_sock", link).fileno()
    with ends_within(5):
        poll = select.poll()
        poll.register(fileno, select.POLLRDHUP)
        assert poll.poll(5000)
    with pool.connect() as connection:
        second = connection.exec_driver_sql(which[backend]).scalar_one()
    assert second != first


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_connection_that_was_used_just_now_is_not_looked_at(database, monkeypatch):
    """Only one that was idle: to look may take the interpreter away."""
    looks = []
    monkeypatch.setattr(select, "poll", lambda: looks.append(1) or Looking())
    pool = database.pool(1)
    pool.connect().close()
    looks.clear()
    for idle, seen in ((60.0, 0), (60.0, 0), (0.0, 1)):
        monkeypatch.setattr(connection_module, "IDLE", idle)
        with pool.connect():
            pass
        assert len(looks) == seen


class Looking:
    def register(self, *args):
        pass

    def poll(self, *args):
        return []


@servers_only
def test_a_statement_that_takes_too_long_ends(database, backend):
    sleep = {"mariadb": "SELECT SLEEP(60)", "postgresql": "SELECT pg_sleep(60)"}
    pool = database.pool(1)
    with pool.connect() as connection:
        with ends_within(3), pytest.raises(Exception) as caught:
            connection.exec_driver_sql(sleep[backend])
        assert is_database_error(caught.value)
    with pool.connect() as connection:
        assert ask(connection) == 1


def test_a_wait_for_a_lock_ends(store):
    store.engine(ME)
    database = Database(store.url, 2.0)  # MariaDB waits for whole seconds
    with store.host() as host:
        host.execute(sa.update(E).values(pid=2))
        with database.pool(1).connect() as connection:
            with ends_within(3), pytest.raises(Exception) as caught:
                connection.execute(sa.update(E).values(pid=3))
            assert is_passing(caught.value)
            assert ask(connection) == 1  # the server said so; nobody hung up
        host.rollback()
    assert store.engine_row(ME).pid == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "said, used", [("off", "local"), ("local", "local"), ("remote_write",) * 2]
)
def test_what_postgresql_acknowledges_is_on_disk(store, said, used):
    option = {"options": f"-c synchronous_commit={said}"}
    database = Database(
        sa.make_url(store.url)
        .update_query_dict(option)
        .render_as_string(hide_password=False),
        2.0,
    )
    with database.pool(1).connect() as connection:
        shown = connection.exec_driver_sql("SHOW synchronous_commit").scalar_one()
    assert shown == used
    database.close()


def test_a_full_pool_ends_the_wait_for_a_connection(database):
    pool = database.pool(1)
    with pool.connect(), ends_within(1), pytest.raises(Exception) as caught:
        pool.connect()
    assert is_database_error(caught.value)
    assert "sqlalche.me" not in one_line(caught.value)


@pytest.mark.parametrize("timeout", [0.2, 0.5, 1.0, 2.5])
def test_any_timeout_that_the_options_allow_can_connect(store, timeout):
    short = Database(store.url, timeout)
    with short.pool(1).connect() as connection:
        assert ask(connection) == 1
    short.close()


# --- what a session is like -------------------------------------------------


@servers_only
def test_every_connection_reads_what_is_committed_and_is_bounded(database, backend):
    asked = {
        "mariadb": "SELECT @@tx_isolation, @@autocommit, @@sql_mode,"
        " @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@idle_transaction_timeout",
        "postgresql": "SELECT current_setting('transaction_isolation'), 1,"
        " current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'),"
        " current_setting('application_name')",
    }
    pool = database.pool(2)
    with pool.connect() as one, pool.connect() as two:
        for connection in (one, two):
            found = tuple(connection.exec_driver_sql(asked[backend]).one())
            if backend == "mariadb":
                assert found[:2] == ("READ-COMMITTED", 1)
                assert "STRICT_ALL_TABLES" in found[2]
                assert found[3:] == (1, 1, 1)
            else:
                assert found == ("read committed", 1, "1s", "800ms", "1s", "liveness")


def test_a_statement_alone_is_committed_at_once(store, database):
    store.engine(ME)
    with database.pool(1).connect() as connection:
        connection.execute(sa.update(E).values(pid=2))
        assert store.engine_row(ME).pid == 2


@servers_only
def test_a_transaction_sees_what_others_commit_meanwhile(store, database):
    store.engine(ME)
    pid = sa.select(E.c.pid).where(E.c.id == ME)
    with database.pool(1).connect() as connection, transaction(connection):
        assert connection.execute(pid).scalar_one() == 1
        store.set_engine(ME, pid=2)
        assert connection.execute(pid).scalar_one() == 2


def test_a_text_that_does_not_fit_is_an_error_and_not_cut(store, backend):
    if backend == "sqlite":
        return  # it keeps any length
    with store.connect() as connection, pytest.raises(Exception) as caught:
        store.deadlines.arm(connection, store.new("k" * 256))
    assert is_database_error(caught.value) and not is_passing(caught.value)
    assert store.keys() == []


# --- transaction() ----------------------------------------------------------


def test_what_a_transaction_wrote_is_committed_at_its_end(store, database):
    store.engine(ME)
    with database.pool(1).connect() as connection:
        with transaction(connection):
            connection.execute(sa.update(E).values(pid=2))
            assert store.engine_row(ME).pid == 1
        assert store.engine_row(ME).pid == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_goes_wrong_in_a_transaction_is_rolled_back(store, database, error):
    store.engine(ME)
    with database.pool(1).connect() as connection:
        with pytest.raises(error):
            with transaction(connection):
                connection.execute(sa.update(E).values(pid=2))
                raise error
        assert store.engine_row(ME).pid == 1
        with transaction(connection):
            connection.execute(sa.update(E).values(pid=3))
    assert store.engine_row(ME).pid == 3


def test_a_statement_that_fails_rolls_the_transaction_back(store, database):
    store.engine(ME)
    with database.pool(1).connect() as connection:
        with pytest.raises(Exception) as caught:
            with transaction(connection):
                connection.execute(sa.update(E).values(pid=2))
                connection.execute(sa.update(E).values(host=None))
        assert is_database_error(caught.value) and not is_passing(caught.value)
        assert store.engine_row(ME).pid == 1
        assert ask(connection) == 1


@servers_only
def test_a_transaction_whose_connection_was_ended_is_reported_and_left(
    server, store, database, backend
):
    store.engine(ME)
    who = {"mariadb": "SELECT CONNECTION_ID()", "postgresql": "SELECT pg_backend_pid()"}
    end = {"mariadb": "KILL {}", "postgresql": "SELECT pg_terminate_backend({})"}
    pool = database.pool(1)
    with pool.connect() as connection:
        number = connection.exec_driver_sql(who[backend]).scalar_one()
        with pytest.raises(Exception) as caught:
            with transaction(connection):
                connection.execute(sa.update(E).values(pid=2))
                server.admin(end[backend].format(number))
        assert is_passing(caught.value)
        assert connection.invalidated
    assert store.engine_row(ME).pid == 1
    with pool.connect() as connection:
        assert ask(connection) == 1


# --- round trips ------------------------------------------------------------


class GeneralLog:
    """What MariaDB was really sent, whoever sent it and on whatever layer."""

    def __init__(self, server, database: str) -> None:
        self._server = server
        self._like = f"%{database}%"

    def __enter__(self) -> GeneralLog:
        self._server.admin("SET GLOBAL log_output = 'TABLE'")
        self._server.admin("TRUNCATE mysql.general_log")
        self._server.admin("SET GLOBAL general_log = ON")
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.admin("SET GLOBAL general_log = OFF")

    def clear(self) -> None:
        self._server.admin("SET GLOBAL general_log = OFF")
        self._server.admin("TRUNCATE mysql.general_log")
        self._server.admin("SET GLOBAL general_log = ON")

    def sent(self) -> list[str]:
        """Commands of the engine's user, in order."""
        rows = self._server.admin(
            "SELECT command_type, CAST(argument AS CHAR) FROM mysql.general_log"
            f" WHERE user_host LIKE '{self._server.engine}%' ORDER BY event_time"
        )
        return [text if kind == "Query" else kind for kind, text in rows]


@pytest.fixture
def log(mariadb, store) -> Iterator[GeneralLog]:
    with GeneralLog(mariadb, store.database.url.database) as made:
        yield made


def verbs(sent: list[str]) -> list[str]:
    return [re.split(r"[\s;(]", text.strip("( \n"), maxsplit=1)[0] for text in sent]


mariadb_only = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)


@mariadb_only
def test_a_beat_is_one_statement_and_nothing_else(store, log):
    engine = Driven(store.url, Clock(), engine_id=ME)
    engine.beat()
    log.clear()
    for _ in range(3):
        assert engine.beat()
    assert verbs(log.sent()) == ["UPDATE"] * 3
    engine.abandon()


@mariadb_only
def test_an_idle_turn_of_the_loop_is_one_statement(store, log):
    """Engines and deadlines are read together."""
    engine = Driven(store.url, Clock(), (Recorder("timer"),), engine_id=ME)
    engine.turn()
    engine.turn()
    log.clear()
    for _ in range(3):
        engine.turn()
    sent = log.sent()
    assert verbs(sent) == ["SELECT"] * 3
    for text in sent:
        assert "liveness_engine" in text and "liveness_deadline" in text
    engine.abandon()


@mariadb_only
def test_arming_and_disarming_are_one_statement_each(store, log):
    engine = Driven(store.url, Clock(), (Recorder("timer"),), engine_id=ME)
    engine.live.disarm(engine.live.arm("timer", "first", due_in=60))
    log.clear()
    value = engine.live.arm("timer", "k", due_in=60)
    engine.live.disarm(value)
    assert verbs(log.sent()) == ["INSERT", "DELETE"]
    engine.abandon()


@mariadb_only
def test_arming_many_asks_for_the_time_and_sends_one_statement(store, log):
    engine = Driven(store.url, Clock(), (Recorder("timer"),), engine_id=ME)
    engine.live.arm("timer", "first", due_in=60)
    log.clear()
    engine.live.arm_many([Arm("timer", f"k{n}", due_in=60) for n in range(1000)])
    assert verbs(log.sent()) == ["SELECT", "INSERT"]
    engine.abandon()


@mariadb_only
def test_firing_a_timer_is_a_claim_and_a_delete(store, log):
    handler = Recorder("timer")
    engine = Driven(store.url, Clock(), (handler,), engine_id=ME)
    engine.turn()
    engine.live.arm("timer", "k", due_in=0)
    log.clear()
    engine.parts.loop._next_sweep = float("inf")  # this turn only fires
    engine.parts.loop.turn()
    engine.settle()
    assert handler.keys == ["k"]
    assert verbs(log.sent()) == ["SET", "DELETE"]  # SET STATEMENT .. FOR UPDATE ..
    engine.abandon()


@mariadb_only
def test_a_claim_by_lock_is_four_statements(store, log):
    value = store.arm(owner="gone", due=-9.0)
    with store.connect() as connection:
        log.clear()
        assert store.claims.claim_overdue(connection, ME, [value], 6.0)
    assert verbs(log.sent()) == ["BEGIN", "SELECT", "UPDATE", "COMMIT"]


@mariadb_only
def test_borrowing_a_connection_sends_nothing(store, log):
    pool = store.pool
    with pool.connect() as connection:
        ask(connection)
    log.clear()
    for _ in range(3):
        with pool.connect():
            pass
    assert log.sent() == []


# --- what is said of errors -------------------------------------------------

PASSWORD = "s3cret-Pa55"
URLS = [
    f"mysql+pymysql://me:{PASSWORD}@127.0.0.1:1/name",
    f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/name",
    f"mysql://me@127.0.0.1:1/name?password={PASSWORD}",
]


@pytest.mark.parametrize("url", URLS)
def test_no_error_and_no_text_shows_the_password(url):
    database = Database(url, 0.5)
    with pytest.raises(Exception) as caught:
        database.pool(1).connect()
    error: BaseException | None = caught.value
    seen = [str(database), repr(database), f"{database}"]
    while error is not None:
        seen += [str(error), repr(error), one_line(error)]
        error = error.__cause__ or error.__context__
    assert not any(PASSWORD in text for text in seen), seen


@pytest.mark.parametrize("backend", ["mariadb", "postgresql"], indirect=True)
def test_a_refused_password_is_not_shown(store, server):
    name = store.database.url.database
    database = Database(server.url(name, password=PASSWORD), 2.0)
    with pytest.raises(Exception) as caught:
        database.pool(1).connect()
    assert is_database_error(caught.value) and not is_passing(caught.value)
    assert PASSWORD not in one_line(caught.value)
    assert "\n" not in one_line(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql+pymysql://me:{PASSWORD}@host:port/name",
        f"oracle://me:{PASSWORD}@host/name",
        f"mysql+mysqldb://me:{PASSWORD}@host/name",
        f"://me:{PASSWORD}",
        PASSWORD,
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_a_url_that_cannot_work_is_refused_in_one_line(url):
    with pytest.raises(exceptions.ConfigError) as caught:
        parse_url(url)
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url, driver",
    [
        ("mysql://h/n", "mysql+pymysql"),
        ("mariadb://h/n", "mysql+pymysql"),
        ("mariadb+pymysql://h/n", "mysql+pymysql"),
        ("postgresql://h/n", "postgresql+psycopg"),
        ("sqlite:////tmp/x.db", "sqlite+pysqlite"),
    ],
)
def test_a_url_gets_the_one_driver_of_its_database(url, driver):
    assert parse_url(url).drivername == driver


def test_oslo_db_logs_the_hosts_own_errors_as_ever_and_not_ours(store, caplog):
    wrong = "SELECT ?" if store.backend == "sqlite" else "SELEC 1"

    def mistake(engine):
        caplog.clear()
        with engine.connect() as connection, pytest.raises(db_exc.DBError):
            connection.exec_driver_sql(wrong)
        return "exception wrapped" in caplog.text

    host = sa.create_engine(store.url, poolclass=sa.NullPool)
    exc_filters.register_engine(host)
    assert [mistake(e) for e in (store.pool, host, store.pool)] == [False, True, False]


def test_one_line_is_the_drivers_own_words(store):
    with store.connect() as connection, pytest.raises(Exception) as caught:
        connection.exec_driver_sql("SELECT\n 1 FROM\n nowhere")
    text = one_line(caught.value)
    assert "nowhere" in text
    assert "\n" not in text and "SQL:" not in text and "sqlalche.me" not in text


# --- is_passing and retrying ------------------------------------------------


@servers_only
def test_a_deadlock_is_passing_and_trying_again_succeeds(store, patient):
    """Two transactions, each with the row that the other wants."""
    for engine_id in ("a", "b"):
        store.engine(engine_id)
    met = threading.Barrier(2, timeout=60)
    tried: list[str] = []

    def write(first: str, second: str) -> None:
        def once() -> None:
            tried.append(first)
            with patient.connect() as connection, transaction(connection):
                connection.execute(sa.update(E).where(E.c.id == first).values(pid=2))
                if len(tried) <= 2:
                    met.wait()
                connection.execute(sa.update(E).where(E.c.id == second).values(pid=2))

        retrying(once)

    threads = [threading.Thread(target=write, args=names) for names in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(tried) == 3  # one of them was told to try again
    assert store.engine_row("a").pid == store.engine_row("b").pid == 2


@servers_only
def test_a_server_that_comes_back_is_ridden_out(server, database, _stores):
    pool = database.pool(1)
    pauses: list[float] = []

    def once() -> int:
        with pool.connect() as connection:
            return ask(connection)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            server.start()

    assert once() == 1
    server.kill()
    try:
        assert retrying(once, sleep=pause) == 1
    finally:
        for store in _stores.values():  # what they have open is gone
            store.pool.dispose()
    assert len(pauses) == 2


@servers_only
def test_a_server_that_was_started_again_is_another_one(server, store, _stores):
    """Who observed the last one begins again: it may have lost what it promised."""

    def seen() -> tuple[str, float]:
        with store.connect() as connection:
            name = store.engines.observe(connection, ME, 1).server
            return name, store.engines.server_start(connection)

    name, start = seen()
    again, same = seen()
    assert again == name and abs(same - start) <= 2
    while server.label == "MariaDB" and uptime(server) < 4:
        time.sleep(0.1)  # it counts whole seconds
    server.kill()
    server.start()
    for other in _stores.values():
        other.pool.dispose()
    later, moved = seen()
    assert later != name or moved - start > 2


def uptime(server) -> int:
    return int(server.admin("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1])


def test_trying_again_has_an_end_and_grows(store):
    pauses: list[float] = []
    tried: list[int] = []

    def busy() -> None:
        tried.append(1)
        raise sa.exc.OperationalError("x", {}, Exception("database is locked"))

    with pytest.raises(sa.exc.OperationalError):
        retrying(busy, sleep=pauses.append)
    assert len(tried) == 4
    assert pauses == sorted(pauses) and len(set(pauses)) == 3
    assert sum(pauses) < 2


@pytest.mark.parametrize(
    "error", [ValueError("deadlock"), exceptions.AlreadyArmed, KeyboardInterrupt]
)
def test_what_is_not_passing_is_not_tried_again(error):
    tried: list[int] = []
    if isinstance(error, type) and issubclass(error, exceptions.AlreadyArmed):
        error = error(kind="k", key="deadlock detected", owner_id="o", state="armed")

    def fail() -> None:
        tried.append(1)
        raise error

    with pytest.raises(BaseException) as caught:
        retrying(fail, sleep=lambda seconds: None)
    assert caught.value is error or isinstance(caught.value, KeyboardInterrupt)
    assert len(tried) == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("style", ["ISO", "German", "SQL, DMY", "Postgres, MDY"])
def test_times_are_read_whatever_style_the_server_writes_them_in(store, style):
    value = store.arm()
    with store.connect() as connection:
        connection.exec_driver_sql(f"SET datestyle = '{style}'")
        assert store.deadlines.find(connection, "timer", "k") == value
        connection.invalidate()
