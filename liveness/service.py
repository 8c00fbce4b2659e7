"""oslo.service wiring, nothing else. Imported only when a service is asked for: the
host program has chosen its oslo.service backend by then."""

from __future__ import annotations

import logging
import threading

from oslo_config import cfg
from oslo_service import service

from liveness import exceptions
from liveness.conf import Settings
from liveness.engine import Liveness

LOG = logging.getLogger(__name__)


class LivenessService(service.Service):
    """Runs an engine in the process that the launcher makes for it: nothing is opened
    before :meth:`start`, which the launcher calls after the fork."""

    def __init__(self, live: Liveness, conf: cfg.ConfigOpts | None = None) -> None:
        super().__init__()
        self._live = live
        self._conf = conf
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the engine. :raises LivenessError: why it cannot be."""
        super().start()
        self._live.start()

    def stop(self, graceful: bool = True) -> None:
        """Drain: hand everything back within ``drain_timeout`` seconds."""
        self._live.stop()
        self._stopped.set()
        super().stop()

    def wait(self) -> None:
        """Return when the engine has stopped."""
        self._stopped.wait()

    def reset(self) -> None:
        """SIGHUP: go on with the options as they are now, where they may change."""
        if self._conf is None:
            return
        try:
            self._live.configure(Settings.from_conf(self._conf))
        except exceptions.ConfigError as error:
            LOG.error("%s The options stay as they were.", error)
