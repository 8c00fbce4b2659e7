"""``liveness-manage top``: engines, leases, lateness and takeovers as they are."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liveness import exceptions
from liveness.cmd import app, engines, glance, topview

if TYPE_CHECKING:
    from rich.console import Console

    from liveness.conf import Settings

QUIT, HOLD = "q", " "
"""Keys: end it; hold still, and go on."""


class Top(app.Command):
    """Watch engines, leases, lateness and takeovers

    q or Ctrl-C ends it, the space bar holds it still. Each look is a few statements
    that read through an index, count no further than ten thousand, and read no more
    than the newest 20,000 events. While the database is away it says so over what it
    saw last, and goes on. Into a pipe, or with --once, everything is printed once.
    """

    examples = ("top", "top --interval 1", "top --once", "top --once | less -R")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--once", action="store_true", help="print it once, for scripts"
        )
        parser.add_argument(
            "--interval",
            type=engines.seconds,
            default=2.0,
            metavar="SECONDS",
            help="between two looks (2)",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        from rich.console import Console

        settings = self.settings(args)
        with self.database(args) as connection:  # a mistake is one line, not a view
            seen = glance.fleet(connection, settings)
        if args.once or not sys.stdout.isatty():
            console = Console(file=self.app.stdout)
            console.print(topview.view(seen, console.width))
            return
        self._watch(args, settings, Console())

    def _watch(
        self, args: argparse.Namespace, settings: Settings, console: Console
    ) -> None:
        from rich.live import Live

        interval = max(args.interval, 0.1)
        with (
            _keys() as keys,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            shown = topview.Shown(interval)
            while True:
                if not shown.held:
                    self._look(args, settings, shown)
                live.update(shown.at(console.size), refresh=True)
                end = time.monotonic() + interval
                while (left := end - time.monotonic()) > 0:
                    key = _pressed(keys, left)
                    if key == QUIT:
                        return
                    if key == HOLD:
                        shown.held = not shown.held
                        break

    def _look(
        self, args: argparse.Namespace, settings: Settings, shown: topview.Shown
    ) -> None:
        try:
            with self.database(args) as connection:
                shown.seen = glance.fleet(connection, settings)
                shown.problem, shown.since = None, time.monotonic()
        except exceptions.DatabaseError as error:
            shown.problem = str(error)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Where keys come from, one by one and unseen; None without a terminal. Ctrl-C is
    what it always is."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        yield file
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(file, termios.TCSADRAIN, before)


def _pressed(keys: int | None, seconds: float) -> str:
    """The key that is pressed within so many seconds, or none."""
    if keys is None:
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([keys], [], [], seconds)
    read = os.read(keys, 1) if ready else b""
    if ready and not read:  # the terminal is gone
        return QUIT
    return read.decode("ascii", "replace")
