"""Heat's own service report: the row that a heat-engine writes every periodic_interval,
and what it reads of others' rows when it starts. Heat's code, without its RPC."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.peers import reporter


def prepare(url: str) -> None:
    manage = Path(sys.executable).with_name("heat-manage")
    text = f"[database]\nconnection = {url}\n"
    command = [sys.executable, str(manage), "--config-file", "/dev/stdin", "db_sync"]
    subprocess.run(command, input=text, text=True, check=True, stdout=sys.stderr)


def heat_engine(url: str) -> tuple[Any, Any]:
    """A service of Heat's, as heat-engine makes it, and a group for its timers."""
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)
    from heat.common import config, service_utils
    from heat.engine import service
    from oslo_config import cfg
    from oslo_db import options

    assert config, "imported for the options that it registers"
    options.set_defaults(cfg.CONF, connection=url)
    cfg.CONF([], project="heat", default_config_files=[])
    engine = service.EngineService("127.0.0.1", "engine")
    engine.engine_id = service_utils.generate_engine_id()
    return engine, service.ThreadGroup()


def rest(url: str) -> None:
    logging.disable(logging.WARNING)  # about each resource that is out of fashion
    engine, group = heat_engine(url)
    from oslo_config import cfg

    # As its start() does, after what it starts of RPC.
    engine.service_manage_cleanup()
    interval = cfg.CONF.periodic_interval / reporter.HURRY
    group.add_timer(interval, engine.service_manage_report)
    reporter.serve()
    time.sleep(86400)


if __name__ == "__main__":
    reporter.main(prepare, None, None, rest, None)
