"""Options of Heat's engines in the group ``[liveness]``, beside the core's own."""

from __future__ import annotations

import dataclasses
from typing import Any

from oslo_config import cfg

from liveness.conf import GROUP

ACT, REPORT = "act", "report"

OPTIONS: list[cfg.Opt] = [
    cfg.BoolOpt(
        "enabled",
        default=False,
        help="Whether this heat-engine takes part: beats, writes down what it does, "
        "and takes over from engines that died. False: Heat is as it was.",
    ),
    cfg.StrOpt(
        "mode",
        default=ACT,
        choices=[
            (ACT, "take over what a dead engine left"),
            (REPORT, "only say, in the log and the audit, what would be done"),
        ],
        help="Whether to take over or only to report. The words are the same in both: "
        "report first on a fleet that is new to this.",
    ),
    cfg.ListOpt(
        "resumed_types",
        default=["OS::Heat::SoftwareDeployment", "OS::Heat::StructuredDeployment"],
        help="Resource types whose interrupted create is waited for rather than "
        "repeated, beside those that say so themselves (servers, volumes and most of "
        "Neutron's: every class with a needs_replace_failed of its own).",
    ),
    cfg.ListOpt(
        "untouched_types",
        default=[],
        help="Resource types that are never retried: when their engine dies, they "
        "fail with a reason.",
    ),
    cfg.StrOpt(
        "untouched_tag",
        default="liveness-off",
        help="A stack with this tag is left as it is when its engine dies: nothing is "
        "retried, and it fails when its time is over.",
    ),
    cfg.FloatOpt(
        "retriggers_per_second",
        default=20.0,
        min=0.01,
        max=1000.0,
        help="Resource actions that the fleet retriggers in a second at most, so "
        "that a mass death does not fall upon the cloud's services all at once. Each "
        "engine takes its share: this, divided by the engines that are alive.",
    ),
    cfg.FloatOpt(
        "retriggers_per_second_of_project",
        default=10.0,
        min=0.01,
        max=1000.0,
        help="The same for each project.",
    ),
    cfg.FloatOpt(
        "resource_timeout",
        default=0.0,
        min=0.0,
        max=30.0 * 86400,
        help="Seconds that one resource action may take in a living engine. Then it is "
        "retried, and failed with a reason after max_attempts. 0: no such limit; the "
        "stack's own remains.",
    ),
    cfg.FloatOpt(
        "timer_grace",
        default=10.0,
        min=1.0,
        max=3600.0,
        help="Seconds that a stack's time must be over before it is timed out from "
        "outside: a living engine does it by itself, and is to come first.",
    ),
    cfg.FloatOpt(
        "scan_interval",
        default=120.0,
        min=1.0,
        max=86400.0,
        help="Seconds between two scans of Heat's tables for operations that nobody "
        "is working on. One engine of the fleet does it.",
    ),
    cfg.FloatOpt(
        "scan_patience",
        default=60.0,
        min=1.0,
        max=86400.0,
        help="Seconds that such an operation must have been seen unchanged before it "
        "is retriggered: a message that merely waits in a queue is not lost.",
    ),
]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator (entry point ``oslo.config.opts``)."""
    return [(GROUP, OPTIONS)]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options on ``conf``; twice does no harm."""
    conf.register_opts(OPTIONS, group=GROUP)


@dataclasses.dataclass(frozen=True)
class HeatSettings:
    """The options as plain values; field by field as in :data:`OPTIONS`."""

    enabled: bool = False
    mode: str = ACT
    resumed_types: tuple[str, ...] = (
        "OS::Heat::SoftwareDeployment",
        "OS::Heat::StructuredDeployment",
    )
    untouched_types: tuple[str, ...] = ()
    untouched_tag: str = "liveness-off"
    retriggers_per_second: float = 20.0
    retriggers_per_second_of_project: float = 10.0
    resource_timeout: float = 0.0
    timer_grace: float = 10.0
    scan_interval: float = 120.0
    scan_patience: float = 60.0

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> HeatSettings:
        """Read the options of ``conf``."""
        register_opts(conf)
        values: dict[str, Any] = {o.dest: conf[GROUP][o.dest] for o in OPTIONS}
        for name in ("resumed_types", "untouched_types"):
            values[name] = tuple(values[name])
        return cls(**values)

    @property
    def acts(self) -> bool:
        """True unless it is only to report."""
        return self.mode == ACT
