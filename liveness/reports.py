"""A section of oslo.reports' Guru Meditation: what this engine holds, and trusts.

For a host program that has set such reports up: ``reports.register(live)``. Needs the
extra ``reports``; importing this module without it fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oslo_config import cfg
from oslo_reports import guru_meditation_report, opts
from oslo_reports.models import with_default_views

from liveness import exceptions
from liveness.version import __version__

if TYPE_CHECKING:
    from liveness.engine import Liveness

HELD = 50
"""Deadlines in hand that are named."""


def register(live: Liveness) -> None:
    """Add the section to every report that this process will write."""
    guru_meditation_report.TextGuruMeditation.register_section(
        "Liveness", lambda: with_default_views.ModelWithDefaultViews(facts(live))
    )


def setup(conf: cfg.ConfigOpts, live: Liveness) -> None:
    """Have SIGUSR2 (or what ``[oslo_reports]`` says) write a report to stderr."""
    opts.set_defaults(conf)
    register(live)
    guru_meditation_report.TextGuruMeditation.setup_autorun(_Version(), conf=conf)


class _Version:
    """This package, as oslo.reports asks for it."""

    def vendor_string(self) -> str:
        return "liveness"

    def product_string(self) -> str:
        return "liveness"

    def version_string_with_package(self) -> str:
        return __version__


def facts(live: Liveness) -> dict[str, Any]:
    """What is so now. Asks nobody, and waits for nothing but short locks."""
    try:
        running = live._started
    except exceptions.NotRunning as error:
        return {"engine": "none", "why": str(error)}
    try:
        running.trust.check()
        problem = "none"
    except exceptions.EngineError as error:
        problem = str(error)
    held = running.runner.held()
    return {
        "engine": running.trust.engine_id,
        "database": str(running.database),
        "trusted": running.trust.good,
        "lease left": f"{running.trust.left:.1f} s",
        "problem": problem,
        "draining": running.loop.draining,
        "sweep": running.loop.stuck_for(live.settings.sweep_interval * 2) or "on time",
        "guards": len(running.owner.guards),
        "in hand": len(held),
        "deadlines": [f"{value}, attempt {value.attempts}" for value in held[:HELD]],
    }
