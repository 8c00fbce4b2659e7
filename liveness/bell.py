"""What the sweep loop sleeps on: a time, a ring, or the death of a neighbour.

Engines of the same machine are watched by pidfd, so a killed one is noticed at once
and without a statement: no peer of this program does that, and a crash of one of
several workers is the common case.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterable

from liveness.identity import Identity, open_pidfd
from liveness.model import Engine


class Bell:
    """Sleeps in :meth:`wait` until rung, a watched process exits, or time is up."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._lock = threading.Lock()
        self._watched: dict[str, int] = {}
        self._rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._rung, select.EPOLLIN)

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once. From any thread."""
        with self._lock:
            if self._rung >= 0:
                os.eventfd_write(self._rung, 1)

    def watch(self, engines: Iterable[Engine]) -> None:
        """Watch exactly those of ``engines`` whose processes can be seen from here."""
        seen = {e.id: e for e in engines if self._identity.can_judge(e)}
        for gone in self._watched.keys() - seen.keys():
            self._forget(gone)
        for new in seen.keys() - self._watched.keys():
            if seen[new].pid == self._identity.pid:
                continue
            fd = open_pidfd(seen[new])
            if fd is not None:
                self._watched[new] = fd
                self._epoll.register(fd, select.EPOLLIN)

    def wait(self, seconds: float) -> bool:
        """Sleep. True when a watched process exited."""
        # The kernel counts milliseconds here and rounds up: sleep the rest exactly.
        whole = int(max(seconds, 0.0) * 1000) / 1000
        events = self._epoll.poll(whole)
        if not events:
            time.sleep(max(seconds - whole, 0.0) if seconds < 3600 else 0.0)
            return False
        died = False
        for fd, _ in events:
            if fd == self._rung:
                os.eventfd_read(self._rung)
                continue
            died = True
            for engine_id, watched in list(self._watched.items()):
                if watched == fd:
                    self._epoll.unregister(fd)
                    os.close(fd)
                    self._watched[engine_id] = -1
        return died

    def close(self) -> None:
        """Give every descriptor back."""
        for engine_id in list(self._watched):
            self._forget(engine_id)
        with self._lock:
            if self._rung < 0:
                return
            self._epoll.close()
            os.close(self._rung)
            self._rung = -1

    def _forget(self, engine_id: str) -> None:
        fd = self._watched.pop(engine_id)
        if fd >= 0:
            self._epoll.unregister(fd)
            os.close(fd)
