"""The heart: beats, on a thread and a connection of its own.

It shares nothing with the rest of the program, so that neither a full pool nor a
hung handler can delay a beat. But beating proves work: when the sweep loop has not
come round for a whole lease, the heart stops, says why, and lets others take over.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import sqlalchemy as sa

from liveness import log
from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db.connection import one_line
from liveness.db.engines import Engines
from liveness.trust import Trust

LOG = log.get(__name__)


class Heart:
    """Beats for one registered engine until it is stopped or fenced."""

    def __init__(
        self,
        pool: sa.Engine,
        engines: Engines,
        trust: Trust,
        clock: Clock,
        settings: Settings,
        works: Callable[[float], str | None],
        on_fenced: Callable[[str], None],
    ) -> None:
        """``works(seconds)`` says why the engine does no work although it had that
        long, or None; ``on_fenced(reason)`` is called once, from this thread."""
        self._pool = pool
        self._engines = engines
        self._trust = trust
        self._clock = clock
        self._settings = settings
        self._works = works
        self._on_fenced = on_fenced
        self._token = 0
        self._sent = 1
        self._expected = float("inf")
        self._connection: sa.Connection | None = None
        self._failing = self._suspended = self._idle = False
        self._stopping = threading.Event()
        self.on_beat: Callable[[bool, float], None] = lambda committed, seconds: None
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._run, name="liveness-heart", daemon=True
        )

    def registered(self, token: int, sent: float, answered: float) -> None:
        """The row was inserted with that token and beat 1; the request was sent at
        ``sent``."""
        self._token = token
        settings = self._settings
        self._trust.renew(sent, answered, settings.ttl - settings.lease_margin)

    def start(self) -> None:
        """Beat from now on."""
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        """True in an ``on_fenced`` callback."""
        return self._thread is threading.current_thread()

    def stop(self) -> None:
        """Beat no more; returns when the last beat is over (at once when called from
        an ``on_fenced`` callback: then it is)."""
        self._stopping.set()
        if self._thread.is_alive() and not self.is_current_thread:
            self._thread.join()
        self._close()

    def configure(self, settings: Settings) -> None:
        """Go on with other settings from the next beat on. A shorter ttl is trusted
        before the beat that announces it, a longer one only after it is committed."""
        self._settings = settings
        self._trust.shorten(settings.ttl - settings.lease_margin)

    def beat(self) -> bool:
        """Send one beat. True: committed. False: unknown or refused, see the trust.

        Never raises for the database's sake."""
        settings = self._settings
        lease = settings.ttl - settings.lease_margin
        self._trust.shorten(lease)
        sent = self._clock.monotonic()
        before, self._sent = self._sent, self._sent + 1
        try:
            alive = self._engines.beat(
                self._connect(),
                self._trust.engine_id,
                self._token,
                before,
                self._sent,
                settings.ttl,
            )
        except Exception as error:
            self._failed(error)
            return False
        if not alive:
            self.fenced("its row was fenced, removed, or beaten by another process")
            return False
        self._trust.renew(sent, self._clock.monotonic(), lease)
        if self._failing:
            me = self._trust.engine_id
            LOG.info(
                "Engine %s beats again and goes on.", me, event="beating", engine=me
            )
        self._failing = self._suspended = False
        return True

    def fenced(self, reason: str) -> None:
        """This engine is over. Idempotent."""
        if self._trust.end(reason):
            LOG.error(
                "Engine %s was fenced (%s): it claims and settles nothing more, others"
                " take over what it had.",
                self._trust.engine_id,
                reason,
                event="fenced",
                engine=self._trust.engine_id,
            )
            self._on_fenced(reason)

    def _run(self) -> None:
        delay = 0.0
        while not self._stopping.wait(delay):
            if os.getpid() != self._pid:  # a fork's copy must not beat
                return
            delay = self._step()
            self._expected = self._clock.monotonic() + delay
            if self._trust.fenced:
                return

    def _step(self) -> float:
        """Beat if the engine works; return seconds until the next step."""
        interval = self._settings.beat_interval
        # Woken late, this whole process was paused: the loop had no time to come round.
        paused = self._clock.monotonic() > self._expected + interval
        try:
            idle = None if paused else self._works(self._settings.ttl)
            if idle:
                self._stopped_working(idle)
                self._look()
            else:
                self._idle = False
                began = self._clock.monotonic()
                committed = self.beat()
                self.on_beat(committed, self._clock.monotonic() - began)
                if not committed:
                    interval = min(interval, max(0.05, interval / 4))
        except Exception:
            LOG.exception(
                "The heart stumbled; it goes on.",
                event="bug",
                engine=self._trust.engine_id,
            )
        return interval * random.uniform(0.8, 1.0)  # sooner rather than late

    def _look(self) -> None:
        """See whether the engine, which beats no more, was fenced meanwhile."""
        try:
            row = self._engines.get(self._connect(), self._trust.engine_id)
        except Exception as error:
            self._failed(error)
            return
        if row is None or not row.alive or row.token != self._token:
            self.fenced("it had stopped beating")

    def _stopped_working(self, idle: str) -> None:
        if not self._idle:
            LOG.error(
                "Engine %s stops beating: %s. Others will take over what it has when"
                " its lease of %g s is over.",
                self._trust.engine_id,
                idle,
                self._settings.ttl,
                event="beatless",
                engine=self._trust.engine_id,
            )
        self._idle = True

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._pool.connect()
        return self._connection

    def _failed(self, error: Exception) -> None:
        self._close(broken=True)
        left = self._trust.left
        if not self._failing:
            LOG.warning(
                "Engine %s could not beat: %s. It tries again, and trusts itself for"
                " another %.1f s.",
                self._trust.engine_id,
                one_line(error),
                max(left, 0.0),
                event="unbeaten",
                engine=self._trust.engine_id,
            )
        if left <= 0 and not self._suspended:
            LOG.warning(
                "Engine %s is suspended: no beat was committed in time. It claims"
                " nothing until one is.",
                self._trust.engine_id,
                event="suspended",
                engine=self._trust.engine_id,
            )
        self._failing, self._suspended = True, left <= 0

    def _close(self, broken: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if broken:
                connection.invalidate()
            connection.close()
        except Exception as error:
            LOG.debug("Closing the beat connection: %s", one_line(error))
