"""One deadline's life, as the journals of all processes tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from liveness.demo.journal import Note

Name = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What is left of a deadline in the end."""

    state: str
    due: float


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What the database says in the end: rows, when each engine ended, and the time.
    ``error`` is how far its clock may be off; ``patience`` how long a due row may
    wait until somebody looks at it."""

    rows: dict[Name, Row]
    ended: dict[str, float]
    now: float
    error: float = 0.01
    patience: float = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Takeover:
    """A deadline came to another engine, because its owner had ended."""

    name: Name
    victim: str
    by: str
    at: float


class Life:
    """All that the journals say of one deadline, by time."""

    def __init__(self, name: Name, notes: list[Note]) -> None:
        self.name = name
        self.notes = _without_refused_arms(notes)
        self.armed = next(self.all("armed"), None)

    def all(self, *events: str) -> Iterator[Note]:
        """The notes of these events."""
        return (note for note in self.notes if note["event"] in events)

    def any(self, *events: str) -> bool:
        """True when there is such a note."""
        return next(self.all(*events), None) is not None

    @property
    def exists(self) -> bool:
        """True when it is known to have been armed: noted, seen, or handled."""
        return self.any("armed", "owned", "started")

    @property
    def promise(self) -> float | None:
        """The earliest moment at which it can be due."""
        arming = next(self.all("arming"), None)
        return None if arming is None else float(arming["at"] + arming["due_in"])

    def holders(self, before: Note) -> Iterator[tuple[str, bool]]:
        """Each engine that had held it before that note, and whether it had started
        the handler (and not failed)."""
        running: dict[str, bool] = {}
        for note in self.notes:
            if note is before:
                break
            match note["event"]:
                case "arming" | "owned":
                    running.setdefault(note["engine"], False)
                case "started" | "failed":
                    running[note["engine"]] = note["event"] == "started"
        yield from running.items()


def _without_refused_arms(notes: list[Note]) -> list[Note]:
    """An ``arming`` that came to nothing (``unarmed``) made nobody a holder."""
    kept: list[Note] = []
    for note in notes:
        if note["event"] != "unarmed":
            kept.append(note)
            continue
        mine = [k for k in kept if (k["event"], k["engine"]) == _arming_by(note)]
        kept.remove(mine[-1])
    return kept


def _arming_by(note: Note) -> tuple[str, str]:
    return "arming", note["engine"]
