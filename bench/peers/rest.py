"""Idle cost: members of each at its defaults, with nothing to do, all at once."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench import machine
from bench.context import Context
from bench.crew import Worker, crew_on
from bench.peers import meters
from bench.peers.catalogue import Peer
from bench.peers.home import Home, home, tried
from bench.rounds import Row, row
from bench.servers import Servers

SETTLE = 5.0
"""Seconds after which a member that has started is at rest."""


@dataclasses.dataclass
class Guests:
    """The members of one system, and what meters its store."""

    name: str
    where: str
    meter: meters.Meter
    members: list[Worker]
    hurry: float = 1.0
    before: meters.Reading | None = None
    own: float = 0.0

    def begin(self) -> None:
        self.own = self._own_cpu()
        self.before = self.meter.read()

    def rows(self, seconds: float, load: float) -> Iterator[Row]:
        """Per member and second since :meth:`begin`."""
        assert self.before is not None
        found = meters.measured(self.before, self.meter)
        own = self._own_cpu() - self.own
        each = seconds * len(self.members) * self.hurry
        note = ""
        if self.hurry != 1:
            note = f"at {self.hurry:g} times its default pace, and divided by that"
        for what, unit, value in (
            ("statements", "/s", found.statements),
            ("bytes", "/s", found.bytes),
            ("server CPU", "ms/s", found.cpu * 1000),
            ("own CPU", "ms/s", own * 1000),
        ):
            name = f"{self.name} at rest: {what}"
            yield row(name, self.where, unit, [value / each], load=load, note=note)
            note = ""

    def _own_cpu(self) -> float:
        return sum(member.ask("notes")["cpu"] for member in self.members)


def run(
    context: Context, peers: list[Peer], members: int, seconds: float
) -> Iterator[Row]:
    """Rows of this program on both databases, and of each peer."""
    connections = meters.Connections(context.servers.get("postgresql"))
    load = machine.load()
    with contextlib.ExitStack() as stack:
        context.tell(f"peers at rest: starting {members} of each")
        guests = list(_all(context, peers, members, connections, stack))
        time.sleep(SETTLE)
        context.tell(f"peers at rest: {seconds:g} s")
        for guest in guests:
            guest.begin()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            connections.look()
        # In the order in which they began: to ask takes the same time again.
        rows = [list(guest.rows(seconds, load)) for guest in guests]
    for found in rows:
        yield from found


def _all(
    context: Context,
    peers: list[Peer],
    members: int,
    connections: meters.Connections,
    stack: contextlib.ExitStack,
) -> Iterator[Guests]:
    """All of them, started a few at a time; one that cannot be had is left out."""
    servers = context.servers
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(tried, lambda p=peer: _peer(servers, p, members, connections))
            for peer in peers
        ]
    for database in ("postgresql", "mariadb"):
        if database not in context.databases:
            continue
        yield stack.enter_context(_ours(servers, database, members, connections))
    for future in waiting:
        if (found := future.result()) is not None:
            guests, its_stack = found
            stack.enter_context(its_stack)
            yield guests


def _peer(
    servers: Servers, peer: Peer, members: int, connections: meters.Connections
) -> tuple[Guests, contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        if "mariadb" in peer.stores:
            # Its own, for its server counts for all of its databases.
            servers = Servers()
            stack.callback(servers.close)
        at = stack.enter_context(home(peer, servers))
        command = peer.command("rest", at.url, str(peer.hurry))
        workers = [at.crew.start(command) for _ in range(members)]
        meter = _meter(at, connections)
        guests = Guests(peer.name, peer.where, meter, workers, peer.hurry)
        return guests, stack.pop_all()


def _meter(at: Home, connections: meters.Connections) -> meters.Meter:
    made: list[meters.Meter] = []
    if at.redis is not None:
        made.append(meters.Redis(at.redis.url, at.redis.process))
    if "postgresql" in at.peer.stores:
        made.append(meters.PostgreSQL(at.crew.place, connections))
    if "mariadb" in at.peer.stores:
        made.append(meters.MariaDB(at.crew.place))
    return meters.Together(made)


@contextlib.contextmanager
def _ours(
    servers: Servers, database: str, members: int, connections: meters.Connections
) -> Iterator[Guests]:
    with servers.place(database) as place, crew_on(place) as crew:
        engines = crew.engines(members)
        meter = (
            meters.MariaDB(place)
            if database == "mariadb"
            else meters.PostgreSQL(place, connections)
        )
        yield Guests("liveness", database, meter, engines)
