"""Who is dead: observation over an unbroken run, or proof on the same machine.

No clock but the observer's own monotonic one decides, so clocks of hosts and of
database nodes may differ by any amount. The lease end that a row shows is not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from liveness import log
from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db.engines import Engines, Observation
from liveness.db.finding import Question
from liveness.identity import Identity
from liveness.memory import Memory, Remembered
from liveness.model import Engine
from liveness.trust import Trust

LOG = log.get(__name__)

WINDOW = 100
"""Engines that one engine observes: all of a smaller fleet, its successors in the
ring of ids in a larger one, so that the cost per engine stays flat."""


START_PRECISION = 2.0
"""Seconds to which a server tells when it started."""


@dataclasses.dataclass(slots=True)
class Run:
    """Readings of one engine that all showed the same beat, none too far apart.

    ``since`` is when the first was answered; ``asked`` when the latest was sent.
    """

    beat_seq: int
    since: float
    asked: float


class Detector:
    """Observes the other engines and fences the dead. Used by one thread.

    ``moves`` counts the connections and servers that were read from. ``look_again_by``:
    when, on the monotonic clock, the first of those that are silent will have been so
    for its whole lease; or now, where another observer was quicker.
    """

    def __init__(
        self,
        engines: Engines,
        trust: Trust,
        identity: Identity,
        clock: Clock,
        settings: Settings,
        memory: Memory | None = None,
    ) -> None:
        """``memory``: what a predecessor observed is gone on from, and what this
        engine observes is left there."""
        self.settings = settings
        self._engines = engines
        self._trust = trust
        self._identity = identity
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self.moves = 0
        self._link: object = None
        self._place: tuple[int, str] | None = None
        self._started = 0.0
        self._warned: set[str] = set()
        self._missed: set[str] = set()
        self.look_again_by = float("inf")
        self._memory = memory
        self._inherited: Remembered | None = None
        self.on_fenced: Callable[[sa.Connection, Engine, str], None] = (
            lambda connection, victim, evidence: None
        )
        if memory is not None:
            self._inherit(memory.load())

    def observe(
        self, connection: sa.Connection, question: Question | None = None
    ) -> Observation:
        """Read the engines once, and with them what the ``question`` finds; afterwards
        their runs are one reading longer."""
        asked = self._clock.monotonic()
        me = self._trust.engine_id
        seen = self._engines.observe(connection, me, WINDOW, question)
        answered = self._clock.monotonic()
        self._forget_if_elsewhere(connection, seen.server)
        others = [e for e in seen.engines if e.alive and e.id != me]
        self._runs = {e.id: self._continued(e, asked, answered) for e in others}
        self._missed &= self._runs.keys()
        self._remember(seen.server)
        return seen

    def fence_the_dead(
        self, connection: sa.Connection, engines: Iterable[Engine]
    ) -> list[Engine]:
        """Fence those of the ``engines`` just observed that are proven dead; return
        those that this engine fenced."""
        fenced = []
        self.look_again_by = float("inf")
        for engine in engines:
            if not engine.alive or engine.id == self._trust.engine_id:
                continue
            evidence = self._identity.proof_of_death(engine) or self._silence(engine)
            if evidence is None or not self._trust.good:
                continue
            if self._engines.fence(connection, engine, self._trust.engine_id, evidence):
                LOG.warning(
                    "Fenced engine %s (host %s, pid %s): %s. Its deadlines are taken"
                    " over.",
                    engine.id,
                    engine.host,
                    engine.pid,
                    evidence,
                    event="fenced",
                    engine=engine.id,
                )
                fenced.append(engine)
                self.on_fenced(connection, engine, evidence)
            elif engine.id not in self._missed:
                # Most likely it is dead by now: what it had can be taken over. Once: a
                # node that shows an old row would show it again.
                self._missed.add(engine.id)
                self.look_again_by = self._clock.monotonic()
        return fenced

    def _silence(self, engine: Engine) -> str | None:
        """The evidence, when the engine has been silent for its whole lease as this
        observer counts it; else None. The wait ends before the fence is sent."""
        run = self._runs.get(engine.id)
        if run is None or run.beat_seq != engine.beat_seq:
            return None
        now = self._clock.monotonic()
        gap = engine.ttl / 4
        wait = engine.ttl * (1 + self.settings.clock_drift) + self.settings.lease_margin
        if now < run.since + wait:
            self.look_again_by = min(self.look_again_by, run.since + wait)
            return None
        if now - run.asked > gap:
            return None
        # A gap between the observer's own beats restarts the run as well.
        since = max(run.since, self._trust.steady_since(gap))
        if now < since + wait:
            self._cannot_judge(engine, gap)
            return None
        return f"silent for {now - since:.1f} s (ttl {engine.ttl:g} s)"

    def _continued(self, engine: Engine, asked: float, answered: float) -> Run:
        run = self._runs.get(engine.id)
        gap = engine.ttl / 4
        if run is None or run.beat_seq != engine.beat_seq or answered - run.asked > gap:
            return Run(engine.beat_seq, answered, asked)
        return Run(run.beat_seq, run.since, asked)

    def _forget_if_elsewhere(self, connection: sa.Connection, server: str) -> None:
        """A reconnect, or another server behind the same address, restarts all."""
        link = connection.connection.dbapi_connection
        if self._place is not None and self._place == (id(link), server):
            return
        self._link, self._place = link, (id(link), server)
        self.moves += 1
        inherited, self._inherited = self._inherited, None
        if self._memory is not None:
            self._started = self._engines.server_start(connection)
        if inherited is None or not self._same_server(inherited, server):
            self._runs = {}

    def _same_server(self, inherited: Remembered, server: str) -> bool:
        """A restarted server may have lost commits that it had acknowledged."""
        same_start = abs(inherited.started - self._started) <= START_PRECISION
        return inherited.server == server and same_start

    def _inherit(self, left: Remembered | None) -> None:
        if left is not None:
            self._inherited = left
            self._runs = {key: Run(*run) for key, run in left.runs.items()}
            self._trust.inherit(left.beats)

    def _remember(self, server: str) -> None:
        if self._memory is None or not self._runs:
            return
        oldest = min(run.since for run in self._runs.values())
        runs = {k: (r.beat_seq, r.since, r.asked) for k, r in self._runs.items()}
        beats = self._trust.beats_since(oldest)
        self._memory.save(Remembered(server, self._started, runs, beats))

    def _cannot_judge(self, engine: Engine, gap: float) -> None:
        if self.settings.beat_interval > gap and engine.id not in self._warned:
            self._warned.add(engine.id)
            LOG.warning(
                "Engine %s is silent, but this engine beats every %g s, too seldom to"
                " judge its ttl of %g s; one with a beat_interval under %g s has to.",
                engine.id,
                self.settings.beat_interval,
                engine.ttl,
                gap,
                event="unjudged",
                engine=engine.id,
            )
