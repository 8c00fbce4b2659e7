"""The commands in the argparse parser of another program, such as heat-manage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from liveness.cmd import app

if TYPE_CHECKING:
    from liveness.conf import Settings


class Embedded:
    """What a command sees of a program that is not :class:`Manage`."""

    quiet = False
    implied = ""
    asks_which_database = False
    command_manager = None

    def __init__(self, prog: str, settings: Callable[[], Settings]) -> None:
        self.NAME = prog
        self.stdout = sys.stdout
        self._settings = settings

    def settings(self, args: argparse.Namespace) -> Settings:
        """The host's own: which database it is, is not for the command line to say."""
        return self._settings()


def embed(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, str],
    settings: Callable[[], Settings],
) -> None:
    """Add ``commands`` to the parser of another program, as subcommands.

    Afterwards what it parses has ``run``: ``args.run(args)`` does it and returns the
    exit code. ``settings`` is called then.
    """
    grow(parser, commands, Embedded(parser.prog, settings))


def grow(
    parser: argparse.ArgumentParser, commands: Mapping[str, str], host: Any
) -> None:
    """Add ``commands`` of the program ``host`` to ``parser``, as subcommands."""
    levels: dict[tuple[str, ...], Any] = {(): _subcommands(parser)}
    for name, where in commands.items():
        *groups, word = words = name.split()
        for depth, group in enumerate(groups):
            inner = tuple(groups[: depth + 1])
            if inner not in levels:
                outer = levels[tuple(groups[:depth])]
                levels[inner] = _subcommands(outer.add_parser(group, help=f"{group} …"))
        made = EntryPoint(name, where, "").load()(host, None)
        its = made.get_parser(" ".join((parser.prog, *words)))
        child = levels[tuple(groups)].add_parser(
            word,
            parents=[its],
            add_help=False,
            help=its.description.partition("\n")[0],
            description=its.description,
            epilog=its.epilog,
            formatter_class=its.formatter_class,
        )
        child.set_defaults(run=_Run(made, host.NAME))


class _Run:
    def __init__(self, made: app.Command, prog: str) -> None:
        self._made, self._prog = made, prog

    def __call__(self, args: Any) -> int:
        return app.execute(self._made, args, self._prog)


def _subcommands(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
