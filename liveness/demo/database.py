"""The demo's own look at the database: plain SQL, no code of the store.

Times come out in seconds on the clock of the journals, so that the two can be
compared. The database's clock is read against it, with the error that this has.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from liveness.demo import journal
from liveness.demo.plan import PREFIX

NOW = {
    "sqlite": "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "postgresql": "SELECT timezone('utc', clock_timestamp())",
}
FRESH = 60.0
"""Seconds after its last beat in which an engine may belong to a running demo."""


class Unusable(Exception):
    """The demo cannot run on this database; the text says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineRow:
    """An engine's row. ``slot`` is its place in the demo, ``left`` its lease."""

    id: str
    slot: int
    pid: int
    state: str
    beat_seq: int
    started: float
    left: float
    ttl: float
    ended: float | None
    fenced_by: str | None
    evidence: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class DeadlineRow:
    """A deadline's row."""

    kind: str
    key: str
    owner: str | None
    state: str
    epoch: int
    due: float
    updated: float


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What the tables say at one moment."""

    at: float
    engines: list[EngineRow]
    deadlines: list[DeadlineRow]


class Observer:
    """Reads the rows of one run, whose ids and keys begin with ``prefix``."""

    def __init__(self, url: sa.URL, prefix: str) -> None:
        self._prefix = prefix
        self._backend = url.get_backend_name()
        timeout = {"timeout" if self._backend == "sqlite" else "connect_timeout": 5}
        self._engine = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", connect_args=timeout
        )
        self.offset = 0.0
        self.error = 0.0

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def read_clock(self) -> None:
        """Compare the database's clock with ours; the best of a few readings. How far
        it went since the last time adds to the error."""
        readings = []
        with self._engine.connect() as connection:
            for _ in range(5):
                asked = journal.now()
                answer = connection.exec_driver_sql(NOW[self._backend]).scalar_one()
                took = journal.now() - asked
                readings.append((took / 2, _seconds(answer) - asked - took / 2))
        error, offset = min(readings)
        moved = abs(offset - self.offset) if self.offset else 0.0
        self.offset = offset
        # SQLite counts milliseconds; what is left covers a clock being slewed.
        self.error = max(self.error, error) + moved + 0.005

    def snapshot(self) -> Snapshot:
        """Read both tables."""
        with self._engine.connect() as connection:
            engines = connection.execute(_ENGINES, self._mine).mappings().all()
            deadlines = connection.execute(_DEADLINES, self._mine).mappings().all()
        at = journal.now()
        return Snapshot(
            at=at,
            engines=[self._engine_row(row, at) for row in engines],
            deadlines=[self._deadline_row(row) for row in deadlines],
        )

    def writable(self) -> bool:
        """False while somebody holds SQLite's one write lock."""
        if self._backend != "sqlite":
            return True
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout = 300")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
        except sa.exc.OperationalError:
            return False
        return True

    def refuse_foreign(self) -> None:
        """Return when everything in the tables is left over from a demo that is over.

        :raises Unusable: when there is anything else."""
        like = {"prefix": PREFIX + "%"}
        with self._engine.connect() as connection:
            engines = connection.execute(_FOREIGN_ENGINES, like).scalar_one()
            deadlines = connection.execute(_FOREIGN_DEADLINES, like).scalar_one()
            beats = connection.execute(_BEATS).scalars().all()
        if engines or deadlines:
            raise Unusable(
                f"it holds {engines} engines and {deadlines} deadlines that are not the"
                " demo's. Give a database of its own, or none for a temporary SQLite"
                " file"
            )
        self.read_clock()
        now = journal.now() + self.offset
        if any(now - _seconds(beat) < FRESH for beat in beats):
            raise Unusable(
                "another demo is running on it, or was killed less than a minute ago:"
                " wait a minute, or give another database"
            )

    def remove(self, prefix: str) -> None:
        """Delete the rows of demos whose ids and keys begin so."""
        like = {"prefix": prefix + "%"}
        with self._engine.connect() as connection:
            connection.execute(_REMOVE_DEADLINES, like)
            connection.execute(_REMOVE_ENGINES, like)

    @property
    def _mine(self) -> dict[str, str]:
        return {"prefix": self._prefix + "%"}

    def _at(self, moment: Any) -> float:
        return _seconds(moment) - self.offset

    def _engine_row(self, row: sa.RowMapping, at: float) -> EngineRow:
        return EngineRow(
            id=row["id"],
            slot=int(row["id"].split("-")[3]),
            pid=row["pid"],
            state=row["state"],
            beat_seq=row["beat_seq"],
            started=self._at(row["started_at"]),
            left=self._at(row["beat_at"]) + row["ttl"] - at,
            ttl=row["ttl"],
            ended=None if row["ended_at"] is None else self._at(row["ended_at"]),
            fenced_by=row["fenced_by"],
            evidence=row["fence_evidence"],
        )

    def _deadline_row(self, row: sa.RowMapping) -> DeadlineRow:
        return DeadlineRow(
            kind=row["kind"],
            key=row["key"],
            owner=row["owner_id"],
            state=row["state"],
            epoch=row["epoch"],
            due=self._at(row["due_at"]),
            updated=self._at(row["updated_at"]),
        )


# "d.key": after a dot even a reserved word is a name, on all three.
_ENGINES = sa.text("SELECT * FROM liveness_engine e WHERE e.id LIKE :prefix")
_DEADLINES = sa.text("SELECT * FROM liveness_deadline d WHERE d.key LIKE :prefix")
_FOREIGN_ENGINES = sa.text(
    "SELECT COUNT(*) FROM liveness_engine e WHERE e.id NOT LIKE :prefix"
)
_FOREIGN_DEADLINES = sa.text(
    "SELECT COUNT(*) FROM liveness_deadline d WHERE d.key NOT LIKE :prefix"
)
_BEATS = sa.text("SELECT e.beat_at FROM liveness_engine e WHERE e.ended_at IS NULL")
_REMOVE_ENGINES = sa.text("DELETE FROM liveness_engine WHERE id LIKE :prefix")
_REMOVE_DEADLINES = sa.text(
    "DELETE FROM liveness_deadline WHERE liveness_deadline.key LIKE :prefix"
)


def _seconds(moment: Any) -> float:
    """A UTC moment, which SQLite gives as text, in seconds since 1970."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return float(moment.replace(tzinfo=UTC).timestamp())
