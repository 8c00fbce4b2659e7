"""MariaDB: READ COMMITTED, SELECT SKIP LOCKED by the index that serves the order, a
watermark on due time, and the DELETE of the last batch in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import pymysql

from bench.floor.base import Floor, listed

R = TypeVar("R")

DEADLOCK = 1213
"""A search that comes short has locked the entry behind its range: another's."""

FIRST = datetime(1970, 1, 1)  # noqa: DTZ001 -- as the driver gives them out


class MariaDBFloor(Floor):
    mark = "%s"
    key = "`key`"
    now = "UTC_TIMESTAMP(6)"
    due = "UTC_TIMESTAMP(6) + INTERVAL %s SECOND"

    _watermark = FIRST

    def chain(self, done: Sequence[int], limit: int, owner: str | None) -> list[int]:
        return self._again(lambda: self._chain(done, limit, owner))

    def claim_one(self, row_id: int) -> bool:
        return self._again(lambda: super(MariaDBFloor, self).claim_one(row_id))

    def disarm(self, row_id: int) -> None:
        self._again(lambda: super(MariaDBFloor, self).disarm(row_id))

    def _again(self, do: Callable[[], R]) -> R:
        while True:
            try:
                return do()
            except pymysql.err.OperationalError as error:
                if error.args[0] != DEADLOCK:
                    raise  # else nothing was done
                self.cursor.execute("ROLLBACK")

    def _chain(self, done: Sequence[int], limit: int, owner: str | None) -> list[int]:
        cursor = self.cursor
        cursor.execute("BEGIN")
        if done:
            cursor.execute(
                f"DELETE FROM liveness_deadline WHERE id IN ({listed(done)})"
            )
        ids = self._lock(limit, owner)
        if not ids and self._watermark > FIRST:
            # Nothing after the watermark: look once at all of it.
            self._watermark = FIRST
            ids = self._lock(limit, owner)
        if ids:
            cursor.execute(
                "UPDATE liveness_deadline SET owner_id = %s, state = 'claimed',"
                " token = token + 1, epoch = epoch + 1, attempts = attempts + 1,"
                f" updated_at = UTC_TIMESTAMP(6) WHERE id IN ({listed(ids)})",
                (owner or "floor",),
            )
        cursor.execute("COMMIT")
        return ids

    def _lock(self, limit: int, owner: str | None) -> list[int]:
        self.cursor.execute(
            f"SELECT {self._told} FROM liveness_deadline"
            " FORCE INDEX (ix_liveness_deadline_owner)"
            f" WHERE owner_id {'= %s' if owner else '<=> %s'} AND state = 'armed'"
            " AND due_at >= %s AND due_at <= UTC_TIMESTAMP(6)"
            f" ORDER BY due_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED",
            (owner, self._watermark),
        )
        rows = self.cursor.fetchall()
        if rows:
            self._watermark = rows[0][4]
        return [row[0] for row in rows]

    def take(self, dead: str, me: str, limit: int) -> int:
        cursor = self.cursor
        cursor.execute("BEGIN")
        cursor.execute(
            "SELECT id FROM liveness_deadline FORCE INDEX (ix_liveness_deadline_owner)"
            f" WHERE owner_id = %s LIMIT {limit} FOR UPDATE SKIP LOCKED",
            (dead,),
        )
        ids = [row[0] for row in cursor.fetchall()]
        if ids:
            cursor.execute(
                "UPDATE liveness_deadline SET owner_id = %s, token = token + 1,"
                " epoch = epoch + 1, attempts = 0, due_at = expires_at,"
                f" updated_at = UTC_TIMESTAMP(6) WHERE id IN ({listed(ids)})",
                (me,),
            )
        cursor.execute("COMMIT")
        return len(ids)
