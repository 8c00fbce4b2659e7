"""heat-engine that takes part without being told to, as a program of its own: for those
who choose by the unit's command rather than by heat.conf."""

from __future__ import annotations

from oslo_config import cfg

from liveness.conf import GROUP
from liveness.heat import conf


def main() -> None:
    """Run heat-engine; ``[liveness] enabled`` is true unless heat.conf says false."""
    from heat.cmd import engine  # chooses the backend of oslo.service

    conf.register_opts(cfg.CONF)
    cfg.CONF.set_default("enabled", True, group=GROUP)
    engine.main()
