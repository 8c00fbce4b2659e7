"""Which peers there are, and what each is by its own documentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.crew import ROOT

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".venv-peers"
HEAT = ROOT / ".heat-venv"
NODE = HERE / "node"


@dataclasses.dataclass(frozen=True)
class Peer:
    """``promise``: what becomes of a job whose process dies, as documented; ``stores``:
    what it keeps its jobs in; ``does``: what can be measured of it; ``most``: processes
    that may share the work; ``batch``: jobs that one process may have fetched before it
    calls the first; ``jobs``: how many are enough to know its rate; ``hurry``: how many
    times as often it does at rest what it does then, for what comes to be counted;
    ``held``: jobs that one process can run at once; ``restarts``: a process of the dead
    one's name may find what that one had; ``documented``: seconds after which jobs of
    the dead are found, where nobody waits for that; ``recovery``: how its recovery is
    measured, and what it brings."""

    name: str
    promise: str
    safe: bool
    node: bool = False
    stores: tuple[str, ...] = ("postgresql",)
    most: int = 8
    batch: int = 1
    jobs: int = 20_000
    does: tuple[str, ...] = ("throughput", "lateness", "idle", "recovery")
    hurry: float = 1.0
    held: int = 200
    restarts: bool = False
    documented: float | None = None
    recovery: str = ""
    environment: Path = ENVIRONMENT

    def enough(self, count: int, processes: int) -> int:
        """At least ``count`` if so many are needed, and so many that what was fetched
        before the first call is the smaller part."""
        return max(min(count, self.jobs), 4 * self.batch * processes)

    @property
    def where(self) -> str:
        """What its rows of the results name as their database."""
        return " and ".join(self.stores)

    def command(self, *arguments: str) -> list[str]:
        if self.node:
            return ["node", str(NODE / f"{self.name}.js"), *arguments]
        python = [str(self.environment / "bin" / "python"), "-W", "ignore"]
        return [*python, "-m", f"bench.peers.{self.name}", *arguments]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "graphile",
            "run again after 4 hours",
            True,
            node=True,
            batch=500,
            documented=4 * 3600.0,
            recovery="no lease can be set; an operator can unlock a worker by its name",
        ),
        Peer(
            "pgboss",
            "run again after 15 min, running or not",
            True,
            node=True,
            batch=4000,
            recovery="a job's expireInSeconds is the lease; maintenance every second",
        ),
        Peer(
            "pgqueuer",
            "run again after its heartbeat's timeout (30 s)",
            True,
            batch=1000,
            recovery="heartbeat_timeout is the lease",
        ),
        Peer(
            "procrastinate",
            "stays 'doing' unless a task of one's own looks",
            False,
            jobs=4000,
            recovery="with the documented task for stalled jobs, once a second",
        ),
        Peer(
            "apscheduler",
            "gone: a job is removed before it runs",
            False,
            most=1,
            jobs=4000,
            restarts=True,
            recovery="started again on the same store",
        ),
        Peer(
            "dbos",
            "run again when its own executor restarts, or a paid service sees it dead",
            True,
            batch=100,
            jobs=4000,
            restarts=True,
            recovery="found by nobody; then started again with the dead one's id",
        ),
        Peer(
            "celery",
            "run again after 1 hour (acks_late)",
            True,
            stores=("redis",),
            jobs=4000,
            recovery="visibility_timeout is the lease; restored every second",
        ),
        Peer(
            "taskflow",
            "claimed by the dead for ever, unless a claim of one's own expires",
            False,
            stores=("redis", "postgresql"),
            batch=8,
            jobs=40,
            held=20,
            recovery="claims that expire, and are extended, by code of one's own",
            does=("throughput", "idle", "recovery"),
        ),
        Peer(
            "tooz",
            "has no jobs; a member leaves its group when its beat is too old (30 s)",
            True,
            stores=("redis",),
            does=("idle", "recovery"),
            hurry=10,
            recovery="a member that leaves its group; membership_timeout is the lease",
        ),
        Peer(
            "heat",
            "has no jobs; a service counts as down when its report is too old",
            True,
            stores=("mariadb",),
            does=("idle",),
            hurry=12,
            environment=HEAT,
        ),
    )
}
