"""One engine process of the demo: ``python -m liveness.demo.engine DIRECTORY SLOT``.

Under oslo.service one worker is two processes: the launcher, and the engine forked
from it. The demo kills and freezes the engine; its launcher starts the next one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from oslo_config import cfg
from oslo_service import backend

from liveness import Liveness
from liveness import conf as liveness_conf


def main(argv: list[str]) -> int:
    """Run until SIGTERM, or until the demo is gone."""
    directory, slot = Path(argv[1]), int(argv[2])
    threading.Thread(target=_end_with_the_demo, daemon=True).start()
    backend.init_backend(backend.BackendType.THREADING)
    from oslo_service import service

    from liveness.demo.worker import DemoService

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s"
    )
    conf = cfg.ConfigOpts()
    liveness_conf.register_opts(conf)
    conf(["--config-file", str(directory / "liveness.conf")], project="liveness-demo")
    live = Liveness.from_conf(conf)
    launcher = service.launch(conf, DemoService(live, directory, slot), workers=1)
    return launcher.wait() or 0


def _end_with_the_demo() -> None:
    """Standard input ends when the demo does, however it does. Then the whole process
    group goes, a frozen engine too."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
