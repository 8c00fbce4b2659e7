"""What a fault is: a kind, a moment, and something that begins and is healed."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from typing import Protocol

ENGINE, LINK, DATABASE = "engine", "link", "database"
"""What a fault is about: one engine's process, one engine's way to the database, or
the database itself. Of the last sort there is one at a time."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of a schedule: ``at`` is seconds after the start, ``seconds`` is how
    long it lasts, ``slot`` the engine that it is about (None: the database)."""

    number: int
    at: float
    kind: str
    slot: int | None
    seconds: float

    def __str__(self) -> str:
        where = "the database" if self.slot is None else f"engine {self.slot}"
        return f"{self.kind} ({where}, {self.seconds:.1f} s)"


class Action(Protocol):
    """A fault as it happens. ``heal`` may be called when ``begin`` has failed."""

    def begin(self) -> None: ...

    def heal(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Do:
    """An action made of two functions."""

    begin: Callable[[], object]
    heal: Callable[[], object] = lambda: None

    def under(self, lock: threading.Lock) -> Do:
        """The same, one function at a time of all that are under this ``lock``."""

        def locked(step: Callable[[], object]) -> Callable[[], object]:
            def do() -> None:
                with lock:
                    step()

            return do

        return Do(locked(self.begin), locked(self.heal))


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of fault.

    ``weight`` is how often it comes, compared with the other kinds; it lasts from
    ``shortest`` to ``longest`` leases (an engine's ttl), so that a schedule fits any
    ttl. ``make(fault, rng)`` gives the action; ``rng`` is that fault's own.
    """

    about: str
    weight: float
    shortest: float
    longest: float
    make: Callable[[Fault, random.Random], Action]
    slots: tuple[int, ...] | None = None
    """The only slots that it befalls; None: any."""
