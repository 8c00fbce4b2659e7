"""The process that :mod:`bench.memory` looks at: a host program, then an engine in it,
then deadlines. Run as a file, so that nothing is loaded before its turn."""

import json
import os
import sys
import time
from pathlib import Path


def resident() -> float:
    """MiB of this process in memory."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise OSError("the kernel does not say")


def main(url: str, owned: int) -> None:
    import sqlalchemy as sa

    # What any program that uses the database has loaded and open.
    host = sa.create_engine(url)
    with host.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    stages = {"host": resident()}

    import liveness

    class Noop(liveness.Handler):
        kind = "noop"

    with liveness.start(handlers=[Noop], connection=url) as live:
        time.sleep(live.settings.sweep_interval * 2.5)
        stages["engine"] = resident()
        for first in range(0, owned, 1000):
            live.arm_many(
                [
                    liveness.Arm("noop", f"key-{first + n}", due_in=86400)
                    for n in range(1000)
                ]
            )
        time.sleep(live.settings.sweep_interval * 2.5)
        stages["owned"] = resident()
        json.dump(stages, sys.stdout)
        sys.stdout.flush()
        os._exit(0)  # handing so many back is no part of this


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
