"""``liveness-manage config …``: what the files come to."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from liveness.cmd import app


class Check(app.Lister):
    """Say whether the options can work together, and what they come to

    Lists every option with its value and default, and what follows from them for a lost
    engine. The database is not asked: that is for 'db check' and liveness-audit.
    """

    examples = (
        "config check --config-file /etc/liveness/liveness.conf",
        "config check -f json",
    )

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        from liveness import conf
        from liveness.cmd.db import shown

        settings = self.settings(args)
        values = dataclasses.asdict(settings)
        values["connection"] = shown(settings)
        rows = [
            (name, values[name], opt.default, "default" if same else "set")
            for name, opt in ((opt.dest, opt) for opt in conf.OPTIONS)
            for same in [values[name] == opt.default]
        ]
        lost = settings.ttl * (1 + settings.clock_drift) + settings.lease_margin
        last = lost + 2 * 1.1 * settings.sweep_interval
        trusted = settings.ttl - settings.lease_margin
        rows += [
            (
                "(a lost host is taken over after)",
                f"{lost - settings.beat_interval:.1f} to {last:.1f} s",
                None,
                "derived",
            ),
            (
                "(an engine that cannot beat trusts itself for)",
                f"{trusted:.1f} s",
                None,
                "derived",
            ),
            (
                "(others take an expired deadline after)",
                f"{settings.expired_grace + settings.max_clock_skew:.1f} s",
                None,
                "derived",
            ),
        ]
        return ("option", "value", "default", "source"), rows
