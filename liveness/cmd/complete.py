"""``liveness-manage complete``: what a shell needs to complete the command lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import shtab
from cliff import command

from liveness.cmd import app, embed

SHELLS = ("bash", "zsh")
WORDS = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
"""What a shell may offer for an argument that the help calls so."""


class Complete(command.Command):
    """Print what a shell needs to complete the command lines

    Of liveness-manage and liveness-audit: commands, options, the words that an option
    takes, files and directories. In the start-up file of the shell:

      eval "$(liveness-manage complete)"                (bash)
      eval "$(liveness-manage complete --shell zsh)"    (zsh, after compinit)
    """

    conflict_handler = "error"
    app: app.Manage

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument(
            "--shell", choices=SHELLS, default="bash", help="which one (bash)"
        )
        return parser

    def get_epilog(self) -> str:
        return f"examples:\n  {self.app.NAME} complete --shell zsh"

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.cmd import audit

        for whole in (_manage(self.app), _single(audit.program(), audit.Audit)):
            for action in _actions(whole):
                if action.metavar in WORDS:
                    action.complete = WORDS[action.metavar]
            self.app.stdout.write(f"{shtab.complete(whole, args.shell)}\n")


def _manage(program: app.Manage) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = program.build_option_parser(None, None)
    commands = {name: found.value for name, found in program.command_manager}
    embed.grow(parser, commands, program)
    return parser


def _single(program: app.Single, its: type[app.Command]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        program.NAME,
        parents=[program.parser, its(program, None).get_parser(program.NAME)],
        conflict_handler="resolve",
        add_help=False,
    )


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Every option and argument, of its subcommands too."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
