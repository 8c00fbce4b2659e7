"""A clock that stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

from liveness.clock import UtcDateTime


class _set_now(ColumnElement[datetime]):
    """The clock's UTC, read when the statement runs."""

    inherit_cache = True
    _traverse_internals = [
        ("moment", sa.sql.visitors.InternalTraversal.dp_clauseelement)
    ]
    type = UtcDateTime()

    def __init__(self, read: Callable[[], datetime]) -> None:
        self.moment = sa.bindparam("now", callable_=read, type_=self.type, unique=True)


@compiles(_set_now)
def _as_it_is(element: _set_now, compiler: Any, **kw: Any) -> str:
    return compiler.process(element.moment, **kw)


@compiles(_set_now, "mysql", "mariadb")
def _with_its_type(element: _set_now, compiler: Any, **kw: Any) -> str:
    # A literal in a select list would come back as text.
    return f"CAST({compiler.process(element.moment, **kw)} AS DATETIME(6))"


class SettableClock:
    """Stands in for :class:`liveness.clock.Clock`. Several engines may share one, or
    have clocks of their own on one database."""

    def __init__(self, monotonic: float = 1000.0) -> None:
        self._monotonic = monotonic
        self.utc = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self._monotonic

    def database_now(self, seconds: float = 0.0) -> ColumnElement[datetime]:
        shift = timedelta(seconds=seconds)
        return _set_now(lambda: self.utc + shift)

    def advance(self, seconds: float) -> None:
        """Let time pass, everywhere."""
        self._monotonic += seconds
        self.utc += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """Set the database's clock; monotonic time does not notice."""
        self.utc += timedelta(seconds=seconds)
