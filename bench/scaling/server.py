"""Database servers as queues: cores that serve one statement at a time, and a log that
is flushed for all who wait for it."""

from __future__ import annotations

import dataclasses
import heapq
from typing import NamedTuple

from bench.scaling.costs import Cost
from bench.scaling.hub import Hub


@dataclasses.dataclass(frozen=True)
class Topology:
    """What the database is made of; times in seconds.

    ``nodes`` above 1 is a Galera cluster, of which the engines use ``written``: every
    write is applied on all nodes, which costs ``apply_share`` of what it cost where it
    was sent, and its commit waits for a round trip between nodes, in which it is
    certified. ``link``: bytes a second of a node's network; ``room``: connections that
    a node takes. (MariaDB's max_connections goes up to 100,000.)
    """

    nodes: int = 1
    written: int = 1
    cores: int = 8
    link: float = 1.25e9
    room: int = 100_000
    flush: float = 0.001
    round_trip: float = 0.0003
    between_nodes: float = 0.0005
    apply_share: float = 0.5

    def __str__(self) -> str:
        if self.nodes == 1:
            return f"one server of {self.cores} cores"
        written = "one" if self.written == 1 else f"{self.written}"
        return f"Galera, {self.nodes} nodes of {self.cores} cores, {written} written"


class Used(NamedTuple):
    """Seconds of cores, seconds in which the log was flushed, bytes sent and received,
    statements."""

    cores: float
    log: float
    bytes: float
    statements: float

    def since(self, before: Used) -> Used:
        return Used(*(now - then for now, then in zip(self, before, strict=True)))


class Node:
    """One server."""

    def __init__(self, hub: Hub, topology: Topology) -> None:
        self._hub = hub
        self._topology = topology
        self._free = [0.0] * topology.cores
        self._flushed = 0.0
        self._next_flush = 0.0
        self.stalled_until = 0.0
        self.busy = 0.0
        self.flushing = 0.0
        self.bytes = 0.0
        self.statements = 0

    def work(self, seconds: float) -> float:
        """Give the first free core so much to do; return when it is done."""
        begin = max(heapq.heappop(self._free), self._hub.now, self.stalled_until)
        heapq.heappush(self._free, begin + seconds)
        self.busy += seconds
        return begin + seconds

    def commit(self, ready: float) -> float:
        """Return when what is ready then is on disk: with the flush that begins next,
        and with everybody who waits for that one."""
        flush = self._topology.flush
        if ready >= self._next_flush:
            self._next_flush = max(ready, self._flushed)
            self._flushed = self._next_flush + flush
            self.flushing += flush
            return self._flushed
        return self._next_flush + flush


class Database:
    """The servers together."""

    def __init__(self, hub: Hub, topology: Topology) -> None:
        self._hub = hub
        self.topology = topology
        self.nodes = [Node(hub, topology) for _ in range(topology.nodes)]

    def read(self, node: int, cost: Cost) -> None:
        """Return when a statement that costs so much has been answered."""
        done = self._work(node, cost)
        self._hub.sleep_until(done + self.topology.round_trip)

    def write(self, node: int, cost: Cost) -> None:
        """The same, and it is committed."""
        done = self._work(node, cost)
        if len(self.nodes) > 1:
            done += self.topology.between_nodes
            for other in self.nodes:
                if other is not self.nodes[node]:
                    other.work(cost.seconds * self.topology.apply_share)
        done = self.nodes[node].commit(done)
        self._hub.sleep_until(done + self.topology.round_trip)

    def stall(self, seconds: float) -> None:
        """Nothing is served from now on for so long."""
        for node in self.nodes:
            node.stalled_until = self._hub.now + seconds

    def used(self) -> Used:
        """So far, each on the node where it is the most."""
        return Used(
            cores=max(node.busy for node in self.nodes),
            log=max(node.flushing for node in self.nodes),
            bytes=max(node.bytes for node in self.nodes),
            statements=sum(node.statements for node in self.nodes),
        )

    def _work(self, node: int, cost: Cost) -> float:
        server = self.nodes[node]
        server.statements += 1
        server.bytes += cost.bytes
        return server.work(cost.seconds)
