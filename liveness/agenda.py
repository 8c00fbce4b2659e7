"""What this engine owns and is due before its next sweep, to fire at the instant.

A hint, nothing more: the row is the truth, and a claim that finds it changed claims
nothing. Without it, lateness would be the sweep interval.
"""

from __future__ import annotations

import dataclasses
import heapq
import threading
from collections import deque
from collections.abc import Iterable

from liveness.model import Deadline

FEW = 3
"""Entries that are due together and still have their time; more are a batch."""

TRIES = 8
SOON = 0.0005
"""Seconds after which a claim that came to nothing is tried again: the conversion
between the clocks may be off by some of the round trip. Doubles with each try."""


@dataclasses.dataclass(slots=True)
class Entry:
    """A deadline, and when it is due on the monotonic clock."""

    due: float
    value: Deadline
    tries: int = 0


class Agenda:
    """Own deadlines by due time on this host's monotonic clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._heap: list[tuple[float, int]] = []
        self._waiting: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Iterable[Entry]) -> None:
        """Fire each deadline at its time, in place of an older value of its row."""
        with self._lock:
            for entry in entries:
                known = self._entries.get(entry.value.id)
                if known is None or known.value.token != entry.value.token:
                    self._put(entry)

    def discard(self, row_id: int) -> None:
        """Forget the deadline with that row id."""
        with self._lock:
            self._entries.pop(row_id, None)

    def take_due(self, now: float, limit: int) -> list[Entry]:
        """Remove and return at most ``limit`` entries that are due at ``now``, and at
        most as many of those that were put back, the longest waiting first."""
        due: list[Entry] = []
        with self._lock:
            while len(due) < limit and self._waiting:
                if (entry := self._known(*self._waiting.popleft())) is not None:
                    due.append(self._entries.pop(entry.value.id))
            limit += len(due)
            heap = self._heap
            entries = self._entries
            while len(due) < limit and heap and heap[0][0] <= now:
                moment, row_id = heapq.heappop(heap)
                entry = entries.get(row_id)
                if entry is not None and entry.due == moment:
                    due.append(entries.pop(row_id))
        return due

    def few_due(self, now: float) -> bool:
        """Whether anything is due at ``now``, and that is not more than a
        :data:`FEW`. (Entries that were discarded count.)"""
        with self._lock:
            # The k smallest of a heap are among its first 2**k - 1.
            first = [due <= now for due, _ in self._heap[: 2 ** (FEW + 1) - 1]]
        return 0 < sum(first) <= FEW

    def put_back(self, entries: Iterable[Entry]) -> None:
        """These were taken, and could not be tried yet: they are due, but no reason to
        wake up; something else has to be settled first."""
        with self._lock:
            for entry in entries:
                if entry.value.id not in self._entries:
                    self._entries[entry.value.id] = entry
                    self._waiting.append((entry.due, entry.value.id))

    def postpone(self, entries: Iterable[Entry], now: float) -> bool:
        """Try these again soon, a few times; then the next sweep will know better.
        False: one is not tried any more."""
        again = True
        with self._lock:
            for entry in entries:
                if entry.value.id in self._entries:
                    continue
                if entry.tries < TRIES:
                    due = now + SOON * 2**entry.tries
                    self._put(Entry(due, entry.value, entry.tries + 1))
                else:
                    again = False
        return again

    @property
    def next_due(self) -> float:
        """When the earliest is due that was not put back, on the monotonic clock;
        infinity for none."""
        with self._lock:
            entry = self._first()
            return float("inf") if entry is None else entry.due

    def _first(self) -> Entry | None:
        while self._heap:
            if (entry := self._known(*self._heap[0])) is not None:
                return entry
            heapq.heappop(self._heap)
        return None

    def _known(self, due: float, row_id: int) -> Entry | None:
        """The entry, unless it was discarded or replaced meanwhile."""
        entry = self._entries.get(row_id)
        return entry if entry is not None and entry.due == due else None

    def _put(self, entry: Entry) -> None:
        self._entries[entry.value.id] = entry
        heapq.heappush(self._heap, (entry.due, entry.value.id))
