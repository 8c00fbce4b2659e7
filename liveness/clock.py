"""Time: one object that every other module is handed.

Two clocks matter. *Monotonic* seconds, local, never set back, which go on while
the machine sleeps; and the *database's* UTC, which alone judges what is due. The
program never asks the host for the time of day, except to audit its clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

MAX_SECONDS = 10 * 366 * 86400.0
"""The longest time, in seconds, that the program accepts anywhere."""


class _SqliteDateTime(sqlite.DATETIME):
    """SQLite keeps any value in any column, and compares texts: a date that cannot be
    read is as early, or as late, as it takes it to be."""

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        read: Any = super().result_processor(dialect, coltype)

        def read_any(value: Any) -> datetime | None:
            if type(value) is str:
                # (To give a datetime its zone afterwards costs ten times as much.)
                try:
                    return datetime.fromisoformat(f"{value}+00:00")
                except ValueError:
                    pass
            try:
                found: datetime | None = read(value)
                return found
            except (ValueError, TypeError):
                early = isinstance(value, (int, float)) or str(value) < "1970"
                return datetime.min if early else datetime.max  # noqa: DTZ901

        return read_any


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime, kept to the microsecond without a zone."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):  # plain DATETIME keeps whole seconds
            from sqlalchemy.dialects import mysql  # 1 MiB that others need not have

            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        if dialect.name == "sqlite":
            return dialect.type_descriptor(_SqliteDateTime())
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(
        self, value: datetime | None, dialect: sa.Dialect
    ) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], datetime | None]:
        # In place of process_result_value, which costs two calls more for each value.
        read = self.impl_instance.result_processor(dialect, coltype)

        def process(value: Any) -> datetime | None:
            if read is not None and value.__class__ is not datetime:
                value = read(value)
            if value.__class__ is datetime and value.tzinfo is UTC:
                found: datetime = value  # of a driver, or of SQLite, read as UTC
                return found
            if value is None:
                return None
            if not isinstance(value, datetime):  # MySQL's 0000-00-00, a text to PyMySQL
                value = datetime.min  # noqa: DTZ901 -- it gets one below
            moment: datetime = value.replace(tzinfo=UTC)
            return moment

        return process


class database_now(ColumnElement[datetime]):
    """The database's UTC, shifted by some seconds, constant within a statement."""

    inherit_cache = True
    _traverse_internals = [
        ("shift", sa.sql.visitors.InternalTraversal.dp_clauseelement)
    ]
    type = UtcDateTime()

    def __init__(self, seconds: float = 0.0) -> None:
        self.shift = sa.bindparam(
            "shift", round(seconds * 1e6), type_=sa.BigInteger(), unique=True
        )


@compiles(database_now, "mysql", "mariadb")
def _mysql_now(element: database_now, compiler: Any, **kw: Any) -> str:
    shift = compiler.process(element.shift, **kw)
    return f"(UTC_TIMESTAMP(6) + INTERVAL {shift} MICROSECOND)"


@compiles(database_now, "postgresql")
def _postgresql_now(element: database_now, compiler: Any, **kw: Any) -> str:
    # statement_timestamp() is STABLE, so an index can serve a comparison with it;
    # clock_timestamp() is VOLATILE and now() is the start of the transaction.
    shift = compiler.process(element.shift, **kw)
    return (
        "(timezone('utc', statement_timestamp())"
        f" + CAST({shift} AS BIGINT) * INTERVAL '1 microsecond')"
    )


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: Any, **kw: Any) -> str:
    # SQLite counts milliseconds; three more digits make it compare as text.
    shift = compiler.process(element.shift, **kw)
    return (
        "(strftime('%Y-%m-%d %H:%M:%f', 'now',"
        f" ({shift} / 1000000.0) || ' seconds') || '000')"
    )


class Clock:
    """The real clocks. Tests hand in an object with the same three methods."""

    _source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic(self) -> float:
        """Seconds since some fixed moment; goes on during suspend to RAM."""
        return time.clock_gettime(self._source)

    def host_now(self) -> datetime:
        """This host's UTC: only for the audit, to compare it with the database's."""
        return datetime.now(UTC)

    def database_now(self, seconds: float = 0.0) -> ColumnElement[datetime]:
        """SQL for the database's UTC, ``seconds`` from now."""
        return database_now(seconds)

    def __repr__(self) -> str:
        return type(self).__name__


def seconds(value: Any, what: str, minimum: float = 0.0) -> float:
    """Return ``value`` as a number of seconds.

    :raises ValueError: in one sentence, when it is no finite number of at least
        ``minimum`` and at most ten years.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{what} must be a number of seconds, not {value!r}")
    if not minimum <= value <= MAX_SECONDS:  # false for NaN, too
        raise ValueError(
            f"{what} must be between {minimum:g} and {MAX_SECONDS:g} seconds,"
            f" not {value!r}"
        )
    return float(value)


def moment(value: Any, what: str) -> datetime:
    """Return ``value`` as an aware UTC datetime.

    :raises ValueError: in one sentence, when it is naive, no datetime, or out of
        the range 1970 to 2999 that every database keeps.
    """
    if not isinstance(value, datetime):
        raise ValueError(f"{what} must be a datetime, not {value!r}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"{what} must have a time zone ({value.isoformat()} has none);"
            " use datetime.now(timezone.utc)"
        )
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        utc = datetime.max.replace(tzinfo=UTC)
    if not 1970 <= utc.year < 3000:
        raise ValueError(f"{what} must lie between 1970 and 2999, not {value}")
    return utc
