"""Which of the deadlines found may be claimed now: as many as the threads can do, and
none that could take others with it.

A deadline that was claimed before may kill its engine. At most one such is held at a
time; and at its last attempt it is held alone, so that nothing is parked for having
been there when the engine died.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from liveness.clock import Clock
from liveness.model import Deadline
from liveness.runner import Runner

PATIENCE, PAUSE = 5.0, 60.0
"""Seconds for which nothing is claimed so that one at its last attempt can be alone,
and seconds from then until that may be so again. Both double each time that it was in
vain: the handlers that run take longer."""

DOUBLINGS = 6


class Admission:
    """Chooses what to claim. Used by the loop's thread.

    ``left_behind``: since the pass began, something was found that may be claimed
    only when something else has been settled. ``unknown``: this engine may have claimed
    what it does not hold; until it does, it claims nothing else.
    """

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self._clock = clock
        self._blocked_at = float("-inf")
        self._waits = 0  # in vain
        self.left_behind = self.unknown = False
        self._runner = runner
        self._waiting = False  # one at its last attempt waits to be alone
        self._seen = False
        self._was_alone = False

    @property
    def room(self) -> int:
        """How many more may be claimed; none while one is, or waits to be, alone, or
        is not held that should be."""
        return 0 if self.unknown else self._room()

    def _room(self) -> int:
        notable = self._runner.notable()
        if any(value.attempts >= value.max_attempts for value in notable):
            return 0
        if self._waiting and self._runner.working and self._blocks:
            return 0
        return self._runner.room

    def room_for_fresh(self) -> int:
        """How many may be claimed now, if none of them was claimed before, nor is at
        its last attempt. They had their turn after one that was alone."""
        room = self.room
        if room and self._blocks and not self._was_alone:
            return 0
        self._was_alone = False
        return room

    @property
    def suspect_held(self) -> bool:
        """True while a deadline is held that was claimed before."""
        return any(value.attempts > 1 for value in self._runner.notable())

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Claim in the block, and hold what was claimed; if it does not end well, what
        is claimed is unknown."""
        before, self.unknown = self.unknown, True
        yield
        self.unknown = before

    def begin_pass(self) -> None:
        """A pass looks at everything; what it does not see waits no more."""
        self.left_behind = self._seen = False

    def end_pass(self) -> None:
        """See :meth:`begin_pass`."""
        self._waiting &= self._seen

    def admit(
        self, values: Sequence[Deadline], claimed: bool = False
    ) -> list[Deadline]:
        """Choose among ``values``, as they were found; ``claimed``: by this engine,
        without its knowing, so that this attempt is counted already."""
        if not values:
            return []
        counted = 1 if claimed else 0
        last: list[Deadline] = []
        others: list[Deadline] = []
        for value in values:
            is_last = value.attempts - counted + 1 >= value.max_attempts
            (last if is_last else others).append(value)
        self._seen |= bool(last)
        self._waiting |= bool(last)
        room = self._room() if claimed else self.room
        idle = not self._runner.working
        others_turn = self._was_alone and others
        chosen: list[Deadline] = []
        if room and idle and last and not others_turn:
            chosen = last[:1]
            self._waiting, self._was_alone, self._waits = False, True, 0
        elif room and not (idle and self._blocks and not self._was_alone):
            self._was_alone = False
            chosen = self._crowd(others, counted, room)
        self.left_behind |= len(chosen) < len(values)
        return chosen

    @property
    def _blocks(self) -> bool:
        """True while nothing is claimed for the sake of one that waits to be alone: for
        a while only, a slow handler must not keep all others from their time."""
        since = self._clock.monotonic() - self._blocked_at
        if self._waiting and since >= PAUSE * 2**self._waits:
            self._waits = min(self._waits + (since < float("inf")), DOUBLINGS)
            self._blocked_at, since = self._clock.monotonic(), 0.0
        return self._waiting and since < PATIENCE * 2**self._waits

    def _crowd(
        self, values: Sequence[Deadline], counted: int, room: int
    ) -> list[Deadline]:
        """As many as there is room for, at most one of them claimed before."""
        suspect = self.suspect_held
        chosen: list[Deadline] = []
        for value in values:
            if len(chosen) >= room:
                break
            if value.attempts > counted:
                if suspect:
                    continue
                suspect = True
            chosen.append(value)
        return chosen
