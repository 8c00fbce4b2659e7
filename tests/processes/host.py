"""Somebody else's program: oslo.service, a launcher and a service of its own, and in
the same launcher an engine in each of several workers.

    python -m tests.processes.host CONFIG_FILE WORKERS
"""

from __future__ import annotations

import os
import sys
import threading

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)

from oslo_service import service  # noqa: E402

from liveness import Liveness  # noqa: E402
from tests.processes import kinds  # noqa: E402
from tests.processes.journal import note  # noqa: E402
from tests.processes.program import die_with_parent  # noqa: E402


class HostService(service.Service):
    """What that program is really for."""

    def start(self) -> None:
        super().start()
        note("host-started")

    def stop(self, graceful: bool = False) -> None:
        note("host-stopped")
        super().stop(graceful)


def opened() -> set[str]:
    """What this process has open."""
    folder = "/proc/self/fd"
    links = set()
    for fd in os.listdir(folder):
        try:
            links.add(f"{fd} {os.readlink(f'{folder}/{fd}')}")
        except FileNotFoundError:  # the listing's own
            continue
    return links


def main() -> int:
    die_with_parent()
    conf = cfg.ConfigOpts()
    logging.register_options(conf)
    conf(["--config-file", sys.argv[1]], project="host")
    logging.setup(conf, "host")
    kinds.watch_settlements()
    before = opened()
    live = Liveness.from_conf(conf)
    live.add_handler(kinds.Timer)
    live.add_handler(kinds.Action)
    live.on_fenced(lambda reason: note("fenced", engine=live.engine_id))
    kinds.Engine.live = live
    engines = live.service()
    note(
        "made",
        opened=sorted(opened() - before),
        threads=[thread.name for thread in threading.enumerate()],
    )
    launcher = service.ProcessLauncher(conf, restart_method="mutate")
    launcher.launch_service(HostService(), workers=1)
    launcher.launch_service(engines, workers=int(sys.argv[2]))
    return launcher.wait() or 0


if __name__ == "__main__":
    sys.exit(main())
