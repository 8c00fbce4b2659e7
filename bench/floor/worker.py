"""One raw connection in a process of its own: ``python -m bench.floor.worker
mariadb URL``. It answers lines of JSON as :mod:`bench.worker` does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.floor import floor_on
from bench.worker import cpu, say, serve
from tests.processes.program import die_with_parent

TRIES = 3
"""Searches that find nothing, before there is nothing."""


class Commands:
    def __init__(self, database: str, url: str) -> None:
        self._floor = floor_on(database, url)

    def chain(self, batch: int, owner: str | None) -> dict[str, Any]:
        """Claim and settle what is due, batch by batch, until there is no more."""
        began, used, count, empty = time.time(), cpu(), 0, 0
        ended, spent = began, 0.0
        done: list[int] = []
        # Another's short search may lock one row more than it takes, for a moment.
        while empty < TRIES:
            ids = self._floor.chain(done, batch, owner)
            count += len(ids)
            if done:
                ended, spent = time.time(), cpu() - used
            if not ids:
                empty += 1
                time.sleep(0.002)
            done = ids
        return {"began": began, "ended": ended, "cpu": spent, "count": count}

    def take(self, dead: str, me: str, batch: int) -> dict[str, Any]:
        """Take over what ``dead`` owns, batch by batch."""
        began, count = time.time(), 0
        while taken := self._floor.take(dead, me, batch):
            count += taken
        return {"began": began, "ended": time.time(), "count": count}

    def fire(self, rows: list[tuple[int, float]]) -> dict[str, Any]:
        """Sleep until each (id, due) is due, claim it by its key, note how late."""
        late = []
        used = cpu()
        for row_id, due in sorted(rows, key=lambda row: row[1]):
            time.sleep(max(0.0, due - time.time()))
            while not self._floor.claim_one(row_id):
                time.sleep(0.0002)
            late.append(time.time() - due)
            self._floor.disarm(row_id)
        return {"late": late, "cpu": cpu() - used}


def main(argv: Sequence[str]) -> int:
    die_with_parent()
    commands = Commands(*argv)
    say({"pid": os.getpid()})
    serve({name: getattr(commands, name) for name in ("chain", "take", "fire")})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
