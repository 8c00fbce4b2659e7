"""``liveness-heat-manage``: heat-manage with all its own commands, and ours.

``liveness …`` has the commands of liveness-manage, on Heat's own database, and a few
that only Heat knows. Heat 27 has no extension point for that, so this program takes
the place of heat-manage; with the patch in doc/source/heat-manage.rst heat-manage
itself would ask :func:`add_parsers`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from heat.cmd import manage as native
from oslo_config import cfg

from liveness.cmd import base
from liveness.cmd.app import Changing, Command
from liveness.cmd.embed import embed
from liveness.cmd.manage import COMMANDS
from liveness.conf import Settings

HEAT_COMMANDS = {
    **COMMANDS,
    "audit": "liveness.heat.audit:Audit",
    "pause": "liveness.heat.manage:Pause",
    "resume": "liveness.heat.manage:Resume",
    "retry": "liveness.cmd.deadlines:Retry",
}
"""As in liveness-manage, and for Heat."""


class Pause(Changing):
    """Recover and time out nothing for a while, in the whole fleet

    For maintenance. Engines go on beating and writing down what they do; what a dead
    one left waits until the pause is over, or until resume.
    """

    examples = ("pause --minutes 30",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--minutes",
            type=_minutes,
            required=True,
            help="how long, from now; 1440 at most",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.heat import pause

        self.confirm(
            args,
            f"For {args.minutes:g} minutes nothing that a dead engine leaves will be"
            " recovered, and no stack timed out from outside.",
        )
        pause.pause(cfg.CONF, args.minutes * 60)
        self.say(f"Nothing is recovered for {args.minutes:g} minutes.")


class Resume(Command):
    """End a pause"""

    examples = ("resume",)

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.heat import pause

        ended = pause.resume(cfg.CONF)
        self.say("The pause is over." if ended else "There was no pause.")


def _minutes(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1440:
        raise argparse.ArgumentTypeError("it must be above 0, and 1440 at most")
    return number


def add_parsers(subparsers: Any) -> None:
    """Add ``liveness`` to the commands of heat-manage."""
    parser = subparsers.add_parser("liveness", help="engines, and what they left")
    embed(parser, HEAT_COMMANDS, lambda: Settings.from_conf(cfg.CONF))
    parser.set_defaults(func=_run)


def _run() -> None:
    """What heat-manage calls, once it has read its files."""
    if not cfg.CONF.debug:  # nobody asked how the answer was found
        for name in ("alembic", "liveness"):
            logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setStream(sys.stderr)  # type: ignore[attr-defined]
    # Not CONF.command: that hides every argument that is called like an option of
    # Heat's, such as host.
    args: Any = cfg.CONF._namespace
    sys.exit(base.flushed("heat-manage", args.run(args)))


def _add_all_parsers(subparsers: Any) -> None:
    native.add_command_parsers(subparsers)
    add_parsers(subparsers)


def main() -> None:
    """heat-manage, as it is, with one more command."""
    native.command_opt = cfg.SubCommandOpt(
        "command",
        title="Commands",
        help="Show available commands.",
        handler=_add_all_parsers,
    )
    native.main()


if __name__ == "__main__":
    main()
