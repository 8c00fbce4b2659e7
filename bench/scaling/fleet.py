"""The engines of a simulated fleet: the program's own parts, two greenlets each."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from oslo_db import exception as db_exc

from bench.scaling.hub import Hub, SimulatedClock
from bench.scaling.store import (
    KIND,
    Connection,
    SimulatedClaims,
    SimulatedDeadlines,
    SimulatedEngines,
    SimulatedFinder,
    Tables,
)
from liveness.admission import Admission
from liveness.agenda import Agenda
from liveness.backlog import Backlog
from liveness.conf import Settings
from liveness.detector import Detector
from liveness.firing import Firing
from liveness.handlers import FunctionHandler, Handlers
from liveness.heart import Heart
from liveness.loop import Loop
from liveness.model import Engine, EngineState
from liveness.runner import Runner
from liveness.settle import Settler
from liveness.skew import Skew
from liveness.sweep import Sweep
from liveness.trust import Trust
from liveness.walks import Walks


class Inline:
    """In place of the handlers' threads: they take no time."""

    def __init__(self, size: int, execute: Callable[[Any], None]) -> None:
        self.size = size
        self._execute = execute

    def submit(self, tasks: Sequence[Any], first: bool = False) -> None:
        for task in tasks:
            self._execute(task)

    def start_if_none(self) -> None:
        """There are none."""


class Elsewhere:
    """In place of :class:`liveness.identity.Identity`: no two engines are on one
    machine, so that nothing but silence tells who is dead."""

    def proof_of_death(self, engine: Engine) -> None:
        """None."""


class Bell:
    """In place of :class:`liveness.bell.Bell`; only the engine itself rings it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._rung = False

    def ring(self) -> None:
        self._rung = True

    def watch(self, engines: Any) -> None:
        """Nobody can be watched."""

    def wait(self, seconds: float) -> bool:
        rung, self._rung = self._rung, False
        self._hub.sleep(0.0 if rung else seconds)
        return False


def _raise(error: Exception) -> None:
    if not isinstance(error, db_exc.DBDeadlock):
        raise error


class Member:
    """One engine."""

    def __init__(
        self, tables: Tables, handlers: Handlers, settings: Settings, node: int
    ) -> None:
        hub = tables.hub
        self.id = str(uuid.UUID(int=random.getrandbits(128)))
        self.killed = False
        self._hub = hub
        self._tables = tables
        clock = SimulatedClock(hub, random.uniform(0, 1e6))
        engines: Any = SimulatedEngines(tables)
        claims: Any = SimulatedClaims(tables)
        deadlines: Any = SimulatedDeadlines(tables)
        connection: Any = Connection(node)
        self.trust = Trust(clock, self.id)
        self._bell: Any = Bell(hub)
        runner = Runner(
            handlers,
            self.trust,
            clock,
            settings.handler_threads,
            settings.batch_size,
            self._bell.ring,
        )
        pool: Any = Inline(settings.handler_threads, runner._execute)
        runner._pool = pool
        agenda, suspects = Agenda(), Agenda()
        admission = Admission(runner, clock)
        backlog = Backlog(clock, lambda dialect, line, limit: False)
        settler = Settler(
            deadlines,
            handlers,
            settings.batch_size,
            runner.let_go,
            lambda value, seconds: self.loop.due_again(value, seconds),
            lambda: self.loop.came_round(),
        )
        identity: Any = Elsewhere()
        detector = Detector(engines, self.trust, identity, clock, settings)
        skew = Skew(clock)
        heads: Any = None  # none serves
        firing = Firing(
            self.id,
            clock,
            skew,
            self.trust,
            claims,
            heads,
            runner,
            admission,
            agenda,
            suspects,
            backlog,
            handlers,
        )
        firing.sleep = lambda seconds: None
        sweep = Sweep(
            self.id,
            clock,
            settings,
            self.trust,
            engines,
            claims,
            detector,
            handlers,
            runner,
            agenda,
            suspects,
            self._bell,
            admission,
            backlog,
            skew,
            firing,
        )
        finder: Any = SimulatedFinder(tables, self.id)
        sweep._finder, sweep._walks = finder, Walks(finder)
        self.loop = Loop(
            self.id,
            connection,
            clock,
            settings,
            self.trust,
            runner,
            settler,
            agenda,
            suspects,
            sweep,
            self._bell,
            admission,
            backlog,
            firing,
        )
        beating: Any = Connection(node)
        self.heart = Heart(
            beating,
            engines,
            self.trust,
            clock,
            settings,
            self.loop.stuck_for,
            lambda reason: None,
        )
        self.sweep = sweep
        # No statement fails here but by a conflict: what is raised is a mistake of the
        # simulation.
        self.loop._failed = self.heart._failed = _raise  # type: ignore[method-assign]
        engines.register(self._row(settings))
        self.heart.registered(1, clock.monotonic(), clock.monotonic())
        hub.spawn(self._beat, random.uniform(0, settings.beat_interval))
        hub.spawn(self._turn, random.uniform(0, settings.sweep_interval))

    def has_kept_house(self, fleet: int) -> None:
        """As in a fleet that has been up for long: not all keep house at once."""
        pause = self.sweep._house_pause(fleet)
        due = self.heart._clock.monotonic() + random.uniform(0, pause)
        self.sweep._next_housekeeping = due

    def _row(self, settings: Settings) -> Engine:
        return Engine(
            id=self.id,
            token=1,
            host=self.id,
            pid=1,
            process_start=None,
            boot_id=None,
            namespaces=None,
            binary="simulated",
            version="",
            state=EngineState.LIVE,
            started_at=self._tables.now,
            beat_seq=1,
            beat_at=self._tables.now,
            ttl=settings.ttl,
            ended_at=None,
            fenced_by=None,
            fence_evidence=None,
        )

    def _beat(self) -> None:
        while not (self.killed or self.trust.fenced):
            delay = self.heart._step()
            self.heart._expected = self.heart._clock.monotonic() + delay
            self._hub.sleep(delay)

    def _turn(self) -> None:
        good = True
        while not (self.killed or self.trust.fenced):
            delay = self.loop.turn()
            self._tables.seen.suspended += good and not self.trust.good
            good = self.trust.good
            self._bell.wait(delay)


class Fleet:
    """So many engines, each with so many deadlines, due within ``within`` seconds."""

    def __init__(
        self,
        tables: Tables,
        count: int,
        deadlines: int,
        within: float,
        settings: Settings,
        cold: bool = False,
    ) -> None:
        """``cold``: all of them have just been started."""
        self.tables = tables
        self._each = max(1, deadlines // count)
        self._within = within
        handlers = Handlers(settings)
        handlers.add(FunctionHandler(KIND, lambda deadline: None))
        written = tables.database.topology.written
        self.members = [
            Member(tables, handlers, settings, number % written)
            for number in range(count)
        ]
        for member in self.members:
            tables.stock(member.id, self._each, within)
            if not cold:
                member.has_kept_house(count)
        tables.hub.spawn(self._fill, 0.0)

    def kill(self, count: int) -> list[str]:
        """Kill some; return their ids."""
        victims = random.sample([m for m in self.members if not m.killed], count)
        for victim in victims:
            victim.killed = True
            self.tables.orphan(victim.id, self._each, self._within)
        return [victim.id for victim in victims]

    def herd(self, count: int, seconds: float) -> None:
        """So many deadlines, of all the engines, are due at one moment."""
        for member in random.choices(self.members, k=count):
            self.tables.arm(member.id, self.tables.hub.now + seconds)

    def _fill(self) -> None:
        while True:
            self.tables.fill()
            self.tables.hub.sleep(0.5)
