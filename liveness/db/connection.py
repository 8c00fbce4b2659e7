"""Connections: which drivers, which timeouts, which transactions.

Every connection is in autocommit, so that a single statement is one round trip
and nothing stays open between statements. A transaction is opened by saying so
(:func:`transaction`), and is short.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from oslo_db import exception as db_exc
from oslo_db.sqlalchemy import exc_filters
from sqlalchemy.engine import URL, make_url

from liveness import exceptions

R = TypeVar("R")

NO_WAIT = {"liveness_no_wait": True}
"""Execution option of a statement that must not wait for a row lock (MariaDB)."""

RETURNED = "liveness_returned"

IDLE = 0.05
"""Seconds after which a connection counts as idle: it is looked at before it is used.
(To look lets other threads in, who may keep the interpreter for a while.)"""

MODULES = {"sqlite": "sqlite3", "mysql": "pymysql", "postgresql": "psycopg"}

DRIVERS = {"sqlite": "pysqlite", "mysql": "pymysql", "postgresql": "psycopg"}


def parse_url(url: str) -> URL:
    """Return ``url`` with the one supported driver of its database named.

    :raises ConfigError: when it is no URL of SQLite, MySQL/MariaDB or PostgreSQL.
        The message holds no password.
    """
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError, TypeError):
        raise exceptions.ConfigError(
            reason="[liveness] connection is not a database URL; it looks like"
            " mysql+pymysql://USER:PASSWORD@HOST/NAME or sqlite:///PATH (the value"
            " is not shown: it may hold a password)"
        ) from None
    backend, _, driver = parsed.drivername.partition("+")
    backend = "mysql" if backend == "mariadb" else backend
    if backend not in DRIVERS or driver not in ("", DRIVERS[backend]):
        supported = ", ".join(f"{name}+{drv}" for name, drv in DRIVERS.items())
        raise exceptions.ConfigError(
            reason=f"[liveness] connection names {parsed.drivername!r}; supported are"
            f" {supported}"
        )
    if backend == "sqlite" and _in_memory(parsed):
        raise exceptions.ConfigError(
            reason="[liveness] connection is an SQLite database in memory, which no"
            " other engine can see; name a file: sqlite:///PATH"
        )
    if importlib.util.find_spec(MODULES[backend]) is None:
        raise exceptions.ConfigError(
            reason=f"[liveness] connection needs {MODULES[backend]}, which is not"
            f" installed: pip install 'liveness[{backend}]'"
        )
    parsed = parsed.set(drivername=f"{backend}+{DRIVERS[backend]}")
    if backend == "mysql":  # our tables are utf8mb4, whatever the host's are
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed


def _in_memory(url: URL) -> bool:
    name = url.database or ":memory:"
    return ":memory:" in name or "memory" in str(url.query.get("mode", ""))


class Database:
    """The shared database: makes engines (pools) whose every connection has connect,
    read and write timeouts of ``timeout`` seconds, and READ COMMITTED."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = parse_url(url)
        self.timeout = timeout
        self.backend = self.url.get_backend_name()
        self._pools: list[sa.Engine] = []

    def __str__(self) -> str:
        # The query may hold a password as well.
        return self.url.set(query={}).render_as_string(hide_password=True)

    def pool(self, size: int) -> sa.Engine:
        """Return a new engine with at most ``size`` connections, none open yet."""
        engine = sa.create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=size,
            max_overflow=0,
            pool_timeout=self.timeout,
            poolclass=sa.QueuePool,
            connect_args=self._connect_args(),
            hide_parameters=True,
        )
        translate_errors(engine)
        sa.event.listen(engine, "connect", self._on_connect)
        if self.backend != "sqlite":
            sa.event.listen(engine, "checkout", _replace_if_closed)
            sa.event.listen(engine, "checkin", _note_return)
        if self.backend == "mysql":
            sa.event.listen(
                engine, "before_cursor_execute", _without_waiting, retval=True
            )
        if self.backend == "postgresql":
            sa.event.listen(engine, "do_connect", self._connect_postgresql)
        self._pools.append(engine)
        return engine

    def close(self) -> None:
        """Close every pool; connections in use are closed when given back."""
        for engine in self._pools:
            engine.dispose()

    def _connect_args(self) -> dict[str, Any]:
        whole = max(1, math.ceil(self.timeout))
        if self.backend == "mysql":
            from liveness.db import pymysql_dates

            return {
                "conv": pymysql_dates.CONVERSIONS,
                "connect_timeout": whole,
                "read_timeout": self.timeout,
                "write_timeout": self.timeout,
            }
        if self.backend == "postgresql":
            return {"connect_timeout": max(2, whole), "application_name": "liveness"}
        return {"timeout": self.timeout, "check_same_thread": False}

    def _connect_postgresql(
        self, dialect: Any, record: Any, args: Any, kwargs: Any
    ) -> Any:
        from liveness.db import psycopg_dates, psycopg_timeout

        connection = psycopg_timeout.connection_class(self.timeout)
        made = connection.connect(*args, **kwargs)
        psycopg_dates.bound(made)
        return made

    def _on_connect(self, dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        for statement in self._session_setup(dbapi_connection):
            cursor.execute(statement)
        cursor.close()

    def _session_setup(self, dbapi_connection: Any) -> Iterator[str]:
        # The server's own timeouts: a paused client must not keep its row locks for
        # the server's eight hours of wait_timeout.
        whole = max(1, math.ceil(self.timeout))
        lock_wait = self.timeout * 0.8  # the server says so before the client hangs up
        if self.backend == "mysql":
            yield "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
            yield "SET SESSION sql_mode = 'TRADITIONAL'"
            whole_wait = max(1, math.floor(lock_wait))
            yield f"SET SESSION innodb_lock_wait_timeout = {whole_wait}"
            yield f"SET SESSION lock_wait_timeout = {whole_wait}"
            if "MariaDB" in dbapi_connection.get_server_info():
                yield f"SET SESSION idle_transaction_timeout = {whole}"
                if _has_galera(dbapi_connection):
                    # Reads and row counts of this node must know what was committed
                    # on others before: lost answers are judged by them.
                    yield "SET SESSION wsrep_sync_wait = 7"
        elif self.backend == "postgresql":
            millis = round(self.timeout * 1000)
            yield "SET default_transaction_isolation = 'read committed'"
            yield f"SET statement_timeout = {millis}"
            yield f"SET lock_timeout = {round(lock_wait * 1000)}"
            yield f"SET idle_in_transaction_session_timeout = {millis}"
            # Every statement has its index. Without these, what the planner believes of
            # the table (its statistics are of another hour) may be that reading all of
            # it is cheaper.
            yield "SET enable_seqscan = off"
            yield "SET enable_bitmapscan = off"
            yield "SET enable_sort = off"
            yield "SET jit = off"
            # What was acknowledged must survive the crash of a backend, after which the
            # server is the same one: an observer would not notice that a beat is gone.
            yield (
                "SELECT set_config('synchronous_commit', 'local', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        else:
            yield "PRAGMA synchronous = FULL"


def _replace_if_closed(dbapi_connection: Any, record: Any, proxy: Any) -> None:
    """A connection that the server closed while it was idle is replaced before it is
    used: what is sent on it would have an answer that nobody knows."""
    if not hasattr(select, "poll"):  # eventlet takes it away
        return
    if time.monotonic() - record.info.get(RETURNED, 0.0) < IDLE:
        return
    link = getattr(dbapi_connection, "_sock", dbapi_connection)  # PyMySQL's; psycopg's
    try:
        number = link.fileno()
    except Exception:
        raise sa.exc.DisconnectionError("it was closed on this side") from None
    poll = select.poll()
    poll.register(number, getattr(select, "POLLRDHUP", 0))
    if poll.poll(0):
        raise sa.exc.DisconnectionError("the server closed it")


def _note_return(dbapi_connection: Any, record: Any) -> None:
    record.info[RETURNED] = time.monotonic()


def translate_errors(engine: sa.Engine) -> None:
    """Raise oslo.db's error classes, without its log entry of 60 lines for each error
    that it has no class for: those are logged where they are handled."""
    sa.event.listen(engine, "handle_error", _note_error)
    exc_filters.register_engine(engine)
    sa.event.remove(engine, "handle_error", exc_filters.handler)
    sa.event.listen(engine, "handle_error", _translated, retval=True)
    noisy = logging.getLogger(exc_filters.__name__)
    if not any(isinstance(f, _NotWrapped) for f in noisy.filters):
        noisy.addFilter(_NotWrapped())


def _translated(context: Any) -> Any:
    try:
        return exc_filters.handler(context)
    except NotImplementedError:
        # The first connection of a pool, lost while SQLAlchemy asked the server what it
        # is: oslo.db looks for facts on it that it does not have yet.
        return db_exc.DBConnectionError(context.original_exception)


_handled = threading.local()


def _note_error(context: Any) -> None:
    _handled.errors = (context.original_exception, context.sqlalchemy_exception)


class _NotWrapped(logging.Filter):
    """Drops that entry for errors of this program's own connections, not the host's."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        ours = error is not None and error in getattr(_handled, "errors", ())
        _handled.errors = ()
        return not ours


def _without_waiting(
    conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    options = context.execution_options if context is not None else {}
    if NO_WAIT.keys() & options.keys() and getattr(conn.dialect, "is_mariadb", False):
        statement = f"SET STATEMENT innodb_lock_wait_timeout = 0 FOR {statement}"
    return statement, parameters


def _has_galera(dbapi_connection: Any) -> bool:
    cursor = dbapi_connection.cursor()
    cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
    row = cursor.fetchone()
    cursor.close()
    return row is not None and row[1] == "ON"


@contextlib.contextmanager
def transaction(connection: sa.Connection) -> Iterator[None]:
    """Run the block as one transaction of an autocommit connection.

    Afterwards it is committed, or (on any exception, which goes on) rolled back. A
    connection that cannot even roll back is thrown away.
    """
    sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if sqlite else "BEGIN")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        try:
            if not connection.invalidated:
                connection.exec_driver_sql("ROLLBACK")
        except Exception:
            connection.invalidate()
        raise


def has_bounded_locks(dialect: Any) -> bool:
    """SKIP LOCKED, and a server that ends the transaction of a paused client."""
    if dialect.name == "postgresql":
        return True
    version = dialect.server_version_info
    return bool(getattr(dialect, "is_mariadb", False)) and version >= (10, 6)


def one_line(error: BaseException) -> str:
    """The driver's own message on one line, without statement or parameters."""
    origin = getattr(error, "orig", None) or getattr(error, "inner_exception", None)
    while origin is not None and getattr(origin, "orig", None) is not None:
        origin = origin.orig
    text = str(origin if origin is not None else error)
    text = text.partition("(Background on this error at:")[0]
    return " ".join(text.split()) or type(error).__name__


def is_database_error(error: BaseException) -> bool:
    """True when ``error`` came from the database or the pool, not from a bug."""
    return isinstance(error, (db_exc.DBError, sa.exc.SQLAlchemyError, OSError))


def is_passing(error: BaseException) -> bool:
    """True for a conflict that a second try may not meet: deadlock, lock timeout,
    Galera's certification failure, a lost connection, SQLite's busy."""
    if isinstance(error, exceptions.LivenessError):
        return False
    if isinstance(error, (db_exc.DBDeadlock, db_exc.DBConnectionError)):
        return True
    text = one_line(error)
    if "password authentication failed" in text:
        return False
    return any(
        mark in text
        for mark in (
            "(1180,",  # Galera: error during COMMIT
            "(1205,",
            "(1213,",
            "database is locked",
            "could not serialize",
            "deadlock detected",
            "server closed the connection",
            "terminating connection",
            "connection is lost",
            "lock timeout",
            "connection timeout expired",
            "connection failed",
            "Connection refused",
            "the database system is starting up",
            "the database system is shutting down",
        )
    )


def is_about_values(error: BaseException) -> bool:
    """True when a statement failed for what it was to write, and always will."""
    if isinstance(error, sa.exc.StatementError) and not isinstance(
        error, sa.exc.DBAPIError
    ):
        return True  # a value that the driver cannot even send
    data = (db_exc.DBDataError, db_exc.DBInvalidUnicodeParameter, sa.exc.DataError)
    return isinstance(error, (*data, TypeError, ValueError, OverflowError))


def retrying(
    function: Callable[[], R],
    tries: int = 4,
    sleep: Callable[[float], object] = time.sleep,
) -> R:
    """Call ``function`` until it returns, at most ``tries`` times, with growing
    pauses of some ten milliseconds. It must be idempotent. The last error goes on."""
    for attempt in range(1, tries + 1):
        try:
            return function()
        except Exception as error:
            if attempt == tries or not is_passing(error):
                raise
            sleep(0.02 * 2**attempt)
    raise AssertionError("unreachable")
