"""Faults at the edge of the real store: nothing here stands in for the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_db import exception as db_exc


class Away(db_exc.DBConnectionError):
    """The connection broke; whether the statement counted is unknown."""

    def __init__(self) -> None:
        super().__init__(OSError("the connection was lost"))


class Lost(db_exc.DBDeadlock):
    """Another engine was quicker, on another node of a Galera cluster."""

    def __init__(self) -> None:
        super().__init__(OSError("(1213, 'Deadlock found')"))


class Fault:
    """Wraps one method of a store object.

    ``before`` calls fail without having been sent; ``after`` calls are executed and
    committed, and then fail as if the answer had been lost. ``calls`` counts all.
    """

    def __init__(
        self,
        target: Any,
        name: str,
        before: float = 0,
        after: float = 0,
        error: type[Exception] = Away,
    ) -> None:
        self.error = error
        self.calls = 0
        self.before = before
        self.after = after
        self._method = getattr(target, name)
        setattr(target, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.before > 0:
            self.before -= 1
            raise self.error
        result = self._method(*args, **kwargs)
        if self.after > 0:
            self.after -= 1
            raise self.error
        return result


class Meanwhile:
    """Calls ``action`` once, right ``before`` (or after) the wrapped method runs:
    what another thread or another engine did at that very moment."""

    def __init__(
        self, target: Any, name: str, action: Callable[[], Any], before: bool = True
    ) -> None:
        self._method = getattr(target, name)
        self._action: Callable[[], Any] | None = action
        self._before = before
        setattr(target, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._before:
            self._act()
        result = self._method(*args, **kwargs)
        self._act()
        return result

    def _act(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()
