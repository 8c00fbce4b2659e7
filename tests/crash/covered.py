"""Which methods of the store an operation calls: so that none is left out."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from liveness.db.claims import Claims
from liveness.db.deadlines import Deadlines
from liveness.db.engines import Engines
from liveness.db.events import EventLog
from liveness.db.heads import Heads
from tests.crash.operations import Tell

CLASSES = (Claims, Deadlines, Engines, EventLog, Heads)

READS = {
    "Deadlines.armed",
    "Deadlines.find",
    "Deadlines.counts",
    "Deadlines.parked",
    "Engines.all",
    "Engines.count_alive",
    "Engines.get",
    "Engines.not_alive",
    "Engines.observe",
    "Engines.owners_not_alive",
    "Engines.server_start",
    "EventLog.copied",
    "EventLog.newest_first",
    "Heads.serve",
}
"""These change nothing: a process may die at them all day long."""


def methods() -> set[str]:
    """Every public method of the store."""
    return {
        f"{cls.__name__}.{name}"
        for cls in CLASSES
        for name, _ in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


def watch(tell: Tell) -> None:
    """From now on, in this process, tell of every call of one that writes."""
    for cls in CLASSES:
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            full = f"{cls.__name__}.{name}"
            if not name.startswith("_") and full not in READS:
                setattr(cls, name, _told(method, full, tell))


def _told(method: Any, full: str, tell: Tell) -> Any:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        tell(f"called {full}")
        return method(*args, **kwargs)

    return call
