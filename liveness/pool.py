"""Threads that run handlers, bounded in number; some of them may hang.

The standard executors wait for every thread at exit and cannot say which task is
late, so this is a small one of our own: daemon threads, started when first needed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Pool:
    """At most ``size`` threads that call what they are given, in order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Afterwards some thread will call ``task``, once. It must not raise."""
        with self._lock:
            start = self._idle == 0 and self._threads < self.size
            if start:
                self._threads += 1
            else:
                self._idle -= self._idle > 0
        self._tasks.put(task)
        if start:
            self._start_thread()

    def start_if_none(self) -> None:
        """Try again when no thread could be started for what is waiting."""
        with self._lock:
            start = not self._threads and not self._tasks.empty()
            self._threads += start
        if start:
            self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name="liveness-handler", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had now
            with self._lock:
                self._threads -= 1

    def stop(self) -> None:
        """Let idle threads end; tasks already submitted are still called."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            with self._lock:
                self._idle += 1
