"""The frame of ``liveness-manage``: cliff, with one line for a mistake.

The commands know nothing of this program: :mod:`liveness.cmd.embed` puts the same ones
into the argparse parser of another.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from cliff import app, command, commandmanager
from cliff.display import DisplayCommandBase
from cliff.help import HelpCommand
from cliff.lister import Lister as CliffLister
from cliff.show import ShowOne as CliffShowOne
from stevedore import ExtensionManager
from stevedore.extension import Extension

from liveness.cmd import base
from liveness.cmd.output import FORMATS, primed
from liveness.version import __version__

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings
    from liveness.events import Event

INTERRUPTED = 130  # 128 + SIGINT, as a shell counts


class Usage(Exception):
    """The command line cannot be understood."""


class Host(Protocol):
    """The program that a command is one of."""

    NAME: str
    implied: str
    """Words that its user need not say."""
    asks_which_database: bool
    stdout: Any

    @property
    def quiet(self) -> bool:
        """True when nothing is to be said but what was asked for."""

    def settings(self, args: argparse.Namespace) -> Settings:
        """The options for the database that ``args`` lead to."""


# --- commands -------------------------------------------------------------------


class Command(command.Command):
    """A command on one database. Give the class a docstring (the help; its first line
    is the summary) and ``examples``."""

    conflict_handler = "error"
    examples: tuple[str, ...] = ()
    failed = 1
    """Exit code when the command could not do what it is for."""

    app: Host  # type: ignore[assignment]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.error = _usage  # type: ignore[method-assign]
        if self.app.asks_which_database:
            _add_database_options(parser)
        return parser

    def get_epilog(self) -> str:
        implied = f"{self.app.implied} "
        lines = [
            f"  {self.app.NAME} {example.removeprefix(implied)}"
            for example in self.examples
        ]
        shown = "\n".join(["examples:", *lines]) if lines else ""
        if "Exit code" in (self.__doc__ or ""):
            return shown
        return f"Exit code 0: done. 1: not, and one line on stderr says why.\n\n{shown}"

    def settings(self, args: argparse.Namespace) -> Settings:
        """The options for the database that the command is to work on."""
        return self.app.settings(args)

    @contextlib.contextmanager
    def database(self, args: argparse.Namespace) -> Iterator[sa.Connection]:
        """A connection to the database of :meth:`settings`, for the block.

        :raises DatabaseError: in one line, for whatever it refuses.
        """
        from liveness.db import report

        settings = self.settings(args)
        with report.opened(settings.connection, settings.database_timeout) as opened:
            yield opened

    def say(self, text: str) -> None:
        """Tell the user what was done, unless told to be quiet."""
        if not self.app.quiet:
            self.app.stdout.write(f"{text}\n")


class _Displayed(Command, DisplayCommandBase[Any]):
    """The same four formats everywhere, whatever else is installed."""

    def _load_formatter_plugins(self) -> Any:
        none: Any = None
        return ExtensionManager.make_test_instance(
            [Extension(name, none, none, made()) for name, made in FORMATS.items()]
        )

    def _generate_columns_and_selector(self, args: Any, names: Any) -> Any:
        try:
            return super()._generate_columns_and_selector(args, names)
        except ValueError:
            wanted = ", ".join(args.columns)
            raise Usage(
                f"there is no column {wanted}; there are {', '.join(names)}"
            ) from None


class Lister(_Displayed, CliffLister):
    """A command that shows rows: ``take_action`` returns columns and rows, which may
    be read from the database while they are shown."""

    def produce_output(self, args: argparse.Namespace, names: Any, data: Any) -> int:
        return super().produce_output(args, names, primed(data))


class ShowOne(_Displayed, CliffShowOne):
    """A command that shows one object: ``take_action`` returns columns and values."""


class Changing(Command):
    """A command that changes what engines live by: it asks first, or is told --yes."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
        return parser

    def confirm(self, args: argparse.Namespace, what: str) -> None:
        """Return when the user agrees to ``what``. :raises Usage: else."""
        if args.yes:
            return
        if not sys.stdin.isatty():
            raise Usage(f"{what} Nothing was done: there is nobody to ask; say --yes")
        sys.stderr.write(f"{what}\nGo on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Usage("nothing was done")

    def record(
        self, args: argparse.Namespace, connection: sa.Connection, *events: Event
    ) -> None:
        """Add what the operator did to the history, where that can be written."""
        from liveness.clock import Clock
        from liveness.db.connection import is_database_error
        from liveness.db.events import EventLog
        from liveness.events import History

        if self.settings(args).history == History.OFF:
            return
        try:
            EventLog(Clock()).add(connection, events)
        except Exception as error:
            if not is_database_error(error):
                raise
            logging.getLogger(__name__).warning("The history was not written.")


class Help(HelpCommand):
    """Show the options of a command, and examples"""

    app: Manage

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.cmd:
            self.app.show_help()
            return 0
        try:
            return super().take_action(parsed_args)
        except ValueError:
            raise Usage(self.app.unknown(parsed_args.cmd)) from None


# --- the program ----------------------------------------------------------------


class Manage(app.App):
    """``liveness-manage``."""

    NAME = "liveness-manage"
    implied = ""
    asks_which_database = True
    own: Mapping[str, str] = {
        "complete": "liveness.cmd.complete:Complete",
        "help": "liveness.cmd.app:Help",
    }
    """Commands on itself."""

    def __init__(self, description: str, commands: Mapping[str, str]) -> None:
        """``commands``: the words of each, and where its class is ("module:Class");
        it is loaded when it is asked for."""
        manager = commandmanager.CommandManager()
        super().__init__(description, __version__, manager)
        manager.commands.clear()  # of what cliff has put there
        for name, where in {**commands, **self.own}.items():
            manager.commands[name] = EntryPoint(name, where, "liveness.manage")

    @property
    def quiet(self) -> bool:
        return bool(self.options.verbose == 0)

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=self.NAME,
            usage="%(prog)s [OPTIONS] COMMAND [ARGUMENTS]",
            description=description,
            epilog=f"'{self.NAME} help COMMAND' has the options of a command, and"
            " examples.",
            add_help=False,
            allow_abbrev=False,
        )
        parser.error = _usage  # type: ignore[method-assign]
        add = parser.add_argument
        add("-h", "--help", action="store_true", help="this help, or a command's")
        add(
            "--version",
            action="version",
            version=f"{self.NAME} {version}",
            help="the release",
        )
        add(
            "-v",
            "--verbose",
            action="count",
            default=1,
            help="say more on stderr; twice: everything",
        )
        add(
            "-q",
            "--quiet",
            dest="verbose",
            action="store_const",
            const=0,
            help="say nothing but what was asked for, and errors",
        )
        add("--debug", action="store_true", help="show where an error came from")
        return parser

    def configure_logging(self) -> None:
        """Warnings go to stderr, and with -v more."""
        levels = [logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG]
        logging.basicConfig(
            stream=self.stderr,
            level=levels[min(self.options.verbose, 3)],
            format="%(levelname)s %(name)s: %(message)s",
        )
        if not self.options.debug:
            # It logs, with a traceback, what we say in one line.
            logging.getLogger("oslo_db").setLevel(logging.CRITICAL)

    def settings(self, args: argparse.Namespace) -> Settings:
        """The options that the command line leads to."""
        return base.read_settings(
            self.NAME, args.connection, args.config_file, args.config_dir
        )

    def run(self, argv: Sequence[str]) -> int:
        """Do what ``argv`` says; return the exit code. After --help and --version:
        SystemExit."""
        try:
            self.options, words = self.parser.parse_known_args(list(argv))
            self.configure_logging()
            if not words:
                self.show_help()
                return 0 if self.options.help else 1
            return self._run(words)
        except Usage as error:
            base.fail(self.NAME, f"{error}; see '{self.NAME} --help'")
            return 1
        except BrokenPipeError:
            return base.BROKEN_PIPE
        except KeyboardInterrupt:
            return INTERRUPTED

    def show_help(self) -> None:
        """Print the options, and each command with the first line of its help."""
        self.parser.print_help(self.stdout)
        made = {
            name: entry.load()(self, None, cmd_name=name)
            for name, entry in sorted(self.command_manager)
        }
        width = max(map(len, made)) + 4
        print("\nCommands:", file=self.stdout)
        for name, each in made.items():
            first = each.get_description().split("\n")[0].rstrip(".")
            label = f"  {name}".ljust(width)
            indent = " " * width
            text = textwrap.fill(
                first, 80, initial_indent=label, subsequent_indent=indent
            )
            print(text, file=self.stdout)

    def _run(self, words: list[str]) -> int:
        try:
            factory, name, rest = self.command_manager.find_command(words)
        except ValueError:
            raise Usage(self.unknown(words)) from None
        if self.options.help:
            rest = ["--help"]
        made = factory(self, self.options, cmd_name=name)
        return self._execute(made, f"{self.NAME} {name}", rest)

    def _execute(self, made: Any, prog: str, rest: list[str]) -> int:
        try:
            args = made.get_parser(prog).parse_args(rest)
        except Usage as error:
            base.fail(self.NAME, f"{error}; see '{prog} --help'")
            return getattr(made, "failed", 1)
        return execute(made, args, self.NAME, self.options.debug)

    def unknown(self, words: list[str]) -> str:
        """What to say when ``words`` begin with no command."""
        known = sorted(name for name, _ in self.command_manager)
        alike = [name for name in known if name.split()[0] == words[0]]
        given = " ".join(itertools.takewhile(lambda w: w[:1] != "-", words)) or words[0]
        return f"there is no command {given!r}; there are {', '.join(alike or known)}"


class Single(Manage):
    """A program that is one command."""

    own: Mapping[str, str] = {}

    def __init__(self, name: str, description: str, command: str, where: str) -> None:
        """``command``: what it is called among those of ``liveness-manage``."""
        self.NAME = name
        self.implied = command
        super().__init__(description, {command: where})

    def run(self, argv: Sequence[str]) -> int:
        """As :meth:`Manage.run`."""
        factory, _, _ = self.command_manager.find_command([self.implied])
        made = factory(self, None)
        try:
            self.options, rest = self.parser.parse_known_args(list(argv))
            self.configure_logging()
            if self.options.help:
                rest = ["--help"]
            return self._execute(made, self.NAME, rest)
        except Usage as error:
            base.fail(self.NAME, f"{error}; see '{self.NAME} --help'")
            return getattr(made, "failed", 1)
        except BrokenPipeError:
            return base.BROKEN_PIPE
        except KeyboardInterrupt:
            return INTERRUPTED


def execute(made: command.Command, args: Any, prog: str, debug: bool = False) -> int:
    """Run a command; return its exit code. A mistake is one line on stderr."""
    try:
        return made.run(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            base.show_traceback()
        problem = str(error)
        if not isinstance(error, (*base.user_errors(), Usage)):
            problem = f"unexpected {type(error).__name__}: {problem}"
            problem += "" if debug else " (--debug shows where)"
    base.fail(prog, problem)
    return made.failed if isinstance(made, Command) else 1


# --- arguments --------------------------------------------------------------------


def _usage(message: str) -> NoReturn:
    """In place of argparse's several lines, and of its exit code."""
    raise Usage(message)


def _add_database_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "database",
        "Without any of these: what /etc/liveness/liveness.conf says (or another of"
        " the\nusual places), or OS_LIVENESS__CONNECTION in the environment.",
    )
    group.add_argument(
        "--connection",
        metavar="URL",
        help="the database, in place of the files' own; other users of this host see"
        " it in the process list, so put a password in a file",
    )
    group.add_argument(
        "--config-file",
        metavar="FILE",
        action="append",
        default=[],
        help="read the options from this file, such as the host program's; repeat it"
        " for more, the later ones win",
    )
    group.add_argument(
        "--config-dir",
        metavar="DIR",
        action="append",
        default=[],
        help="and from the *.conf files of this directory",
    )
