"""How often engines on different nodes want the same row, and what that costs.

    python -m tests.cluster.conflicts [ROWS]

Three engines in processes of their own, each on a node of its own, take over what a
dead one left: retriggered, then adopted. Printed is how many transactions lost against
another node's, and how many turns of the engines' loops failed for it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from liveness.clock import Clock
from liveness.db import migration
from tests.galera import Galera
from tests.processes.crew import ROOT, Crew, crew_on, eventually
from tests.processes.zygote import Zygote
from tests.store.conftest import Store

NAME = "conflicts"


def leave(url: str, rows: int, kind: str) -> None:
    """What an engine of another host leaves behind, before anybody has noticed."""
    store = Store(url, Clock())
    store.engine("dead", ttl=3600.0)
    store.arm_many(
        *(
            store.new(f"{kind} {n}", owner="dead", due=3600.0, kind=kind)
            for n in range(rows)
        )
    )
    store.close()


def measure(galera: Galera, crew: Crew, rows: int, kind: str) -> str:
    leave(crew.url, rows, kind)
    engines = [
        crew.start(f"{kind}{number}", connection=url, ttl=30.0, beat_interval=3.0)
        for number, url in enumerate(galera.urls(NAME), 1)
    ]
    crew.await_beats(*engines)
    lost = [node.conflicts() for node in galera]
    began = time.monotonic()
    crew.sql(
        "UPDATE liveness_engine SET state = 'fenced', ended_at = UTC_TIMESTAMP(6)"
        " WHERE id = 'dead'"
    )
    left = (
        "SELECT 1 FROM liveness_deadline WHERE owner_id = 'dead' OR epoch = 1 LIMIT 1"
    )
    eventually(lambda: not crew.sql(left), "all are taken over", 120)
    seconds = time.monotonic() - began
    lost = [
        node.conflicts() - before for node, before in zip(galera, lost, strict=True)
    ]
    sweeps = [e.output().count("Sweep of engine") for e in engines]
    failed = [e.output().count("could not sweep") for e in engines]
    for engine in engines:
        engine.kill()
        engine.wait()
    crew.sql("DELETE FROM liveness_deadline")
    crew.sql("DELETE FROM liveness_engine")
    return (
        f"{kind}: {rows} rows in {seconds:.1f} s by {sweeps} passes;"
        f" conflicts by node {lost}, failed turns {failed}"
    )


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Galera() as galera:
        galera.create_database(NAME)
        url = galera.urls(NAME)[0]
        migration.sync(url)
        zygote = Zygote(str(ROOT))
        try:
            with crew_on(url, Path(folder) / "crew", zygote) as crew:
                for kind in ("action", "timer"):
                    print(measure(galera, crew, rows, kind), flush=True)
        finally:
            zygote.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
