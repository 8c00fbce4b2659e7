"""Two transactions, stopped where a test wants them to be."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

SECONDS = 60


class Stopped:
    """Work in a thread of its own, which has stopped before the first statement that
    begins with ``mark``, in the middle of whatever transaction that belongs to."""

    def __init__(self, pool: sa.Engine, mark: str, work: Callable[[], Any]) -> None:
        self._pool = pool
        self._mark = mark
        self._work = work
        self._thread: int | None = None
        self._reached, self._go = threading.Event(), threading.Event()
        self._executor = ThreadPoolExecutor(1)

    def __enter__(self) -> Stopped:
        sa.event.listen(self._pool, "before_cursor_execute", self._hook)
        self._future = self._executor.submit(self._run)
        self._future.add_done_callback(lambda _: self._reached.set())
        assert self._reached.wait(SECONDS)
        if self._future.done():
            raise AssertionError(f"never sent {self._mark}: {self._future.result()!r}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._go.set()
        self._executor.shutdown()
        sa.event.remove(self._pool, "before_cursor_execute", self._hook)

    def go_on(self) -> Any:
        """Let it finish; return what the work returned."""
        assert not self._future.done(), "it did not stop"
        self._go.set()
        return self._future.result(SECONDS)

    def _run(self) -> Any:
        self._thread = threading.get_ident()
        return self._work()

    def _hook(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if threading.get_ident() == self._thread and statement.startswith(self._mark):
            self._reached.set()
            assert self._go.wait(SECONDS)


@contextlib.contextmanager
def elsewhere(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Begin ``work`` in another thread; the block may look at its future."""
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit(work)


def wait_for_waiters(server: Any, count: int) -> None:
    """Return when ``count`` statements on the server wait for a row lock."""
    question = {
        "MariaDB": "SELECT COUNT(*) FROM information_schema.innodb_trx"
        " WHERE trx_state = 'LOCK WAIT'",
        "PostgreSQL": "SELECT COUNT(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock'",
    }[server.label]
    end = time.monotonic() + SECONDS
    while True:
        # MariaDB shows the same again when asked within a tenth: perhaps what there
        # was in the test before.
        time.sleep(0.15)
        if server.admin(question)[0][0] == count:
            return
        assert time.monotonic() < end, f"{count} statements never waited for a lock"
