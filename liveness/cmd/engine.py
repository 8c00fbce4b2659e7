"""``liveness-engine``: engines alone, under oslo.service's launcher."""

from __future__ import annotations

import logging as std_logging
import os
import sys
import warnings
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import backend, opts

from liveness.cmd import base
from liveness.db import migration
from liveness.db.connection import Database
from liveness.engine import Liveness

PROG = "liveness-engine"
DESCRIPTION = """Run engines that handle the deadlines of the kinds whose handlers are
installed (entry points of group liveness.handlers), until SIGTERM; SIGHUP reads the
files again."""
EPILOG = """Without --config-file: /etc/liveness/liveness.conf and the other usual
places. Exit code 0 after SIGTERM; 1 after a mistake, with one line on stderr."""

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
    conf = cfg.ConfigOpts()
    logging.register_options(conf)
    conf.register_cli_opts(CLI_OPTIONS)
    argv = sys.argv[1:] if argv is None else argv
    mistakes: tuple[type[Exception], ...] = (
        *base.user_errors(),
        logging.LogConfigError,
    )
    try:
        base.parse(conf, argv, PROG, description=DESCRIPTION, epilog=EPILOG)
        logging.setup(conf, "liveness")
        # It logs a traceback, with SQL and payloads, of what we say in one line.
        std_logging.getLogger("oslo_db").setLevel(std_logging.CRITICAL)
        opts.register_service_opts(conf)
        _ = conf.graceful_shutdown_timeout  # wrong: now, not in the launcher
        live = Liveness.from_conf(conf)
        _look(live)
    except mistakes as error:
        base.fail(PROG, error)
        return 1
    # oslo.service brings eventlet along, and a library of its imports it if it can.
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    backend.init_backend(backend.BackendType.THREADING)
    from oslo_service import service

    _report(conf, live)
    live.on_fenced(_exit)
    launcher = service.launch(
        conf, live.service(), workers=conf.workers, restart_method="mutate"
    )
    return launcher.wait() or 0


def _look(live: Liveness) -> None:
    """Look at the database before the fork, so that a mistake is one line and an exit,
    not a worker that is started again for ever."""
    database = Database(live.settings.connection, live.settings.database_timeout)
    try:
        migration.require_current(database, database.pool(1))
    finally:
        database.close()


def _report(conf: cfg.ConfigOpts, live: Liveness) -> None:
    """Where oslo.reports is installed, SIGUSR2 has each process report on itself."""
    try:
        from liveness import reports

        reports.setup(conf, live)
    except ModuleNotFoundError:
        return


def _exit(reason: str) -> None:
    """A fenced engine is over; the launcher starts the next incarnation."""
    std_logging.shutdown()
    os._exit(FENCED)


if __name__ == "__main__":
    sys.exit(main())
