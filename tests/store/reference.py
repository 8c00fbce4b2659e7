"""What the two tables promise, in memory: one dictionary each, no SQL, no locks."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from itertools import count

GRACE, HORIZON = timedelta(seconds=6), timedelta(seconds=3)


@dataclasses.dataclass
class Row:
    owner: str | None
    due: datetime
    expires: datetime
    most: int
    state: str = "armed"
    attempts: int = 0
    version: int = 0


class Reference:
    """Every change of a row gives it a new version; only who has that may change it."""

    def __init__(self) -> None:
        self.engines: dict[str, str] = {}
        self.beats: dict[str, int] = {}
        self.rows: dict[str, Row] = {}
        self._versions = count(1)

    def alive(self, engine: str | None) -> bool:
        return self.engines.get(engine or "") in ("live", "draining")

    def arm(self, key: str, row: Row) -> int:
        self.rows[key] = row
        return self.change(key)

    def current(self, key: str, version: int) -> Row | None:
        row = self.rows.get(key)
        return row if row is not None and row.version == version else None

    def change(self, key: str, **values: object) -> int:
        self.rows[key] = dataclasses.replace(self.rows[key], **values)  # type: ignore
        self.rows[key].version = next(self._versions)
        return self.rows[key].version

    def claim(self, key: str, engine: str) -> int:
        attempts = self.rows[key].attempts + 1
        return self.change(key, owner=engine, state="claimed", attempts=attempts)

    def work(self, engine: str, now: datetime, dead: set[str]) -> dict[str, set[str]]:
        """What a look at the rows gives, by sort, to one who takes those for dead."""
        found: dict[str, set[str]] = {"own": set(), "held": set(), "orphans": set()}
        found["overdue"] = set()
        for key, row in self.rows.items():
            armed, mine = row.state == "armed", row.owner == engine
            if mine and armed and row.due <= now + HORIZON:
                found["own"].add(key)
            if mine and row.state == "claimed":
                found["held"].add(key)
            if row.state != "parked" and row.owner in {None, *dead}:
                found["orphans"].add(key)
            if armed and row.owner and not mine and row.due <= now - GRACE:
                found["overdue"].add(key)
        return found
