"""PostgreSQL: settle and claim in one statement, prepared, with its limit inlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from bench.floor.base import TOLD, Floor

TOLD_OF_D = ", ".join(f"d.{name.strip()}" for name in TOLD.format(key="key").split(","))


class PostgreSQLFloor(Floor):
    mark = "%s"
    key = "key"
    now = "timezone('utc', statement_timestamp())"
    due = "timezone('utc', statement_timestamp()) + %s * INTERVAL '1 second'"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        # Or a table that was just vacuumed is read through for each batch.
        for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"):
            self.cursor.execute(f"SET {name} = off")

    def arm(self, key: str, due_in: float = 86400.0) -> int:
        statement = f"{self._insert}{self._row} RETURNING id"
        self.cursor.execute(statement, self._values(key, due_in), prepare=True)
        return int(self.cursor.fetchone()[0])

    def chain(self, done: Sequence[int], limit: int, owner: str | None) -> list[int]:
        while True:
            try:
                return self._chain(done, limit, owner)
            except psycopg.errors.DeadlockDetected:  # nothing was done
                continue

    def _chain(self, done: Sequence[int], limit: int, owner: str | None) -> list[int]:
        whose = "owner_id = %s" if owner else "owner_id IS NULL"
        values: list[Any] = [list(done), *([owner] if owner else []), owner or "floor"]
        self.cursor.execute(
            "WITH gone AS (DELETE FROM liveness_deadline WHERE id = ANY(%s)),"
            f" found AS (SELECT id FROM liveness_deadline WHERE {whose}"
            f" AND state = 'armed' AND due_at <= {self.now}"
            f" ORDER BY due_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED)"
            " UPDATE liveness_deadline d SET owner_id = %s, state = 'claimed',"
            " token = token + 1, epoch = epoch + 1, attempts = attempts + 1,"
            f" updated_at = {self.now} FROM found WHERE d.id = found.id"
            f" RETURNING {TOLD_OF_D}",
            values,
            prepare=True,
        )
        return [row[0] for row in self.cursor.fetchall()]

    def take(self, dead: str, me: str, limit: int) -> int:
        self.cursor.execute(
            "WITH found AS (SELECT id FROM liveness_deadline WHERE owner_id = %s"
            f" LIMIT {limit} FOR UPDATE SKIP LOCKED)"
            " UPDATE liveness_deadline d SET owner_id = %s, token = token + 1,"
            " epoch = epoch + 1, attempts = 0, due_at = expires_at,"
            f" updated_at = {self.now} FROM found WHERE d.id = found.id",
            (dead, me),
            prepare=True,
        )
        return int(self.cursor.rowcount)
