"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from liveness.clock import UtcDateTime


class SettableClock:
    """Stands in for :class:`liveness.clock.Clock`. Several engines may share one, or
    have clocks of their own on one database."""

    def __init__(self, monotonic: float = 1000.0) -> None:
        self._monotonic = monotonic
        self.utc = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self._monotonic

    def database_now(self, seconds: float = 0.0) -> sa.ColumnElement[datetime]:
        shift = timedelta(seconds=seconds)
        return sa.bindparam(
            "now", callable_=lambda: self.utc + shift, type_=UtcDateTime, unique=True
        )

    def advance(self, seconds: float) -> None:
        """Let time pass, everywhere."""
        self._monotonic += seconds
        self.utc += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """Set the database's clock; monotonic time does not notice."""
        self.utc += timedelta(seconds=seconds)
