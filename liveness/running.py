"""The parts of a started engine, put together; how it registers, and how it drains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from liveness import exceptions, log
from liveness.admission import Admission
from liveness.agenda import Agenda, Entry
from liveness.backlog import Backlog
from liveness.bell import Bell
from liveness.chronicle import Chronicle
from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db import migration
from liveness.db.claims import Claims
from liveness.db.connection import Database, is_database_error, one_line, retrying
from liveness.db.deadlines import Deadlines
from liveness.db.engines import Engines
from liveness.db.events import EventLog
from liveness.db.heads import Heads
from liveness.db.rows import new_token
from liveness.detector import Detector
from liveness.firing import Firing
from liveness.handlers import Handlers
from liveness.heart import Heart
from liveness.identity import Identity
from liveness.loop import Loop
from liveness.memory import Memory
from liveness.model import Deadline, Engine, EngineState
from liveness.owner import Owner
from liveness.runner import Runner
from liveness.settle import Settler
from liveness.skew import Skew
from liveness.sweep import Sweep
from liveness.trust import Trust
from liveness.version import __version__

if TYPE_CHECKING:
    from liveness.metrics import Endpoint

LOG = log.get(__name__)


class Running:
    """The parts of a started engine."""

    def __init__(
        self,
        engine_id: str,
        settings: Settings,
        clock: Clock,
        handlers: Handlers,
        on_drain: Callable[[], None],
        on_fenced: Iterable[Callable[[str], None]],
        identity: Identity | None = None,
    ) -> None:
        """``on_drain`` is called when an operator has asked for it and the drain has
        begun; ``on_fenced`` may get more members until the fence."""
        self._settings = settings
        self._clock = clock
        self._handlers = handlers
        self._on_drain, self._on_fenced = on_drain, on_fenced
        self._drain_lock = threading.RLock()
        self._drained = False
        self._asked = False
        self._endpoint: Endpoint | None = None
        self.database = Database(settings.connection, settings.database_timeout)
        self._identity = identity or Identity.of_this_process()
        self.trust = Trust(clock, engine_id)
        self.engines = Engines(clock)
        self.deadlines = Deadlines(clock)
        self._claims = Claims(clock, self.engines)
        self._pool = self.database.pool(settings.connections)
        self._sweep_pool = self.database.pool(1)
        self._bell = Bell(self._identity)
        self._agenda, self._suspects = Agenda(), Agenda()
        self.runner = Runner(
            handlers,
            self.trust,
            clock,
            settings.handler_threads,
            settings.batch_size,
            self._bell.ring,
        )
        self._admission = Admission(self.runner, clock)
        self._backlog = Backlog(clock, Heads.serve)
        self._settler = Settler(
            self.deadlines,
            handlers,
            settings.batch_size,
            self.runner.let_go,
            lambda value, seconds: self.loop.due_again(value, seconds),
            lambda: self.loop.came_round(),
        )
        self._detected = self._detector()
        event_log = EventLog(clock)
        self.history = Chronicle(event_log, engine_id, clock, settings)
        skew = Skew(clock)
        self.firing = Firing(
            engine_id,
            clock,
            skew,
            self.trust,
            self._claims,
            Heads(clock, event_log),
            self.runner,
            self._admission,
            self._agenda,
            self._suspects,
            self._backlog,
            handlers,
        )
        self._sweep = Sweep(
            engine_id,
            clock,
            settings,
            self.trust,
            self.engines,
            self._claims,
            self._detected,
            handlers,
            self.runner,
            self._agenda,
            self._suspects,
            self._bell,
            self._admission,
            self._backlog,
            skew,
            self.firing,
        )
        self.loop = Loop(
            engine_id,
            self._sweep_pool,
            clock,
            settings,
            self.trust,
            self.runner,
            self._settler,
            self._agenda,
            self._suspects,
            self._sweep,
            self._bell,
            self._admission,
            self._backlog,
            self.firing,
        )
        self.heart = Heart(
            self.database.pool(1),
            self.engines,
            self.trust,
            clock,
            settings,
            self.loop.stuck_for,
            self._fenced,
        )
        self.owner = Owner(
            engine_id,
            self._pool,
            str(self.database),
            settings,
            self.trust,
            self.deadlines,
            self._claims,
            handlers,
            self._settler.add,
            self._armed,
            self._forget,
            self._due_in,
        )
        self.runner.on_run = self.owner.given_to_handlers
        self._sweep.on_drain = self._asked_to_drain
        self._write_history()
        self._thread = threading.Thread(
            target=self.loop.run, name="liveness-sweep", daemon=True
        )

    def _write_history(self) -> None:
        self._claims.on_taken = self.history.taken
        self._settler.on_settled = self.history.settled
        self._detected.on_fenced = self.history.fenced
        self._sweep.purge_history = self.history.purge
        self.firing.on_fired = self.history.fired
        self.firing.of_nobodys = self.history.of_nobodys
        self.firing.untold = self.history.untold
        self.firing.on_nobodys = self.history.nobodys
        self._sweep.on_claimed = self.history.claimed
        self.history.database_now = lambda: self._sweep.skew.now
        self.loop.write_history = self.history.flush

    def _endpoint_of(self, settings: Settings) -> Endpoint | None:
        """What answers for this engine, if the options say so.

        :raises ConfigError: it cannot listen there.
        """
        if settings.metrics_listen is None:
            return None
        try:
            from liveness import metrics
        except ModuleNotFoundError as error:
            raise exceptions.ConfigError(
                reason=f"[liveness] metrics_listen needs {error.name}, which is not"
                " installed: pip install 'liveness[metrics]'"
            ) from None
        parts = metrics.Parts(
            clock=self._clock,
            trust=self.trust,
            heart=self.heart,
            loop=self.loop,
            firing=self.firing,
            runner=self.runner,
            handlers=self._handlers,
            claims=self._claims,
            settler=self._settler,
            detector=self._detected,
            skew=self._sweep.skew,
            history=self.history,
            pools={"owner": self._pool, "sweep": self._sweep_pool},
        )
        return metrics.Endpoint(parts, settings.metrics_listen)

    @property
    def fleet_size(self) -> int:
        """See :attr:`liveness.Liveness.fleet_size`."""
        return max(self._sweep.fleet_size, 1)

    def register(self) -> None:
        """Check the schema, and register."""
        self._endpoint = self._endpoint_of(self._settings)
        migration.require_current(self.database, self._sweep_pool)
        self._register()

    def start(self) -> None:
        """Start the heart and the loop: both, or none when there is no thread."""
        try:
            self.heart.start()
            self._thread.start()
            if self._endpoint is not None:
                self._endpoint.start()
        except RuntimeError:
            self.drain(0.0)
            raise
        LOG.info(
            "Engine %s is live on %s (ttl %g s).",
            self.trust.engine_id,
            self.database,
            self._settings.ttl,
            event="registered",
            engine=self.trust.engine_id,
        )

    def drain(self, timeout: float) -> None:
        """See :meth:`liveness.Liveness.stop`. A second caller waits for the first, but
        for a callback of the fence: the first waits for the heart that runs it."""
        if not self._drain_lock.acquire(blocking=not self.heart.is_current_thread):
            return
        try:
            if not self._drained:
                self._drained = True
                self._drain(timeout)
        finally:
            self._drain_lock.release()

    def _resign(self, connection: Any, engine_id: str) -> None:
        if self.engines.resign(connection, engine_id):
            self.history.stopped()
            self.history.flush(connection)

    def _asked_to_drain(self) -> None:
        """The row says so, and this engine has not written that: an operator has."""
        if not (self._asked or self.loop.draining):
            me = self.trust.engine_id
            LOG.info("Engine %s was asked to drain.", me, event="asked", engine=me)
            # Not from here: draining waits for the sweep's thread.
            threading.Thread(
                target=self._drain_as_asked, name="liveness-drain", daemon=True
            ).start()
            self._asked = True

    def _drain_as_asked(self) -> None:
        self.begin_drain()
        self._on_drain()

    def begin_drain(self) -> None:
        """See :meth:`liveness.Liveness.begin_drain`. Twice does no harm."""
        if self.loop.draining:
            return
        me = self.trust.engine_id
        LOG.info(
            "Engine %s drains: it takes no more work.", me, event="draining", engine=me
        )
        self.loop.draining = True
        self._bell.ring()
        if not self.trust.fenced:
            self._quietly(self.engines.set_draining)

    def _drain(self, timeout: float) -> None:
        self.begin_drain()
        LOG.info(
            "Engine %s waits up to %g s for what is in flight.",
            self.trust.engine_id,
            timeout,
            event="waiting",
            engine=self.trust.engine_id,
        )
        turns = self.loop.turns  # the one under way may still claim
        self._bell.ring()
        if not self.trust.fenced:
            self._wait_for_work(timeout, turns)
        self.loop.stopping = True
        self._bell.ring()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=self.database.timeout * 3)
        # From here on nothing of this engine may act: only then do others get it.
        self.trust.drop()
        for guard in list(self.owner.guards):
            guard.handed_over = True
        self.runner.withdraw("its engine stops")
        self._last_outcomes()
        self.runner.spend_all()
        if not self.trust.fenced:
            self._hand_back()
        self.heart.stop()
        if not self.trust.fenced:
            self._quietly(self._resign)
        me = self.trust.engine_id
        LOG.info("Engine %s has stopped.", me, event="stopped", engine=me)
        self.close()

    def close(self) -> None:
        """Give every resource back."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._bell.close()
        self.database.close()

    def configure(self, settings: Settings) -> None:
        """Hand the settings to every part that reads them."""
        self._settings = settings
        self.heart.configure(settings)
        self.loop.settings = settings
        self._sweep.configure(settings)
        self.history.settings = settings
        self.owner.settings = settings
        self.runner.batch_size = self._settler.batch_size = settings.batch_size
        self._bell.ring()

    def _detector(self) -> Detector:
        settings, memory = self._settings, None
        if settings.state_directory is not None:
            memory = Memory(
                settings.state_directory, str(self.database), self._identity
            )
        return Detector(
            self.engines, self.trust, self._identity, self._clock, settings, memory
        )

    def _register(self) -> None:
        me = self._identity
        row = Engine(
            id=self.trust.engine_id,
            token=new_token(),
            host=me.host,
            pid=me.pid,
            process_start=me.process_start,
            boot_id=me.boot_id,
            namespaces=me.namespaces,
            binary=me.binary,
            version=__version__,
            state=EngineState.LIVE,
            started_at=None,  # type: ignore[arg-type]
            beat_seq=1,
            beat_at=None,  # type: ignore[arg-type]
            ttl=self._settings.ttl,
            ended_at=None,
            fenced_by=None,
            fence_evidence=None,
        )
        sent = self._clock.monotonic()

        def insert() -> None:
            with self._sweep_pool.connect() as connection:
                self.engines.register(connection, row)

        try:
            retrying(insert)
        except Exception as error:
            if not is_database_error(error):
                raise
            raise exceptions.DatabaseError(
                url=str(self.database), reason=one_line(error)
            ) from None
        self.heart.registered(row.token, sent, self._clock.monotonic())
        self.history.registered(row)

    def _wait_for_work(self, timeout: float, turns: int) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end and not self.trust.fenced:
            busy = self.runner.busy or self._settler.pending or self.owner.guards
            turned = self.loop.turns > turns or not self._thread.is_alive()
            if not busy and turned:
                return
            time.sleep(min(0.02, max(end - time.monotonic(), 0.0)))

    def _last_outcomes(self) -> None:
        """Write what is known; the rest of the rows are handed back."""
        self._settler.add(self.runner.collect())

        def settle(connection: Any, engine_id: str) -> None:
            self._settler.settle(connection)

        if self._settler.pending and not self.trust.fenced:
            self._quietly(settle)

    def _hand_back(self) -> None:
        limit = self._settings.batch_size

        def hand_back(connection: Any, engine_id: str) -> None:
            total = 0
            while count := self.deadlines.hand_back(connection, engine_id, limit):
                total += count
            if total:
                LOG.info(
                    "Engine %s handed %d deadlines back.",
                    engine_id,
                    total,
                    event="handed-back",
                    engine=engine_id,
                )

        self._quietly(hand_back)

    def _quietly(self, write: Callable[[Any, str], Any]) -> None:
        """Do one step of draining. If it fails, others take over when the engine's
        lease is over; nothing is lost, it only takes longer."""

        def once() -> None:
            with self._pool.connect() as connection:
                write(connection, self.trust.engine_id)

        try:
            retrying(once)
        except Exception as error:
            LOG.warning(
                "Engine %s could not tell the database that it stops: %s. Others take"
                " over when its lease is over.",
                self.trust.engine_id,
                one_line(error),
                event="unresigned",
                engine=self.trust.engine_id,
            )

    def _fenced(self, reason: str) -> None:
        self._bell.ring()
        for callback in self._on_fenced:
            try:
                callback(reason)
            except BaseException:
                LOG.exception(
                    "A callback for the fence failed; the others are called.",
                    event="bug",
                    engine=self.trust.engine_id,
                )

    def _armed(self, values: Iterable[Deadline]) -> None:
        """Put on the agenda what is due before the next sweep, and wake the loop if
        that is earlier than it thinks."""
        now = self._clock.monotonic()
        soon = now + self._sweep.horizon
        skew = self._sweep.skew
        last = skew.moment(soon)  # most are later, and nothing more is asked of them
        early = [value for value in values if value.due_at <= last]
        times = [(skew.monotonic(value.due_at), value) for value in early]
        entries = [Entry(due, value) for due, value in times if due <= soon]
        if entries:
            earliest = min(entry.due for entry in entries)
            ring = earliest < self._agenda.next_due
            self._agenda.add(entries)
            if ring:
                self._bell.ring()

    def _due_in(self, due: float | datetime, began: float) -> float:
        if isinstance(due, datetime):
            when = self._sweep.skew.monotonic(due)
        else:
            when = began + due
        return when - self._clock.monotonic()

    def _forget(self, row_id: int) -> None:
        self._agenda.discard(row_id)
        self._suspects.discard(row_id)
