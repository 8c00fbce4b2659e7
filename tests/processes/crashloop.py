"""A launcher whose workers die young: each lives a second, and the next is forked.

python -m tests.processes.crashloop '{"options": {...}, "live_for": 1.0}'
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

import liveness
from tests.processes import kinds
from tests.processes.program import die_with_parent


def main() -> int:
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    todo = json.loads(sys.argv[1])
    kinds.watch_settlements()
    while True:
        pid = os.fork()
        if pid == 0:
            _live_and_die(todo)
        os.waitpid(pid, 0)


def _live_and_die(todo: dict) -> None:
    die_with_parent()
    kind = [kinds.Timer, kinds.Action]
    with liveness.start(handlers=kind, **todo["options"]) as live:
        kinds.the_engine_is(live)
        time.sleep(todo["live_for"])
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
