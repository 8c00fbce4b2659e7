"""An engine of whichever release is first on the path; told what to do on stdin.

Commands and answers are words and JSON of one line each. It uses what a host program
would, and nothing else.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import liveness
from liveness.db import migration


def say(what: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
    sys.stdout.flush()


def main(url: str) -> None:
    live = liveness.Liveness(
        liveness.Settings.of(
            connection=url,
            ttl=3.0,
            beat_interval=0.3,
            sweep_interval=0.2,
            lease_margin=0.3,
            database_timeout=0.9,
            expired_grace=0.5,
            max_clock_skew=0.2,
            drain_timeout=5.0,
        )
    )

    @live.handler("action", when_orphaned=liveness.WhenOrphaned.RETRIGGER)
    def action(deadline: liveness.Deadline) -> None:
        say(
            "ran", key=deadline.key, payload=deadline.payload, attempt=deadline.attempts
        )

    @live.handler("timer")
    def timer(deadline: liveness.Deadline) -> None:
        say(
            "ran", key=deadline.key, payload=deadline.payload, attempt=deadline.attempts
        )

    live.start()
    code, needs = liveness.__file__, migration.needed()
    say("live", engine=live.engine_id, code=code, needs=needs)
    for line in sys.stdin:
        kind, key, due_in = line.split()
        if kind == "stop":
            break
        live.arm(kind, key, due_in=float(due_in), payload={"of": key})
        say("armed", key=key)
    live.stop()
    say("stopped")


if __name__ == "__main__":
    main(sys.argv[1])
