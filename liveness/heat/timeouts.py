"""Resource actions that take too long in a living engine: cancelled, and done again.

Heat can cancel a task only where it yields, and only all tasks of a stack at once; the
queue by which it does so belongs to one task, though. It is caught when it is made.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from heat.rpc import api as rpc_api

from liveness import Deadline, Outcome, Rearm
from liveness.heat.names import Action

if TYPE_CHECKING:
    from liveness.heat.engine import HeatEngine

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks whether a cancelled action has ended."""

LOOKS = 10
"""After which it hangs where nothing can cancel it."""


@dataclasses.dataclass
class Run:
    """One action that runs in this process."""

    queue: Any = None
    looks: int = 0


_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("run", default=None)


class Runs:
    """The actions that run in this process, by the keys of their deadlines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, key: str) -> Run | None:
        """The one of that deadline, while it runs."""
        with self._lock:
            return self._runs.get(key)

    @contextlib.contextmanager
    def running(self, key: str) -> Iterator[None]:
        """For the block, the action of that deadline runs in this thread."""
        run = Run()
        with self._lock:
            self._runs[key] = run
        before = _run.set(run)
        try:
            yield
        finally:
            _run.reset(before)
            with self._lock:
                del self._runs[key]


def catch_queue(
    original: Callable[..., Any], self: Any, stack_id: str, queue: Any
) -> Any:
    """Heat makes the queue of the task in this thread known."""
    run = _run.get()
    if run is not None:
        run.queue = queue
    return original(self, stack_id, queue)


def expired(engine: HeatEngine, deadline: Deadline, action: Action) -> Outcome:
    """An action has had its time, and its engine lives."""
    if action.engine != engine.engine_id:
        return Rearm(engine.settings.resource_timeout)  # only its own can cancel it
    run = engine.runs.get(deadline.key)
    if run is None:
        return engine.recovery.timed_out(action)
    run.looks += 1
    if run.looks == 1:
        LOG.warning("%s takes too long: it is cancelled.", action.node)
        if run.queue is not None:
            run.queue.put_nowait(rpc_api.THREAD_CANCEL)
    if run.looks > LOOKS:
        return engine.recovery.hangs(action)
    return Rearm(LOOK_SECONDS)
