"""The guard around what runs in Heat's threads: written down before, struck out after.

It fails open: what cannot be written down runs all the same.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from liveness import Liveness, exceptions
from liveness.heat import names
from liveness.owner import Guard

LOG = logging.getLogger(__name__)

FOR_EVER = 30 * 86400.0
"""Seconds until something is due that is written down for its orphan's sake."""

AFTERMATH = 5.0
"""Seconds after which it is seen what became of an action that ended in an error."""


@dataclasses.dataclass
class Run:
    """One action that runs in this process. ``queue``: by which Heat cancels it."""

    queue: Any = None
    looks: int = 0


_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("run", default=None)


class Guards:
    """What runs in this process, by the keys of the deadlines. Thread-safe."""

    def __init__(self, live: Liveness, resource_timeout: float) -> None:
        """``resource_timeout``: of resource actions; 0: none."""
        self._live = live
        self._action_due = resource_timeout or FOR_EVER
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, key: str) -> Run | None:
        """What is written down under that key, while it runs."""
        with self._lock:
            return self._runs.get(key)

    @contextlib.contextmanager
    def guard(
        self, kind: str, what: names.Action | names.SnapshotDelete
    ) -> Iterator[None]:
        """Run the block with ``what`` written down. If it ends in an error, a handler
        has a look at what came of it: Heat may not have had the time to write it."""
        with contextlib.ExitStack() as armed:
            guard = self._write_down(armed, kind, what)
            try:
                yield
            except Exception:
                if guard is not None:
                    _leave(armed, guard)
                raise
            finally:
                _close(armed, kind)

    def _write_down(
        self,
        armed: contextlib.ExitStack,
        kind: str,
        what: names.Action | names.SnapshotDelete,
    ) -> Guard | None:
        due_in = self._action_due if kind == names.ACTION else FOR_EVER
        try:
            key = what.new_key()
            armed.enter_context(self._running(key))
            return armed.enter_context(
                self._live.guard(kind, key, due_in=due_in, payload=what.dump())
            )
        except Exception as error:  # whatever it is, Heat's work goes on
            LOG.warning("A %s runs, and is not guarded: %s", kind, error)
            return None

    @contextlib.contextmanager
    def _running(self, key: str) -> Iterator[None]:
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
    """Heat makes the queue known by which it cancels what runs in this thread."""
    run = _run.get()
    if run is not None:
        run.queue = queue
    return original(self, stack_id, queue)


def _leave(armed: contextlib.ExitStack, guard: Guard) -> None:
    """Do not strike it out, let it come to a handler soon."""
    with contextlib.suppress(exceptions.LivenessError):
        guard.extend(due_in=AFTERMATH)
    deadline = guard.deadline
    stale = exceptions.StaleDeadline(
        kind=deadline.kind, key=deadline.key, token=deadline.token
    )
    with contextlib.suppress(exceptions.StaleDeadline):
        armed.__exit__(type(stale), stale, None)


def _close(armed: contextlib.ExitStack, kind: str) -> None:
    try:
        armed.close()
    except exceptions.StaleDeadline:
        LOG.info("A %s was taken over, or had taken too long.", kind)
    except Exception as error:
        LOG.warning("A %s has ended, and is not struck out: %s", kind, error)
