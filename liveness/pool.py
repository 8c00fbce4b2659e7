"""Threads that run handlers, bounded in number; some of them may hang.

The standard executors wait for every thread at exit and cannot say which task is
late, so this is a small one of our own: daemon threads, started when first needed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Task = TypeVar("Task")


class Pool(Generic[Task]):
    """At most ``size`` threads that ``run`` the tasks they are given, in order.

    Threads are woken one by one, each by the one before as it begins a task while more
    are waiting, so that one that hangs keeps no other waiting. But while tasks are
    ``quick``, one thread does them all: several would do nothing but wait for one
    another. If the next one then hangs, :meth:`help` is needed.
    """

    def __init__(
        self,
        size: int,
        run: Callable[[Task], None],
        quick: Callable[[], bool] = lambda: False,
    ) -> None:
        """``run`` must not raise."""
        self.size = size
        self._run = run
        self._quick = quick
        self._helped = False
        self._tasks: deque[Task] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._threads = 0
        self._idle = 0
        self._coming = False  # one was woken or started, and is not at work yet
        self._stopping = False

    def submit(self, tasks: Sequence[Task], first: bool = False) -> None:
        """Afterwards some thread will run each of ``tasks``, once; ``first``: before
        what is waiting."""
        with self._lock:
            if first:
                self._tasks.extendleft(reversed(tasks))
            else:
                self._tasks.extend(tasks)
            at_work = self._threads > self._idle
            start = not (at_work and self._alone()) and self._call_one()
        if start:
            self._start_thread()

    def start_if_none(self) -> None:
        """Try again when no thread could be started for what is waiting."""
        with self._lock:
            start = not self._threads and self._call_one()
        if start:
            self._start_thread()

    def help(self) -> None:
        """Who is at work does not come round: let others do what is waiting."""
        with self._lock:
            self._helped = bool(self._tasks)
            start = self._call_one()
        if start:
            self._start_thread()

    def _alone(self) -> bool:
        """Whether one thread is enough."""
        return not self._helped and self._quick()

    def stop(self) -> None:
        """Let idle threads end; tasks already submitted are still run."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()

    def _call_one(self) -> bool:
        """Wake a thread if there is work for one more. True: start one instead."""
        if self._coming or not self._tasks:
            return False
        if self._idle:
            self._coming = True
            self._changed.notify()
        elif self._threads < self.size:
            self._coming = True
            self._threads += 1
            return True
        return False

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name="liveness-handler", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had now
            with self._lock:
                self._threads -= 1
                self._coming = False

    def _work(self) -> None:
        self._arrived()
        while (task := self._next()) is not None:
            self._run(task)

    def _arrived(self) -> None:
        with self._lock:
            self._coming = False

    def _next(self) -> Task | None:
        with self._lock:
            while not self._tasks:
                if self._stopping:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
                self._coming = False
            task = self._tasks.popleft()
            self._helped &= bool(self._tasks)
            start = not self._alone() and self._call_one()
        if start:
            self._start_thread()
        return task
