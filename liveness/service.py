"""oslo.service wiring, nothing else. Imported only when a service is asked for: the
host program has chosen its oslo.service backend by then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from oslo_service import service

from liveness import exceptions, log
from liveness.conf import Settings
from liveness.engine import Liveness

LOG = log.get(__name__)

RESIGN_SECONDS = 5
"""Kept of the launcher's graceful_shutdown_timeout for what comes after the waiting."""


class LivenessService(service.Service):
    """Runs an engine in the process that the launcher makes for it: nothing is opened
    before :meth:`start`, which the launcher calls after the fork."""

    def __init__(
        self, live: Liveness, engine_id: Callable[[], str] | None = None
    ) -> None:
        super().__init__()
        self._live = live
        self._engine_id = engine_id
        self._stopped = threading.Event()
        self._done = threading.Event()

    def start(self) -> None:
        """Start the engine. When it cannot be, this worker ends, with one line in the
        log; the launcher starts another."""
        super().start()
        self.reset()  # a worker forked after a SIGHUP
        problem = None
        try:
            self._live.start(self._engine_id() if self._engine_id else None)
        except exceptions.LivenessError as error:
            problem = error
        if problem is not None and not self._stopped.is_set():
            LOG.error("The engine does not start: %s", problem, event="unstarted")
            sys.exit(1)

    def stop(self, graceful: bool = True) -> None:
        """Drain: hand everything back, before the launcher loses its patience."""
        self._stopped.set()
        self._live.stop(self._drain_seconds())
        self._done.set()
        super().stop()

    def wait(self) -> None:
        """Return when the engine has stopped."""
        self._done.wait()

    def reset(self) -> None:
        """Go on with the options as they are now, where they may change.

        With oslo.service's threading backend SIGHUP does not come here: the launcher
        reads the files again, the workers drain, and new ones start with the change.
        """
        if self._live.conf is None:
            return
        try:
            self._live.configure(Settings.from_conf(self._live.conf))
        except exceptions.ConfigError as error:
            LOG.error(
                "%s The options stay as they were.", error, event="options-refused"
            )

    def _drain_seconds(self) -> float:
        drain = self._live.settings.drain_timeout
        patience: float = getattr(self._live.conf, "graceful_shutdown_timeout", 0)
        if not patience:  # zero: the launcher waits for ever
            return drain
        return min(drain, max(patience - RESIGN_SECONDS, 0.0))
