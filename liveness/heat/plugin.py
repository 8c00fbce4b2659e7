"""The door: a stack lifecycle plugin, which heat-engine imports before it forks.

Heat never calls it (it calls none in convergence mode); being imported is enough. In
other programs of Heat's, or while ``[liveness] enabled`` is false, nothing happens.
"""

from __future__ import annotations

import logging
import sys

from heat.engine import lifecycle_plugin
from oslo_config import cfg

from liveness.heat import conf

LOG = logging.getLogger(__name__)


class LivenessPlugin(lifecycle_plugin.LifecyclePlugin):
    """What the entry point names."""


def install() -> bool:
    """Enter Heat's code, if this is a heat-engine and it is wanted. Never raises: Heat
    would go on without a word."""
    if "heat.engine.service" not in sys.modules:
        return False
    try:
        conf.register_opts(cfg.CONF)
        if not cfg.CONF.liveness.enabled:
            return False
        from liveness.heat import hooks

        hooks.install()
    except Exception:
        LOG.exception("LIVENESS IS NOT ACTIVE: it could not be installed.")
        return False
    return True


INSTALLED = install()
