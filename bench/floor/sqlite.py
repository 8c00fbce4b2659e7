"""SQLite: one write transaction for both; UPDATE RETURNING."""

from __future__ import annotations

from collections.abc import Sequence

from bench.floor.base import Floor, listed


class SQLiteFloor(Floor):
    mark = "?"
    key = "key"
    now = "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')"
    due = "(strftime('%Y-%m-%d %H:%M:%f', 'now', ? || ' seconds') || '000')"

    def begin(self) -> None:
        self.cursor.execute("BEGIN IMMEDIATE")

    def chain(self, done: Sequence[int], limit: int, owner: str | None) -> list[int]:
        cursor = self.cursor
        cursor.execute("BEGIN IMMEDIATE")
        if done:
            cursor.execute(
                f"DELETE FROM liveness_deadline WHERE id IN ({listed(done)})"
            )
        cursor.execute(
            "UPDATE liveness_deadline SET owner_id = ?, state = 'claimed',"
            " token = token + 1, epoch = epoch + 1, attempts = attempts + 1,"
            f" updated_at = {self.now} WHERE id IN (SELECT id FROM liveness_deadline"
            f" WHERE owner_id IS ? AND state = 'armed' AND due_at <= {self.now}"
            f" ORDER BY due_at, id LIMIT {limit}) RETURNING {self._told}",
            (owner or "floor", owner),
        )
        ids = [row[0] for row in cursor.fetchall()]
        cursor.execute("COMMIT")
        return ids

    def take(self, dead: str, me: str, limit: int) -> int:
        self.cursor.execute(
            "UPDATE liveness_deadline SET owner_id = ?, token = token + 1,"
            " epoch = epoch + 1, attempts = 0, due_at = expires_at,"
            f" updated_at = {self.now} WHERE id IN (SELECT id FROM liveness_deadline"
            f" WHERE owner_id = ? LIMIT {limit})",
            (me, dead),
        )
        return int(self.cursor.rowcount)
