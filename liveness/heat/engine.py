"""The liveness of one heat-engine worker: made after the fork, with Heat's own id."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from typing import Any

from heat.common import context
from heat.rpc import listener_client
from oslo_config import cfg

from liveness import Liveness, exceptions
from liveness.conf import Settings
from liveness.heat import names, rows, scan
from liveness.heat.conf import HeatSettings
from liveness.heat.guards import Guards
from liveness.heat.handlers import handlers
from liveness.heat.peers import Life, Peers
from liveness.heat.recover import Recovery

LOG = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""Between two tries to start when the database was not ready for it."""

LOCK_SECONDS = 5.0
"""That a dead engine's lock is left to whoever claims its action."""

_current: HeatEngine | None = None


def current() -> HeatEngine | None:
    """The engine of this process, once it is active."""
    return _current


class HeatEngine:
    """One worker's part in the fleet. All methods are safe in any thread, and none
    raises for liveness' own troubles: Heat goes on."""

    def __init__(self, engine_id: str, threads: Any, conf: cfg.ConfigOpts) -> None:
        """``threads``: the worker's ThreadGroupManager."""
        self.engine_id = engine_id
        self.threads = threads
        self.settings = HeatSettings.from_conf(conf)
        self.host = socket.gethostname()
        self.live = Liveness(Settings.from_conf(conf))
        self.peers = Peers(self.live.settings)
        self.guards = Guards(self.live, self.settings.resource_timeout)
        self.recovery = Recovery(
            engine_id, threads, self.settings, self.is_dead, self.live, self.guards
        )
        self._stopping = threading.Event()
        self._ended = threading.Event()

    # --- life -----------------------------------------------------------------

    def begin(self) -> None:
        """Start, or keep trying from a thread when the database is not ready."""
        self.live.on_fenced(self._fenced)
        self.live.on_drain(self._asked_to_drain)
        for handler in handlers(self):
            self.live.add_handler(handler)
        if not self._start():
            threading.Thread(
                target=self._keep_trying, name="liveness-start", daemon=True
            ).start()

    def begin_stop(self, patience: float) -> None:
        """Heat stops, and is killed ``patience`` seconds from now (0: never): take
        nothing over from here on, let run what runs, and hand over what is left,
        shortly before."""
        self._stopping.set()
        threading.Thread(
            target=self._drain,
            args=(patience and patience - min(3.0, patience / 4),),
            name="liveness-drain",
            daemon=True,
        ).start()

    def end(self) -> None:
        """Heat has nothing left to do: resign."""
        if not self._ended.is_set():
            self._stopping.set()
            self._ended.set()
            self.live.stop(0.0)
            self.peers.close()

    def _start(self) -> bool:
        global _current
        try:
            self.live.start(self.engine_id)
        except exceptions.DatabaseError as error:
            LOG.error(
                "LIVENESS IS NOT ACTIVE in engine %s: %s Heat goes on without it, and"
                " it is tried again every %g s.",
                self.engine_id,
                error,
                RETRY_SECONDS,
            )
            return False
        _current = self
        LOG.info("Liveness is active in engine %s.", self.engine_id)
        try:
            scan.begin(self)
        except exceptions.LivenessError as error:
            LOG.warning("The scan is left to other engines: %s", error)
        return True

    def _keep_trying(self) -> None:
        while not self._stopping.wait(RETRY_SECONDS):
            with contextlib.suppress(exceptions.NotRunning):
                if self._start():
                    return

    def _drain(self, seconds: float) -> None:
        """``seconds``: until what still runs is handed over; 0: it never is."""
        end = time.monotonic() + seconds
        self.live.begin_drain()
        if not seconds or self._ended.wait(max(end - time.monotonic(), 0.0)):
            return
        LOG.warning(
            "Engine %s is about to be ended with %d resource actions still running:"
            " they are handed over.",
            self.engine_id,
            len(self.guards),
        )
        self.live.stop(0.0)
        # They run on until the process ends, and others begin now.
        os._exit(0)

    def _asked_to_drain(self) -> None:
        """An operator's wish. Heat would go on without us, and unguarded."""
        LOG.warning("Engine %s was asked to drain: it stops.", self.engine_id)
        os.kill(os.getpid(), signal.SIGTERM)  # its master starts a new one

    def _fenced(self, reason: str) -> None:
        LOG.error(
            "Engine %s was fenced (%s): it ends, with %d resource actions that others"
            " go on with.",
            self.engine_id,
            reason,
            len(self.guards),
        )
        os._exit(1)

    # --- trust ----------------------------------------------------------------

    @property
    def over(self) -> bool:
        """True when this engine was fenced: it must write nothing more. Asks the
        database when the lease has lapsed."""
        if self.live.trusted:
            return False
        return self.peers.life(self.engine_id) is Life.DEAD

    def is_dead(self, engine_id: str) -> bool:
        """Whether nothing of that engine can be running any more. Heat's own ping is
        asked about engines that the table does not know."""
        if engine_id == self.engine_id:
            return False
        life = self.peers.life(engine_id)
        if life is Life.UNKNOWN:
            client = listener_client.EngineListenerClient(engine_id)
            return not client.is_alive(context.get_admin_context())
        return life is Life.DEAD

    def dead_lock(self, resource_id: int) -> bool:
        """Whether a dead engine of ours has the resource's lock. If so, it is seen to
        that somebody takes care of that, also if nobody had written it down."""
        try:
            return self._dead_lock(resource_id)
        except Exception as error:
            LOG.warning("The dead lock of resource %s: %s", resource_id, error)
            return False

    def _dead_lock(self, resource_id: int) -> bool:
        row = rows.find(resource_id)
        if row is None or row.engine_id in (None, self.engine_id):
            return False
        if self.peers.life(row.engine_id) is not Life.DEAD:
            return False
        holder = self.peers.find(row.engine_id)
        action = names.Action(
            resource=resource_id,
            traversal="",  # whichever it is then
            is_update=True,
            engine=row.engine_id,
            host=holder.host if holder is not None else None,
            found=True,
        )
        try:
            self.live.arm(
                names.ACTION,
                action.found_key,
                due_in=LOCK_SECONDS,
                payload=action.dump(),
            )
        except exceptions.AlreadyArmed:
            LOG.debug("Resource %s is taken care of.", resource_id)
        return True
