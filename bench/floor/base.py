"""What the floors have in common: arming is one INSERT everywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bench import raw

TOLD = "id, kind, {key}, payload, due_at, epoch"
"""What a claim has to say of each row: without it no handler could be called."""

ME = "00000000-0000-0000-0000-00000000f100"
"""The owner that floors write: as long as a real one."""


class Floor:
    """One raw connection. ``mark`` is the driver's placeholder, ``key`` the column's
    name as it must be quoted, ``now`` the database's UTC, ``due`` that with a
    placeholder of seconds added."""

    mark: str
    key: str
    now: str
    due: str

    def __init__(self, url: str) -> None:
        self.connection: Any = raw.connect(url)
        self.cursor = self.connection.cursor()
        stamp = f"{self.due}, {self.due}, 0, 5, NULL, {self.now}, {self.now}"
        m = self.mark
        self._row = f"({m}, {m}, {m}, {m}, {m}, 1, 'armed', {stamp})"
        self._told = TOLD.format(key=self.key)
        self._insert = (
            f"INSERT INTO liveness_deadline (kind, {self.key}, owner_id, token,"
            " arm_token, epoch, state, due_at, expires_at, attempts, max_attempts,"
            " payload, created_at, updated_at) VALUES "
        )

    def close(self) -> None:
        self.connection.close()

    # --- arming -----------------------------------------------------------------

    def arm(self, key: str, due_in: float = 86400.0) -> int:
        """One INSERT; return the row's id."""
        self.cursor.execute(self._insert + self._row, self._values(key, due_in))
        return int(self.cursor.lastrowid)

    def arm_many(self, keys: Sequence[str], due_in: float = 86400.0) -> None:
        """One INSERT of many rows."""
        rows = ", ".join([self._row] * len(keys))
        values = [value for key in keys for value in self._values(key, due_in)]
        self.cursor.execute(self._insert + rows, values)

    def disarm(self, row_id: int) -> None:
        """One DELETE by primary key."""
        self.cursor.execute(
            f"DELETE FROM liveness_deadline WHERE id = {self.mark}", (row_id,)
        )

    def begin(self) -> None:
        self.cursor.execute("BEGIN")

    def commit(self) -> None:
        self.cursor.execute("COMMIT")

    def _values(self, key: str, due_in: float) -> tuple[Any, ...]:
        token = random.getrandbits(62)
        return ("noop", key, ME, token, token, due_in, due_in)

    # --- claims -----------------------------------------------------------------

    def chain(self, done: Sequence[int], limit: int, owner: str | None) -> list[int]:
        """Settle ``done``, claim at most ``limit`` due rows of ``owner`` (of nobody);
        return their ids. One transaction."""
        raise NotImplementedError

    def take(self, dead: str, me: str, limit: int) -> int:
        """Give at most ``limit`` rows of ``dead`` to ``me``, by the bare UPDATE that
        passes by what others have locked; return how many."""
        raise NotImplementedError

    def claim_one(self, row_id: int) -> bool:
        """Claim one due row that is known, by primary key."""
        self.cursor.execute(
            f"UPDATE liveness_deadline SET state = 'claimed', token = token + 1,"
            f" epoch = epoch + 1, attempts = attempts + 1, updated_at = {self.now}"
            f" WHERE id = {self.mark} AND state = 'armed' AND due_at <= {self.now}",
            (row_id,),
        )
        return bool(self.cursor.rowcount)


def listed(ids: Sequence[int]) -> str:
    return ",".join(map(str, ids))
