"""``liveness-engine``: engines alone, under oslo.service's launcher."""

from __future__ import annotations

import logging as std_logging
import os
import sys
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import backend

from liveness import conf as liveness_conf
from liveness import exceptions
from liveness.db import migration
from liveness.db.connection import Database
from liveness.engine import Liveness
from liveness.version import __version__

CLI_OPTIONS = [
    cfg.IntOpt(
        "workers",
        min=1,
        max=1000,
        default=1,
        help="Number of engine processes. Each is an engine of its own; one that dies"
        " is started again, as a new engine.",
    )
]

FENCED = 75  # EX_TEMPFAIL: a new incarnation may succeed


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit code 0; 1 after a user's mistake, with one line."""
    backend.init_backend(backend.BackendType.THREADING)
    from oslo_service import service

    conf = cfg.ConfigOpts()
    logging.register_options(conf)
    liveness_conf.register_opts(conf)
    conf.register_cli_opts(CLI_OPTIONS)
    try:
        conf(
            sys.argv[1:] if argv is None else argv,
            project="liveness",
            prog="liveness-engine",
            version=__version__,
        )
        logging.setup(conf, "liveness")
        live = Liveness.from_conf(conf)
        # Looked at before the fork, so that a mistake is one line and an exit, not a
        # worker that is started again for ever.
        database = Database(live.settings.connection, live.settings.database_timeout)
        migration.require_current(database, database.pool(1))
        database.close()
    except (cfg.Error, exceptions.LivenessError) as error:
        print(f"liveness-engine: {error}", file=sys.stderr)
        return 1
    live.on_fenced(_exit)
    launcher = service.launch(
        conf, live.service(), workers=conf.workers, restart_method="mutate"
    )
    return launcher.wait() or 0


def _exit(reason: str) -> None:
    """A fenced engine is over; the launcher starts the next incarnation."""
    std_logging.shutdown()
    os._exit(FENCED)


if __name__ == "__main__":
    sys.exit(main())
