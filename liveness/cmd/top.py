"""``liveness-manage top``: engines, leases, deadlines and takeovers as they are."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import TYPE_CHECKING, Any

from liveness import exceptions, model
from liveness.clock import Clock
from liveness.cmd import app, engines
from liveness.cmd.output import printable

if TYPE_CHECKING:
    import sqlalchemy as sa
    from rich.console import Console, RenderableType
    from rich.table import Table

    from liveness.conf import Settings
    from liveness.db.report import ShownEngine

BAR = 20
"""Characters of a lease that is whole."""

EVENTS = 10
ENGINES = 100


class Top(app.Command):
    """Watch engines, leases, deadlines and takeovers; Ctrl-C ends it

    Each look is a few statements that read through an index and count no further than
    ten thousand. While the database is away it says so, and goes on.
    """

    examples = ("top", "top --interval 1", "top --once")

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
        if args.once or not sys.stdout.isatty():
            with self.database(args) as connection:
                Console(file=self.app.stdout).print(seen(connection, settings))
            return
        self._watch(args, settings, Console())

    def _watch(
        self, args: argparse.Namespace, settings: Settings, console: Console
    ) -> None:
        from rich.live import Live

        with self.database(args):  # a mistake is one line, not a view of it
            pass
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    with self.database(args) as connection:
                        while True:
                            live.update(seen(connection, settings), refresh=True)
                            time.sleep(max(args.interval, 0.1))
                except exceptions.DatabaseError as error:
                    live.update(banner(str(error)), refresh=True)
                    time.sleep(max(args.interval, 0.1))


def banner(problem: str) -> RenderableType:
    """What is shown while there is nothing to see."""
    from rich.panel import Panel
    from rich.text import Text

    return Panel(Text(printable(problem)), title="cannot look", border_style="red")


def seen(connection: sa.Connection, settings: Settings) -> RenderableType:
    """One look."""
    from rich.console import Group
    from rich.text import Text

    from liveness.db.events import EventLog, Sought
    from liveness.db.report import Report

    report = Report(Clock())
    living = report.engines(connection, model.ALIVE)
    shown = list(itertools.islice(living, ENGINES))
    events = itertools.islice(
        EventLog(Clock()).newest_first(connection, Sought()), EVENTS
    )
    now = printable(report.now(connection))
    return Group(
        Text(f"{now}   {_numbers(connection, report, settings)}"),
        _engines(shown),
        _events(events),
    )


def _numbers(connection: sa.Connection, report: Any, settings: Settings) -> str:
    from liveness.db.report import COUNTED, Filter

    grace = settings.expired_grace + settings.max_clock_skew
    wanted = {str(state): Filter(states=[state]) for state in model.DeadlineState}
    wanted["overdue"] = Filter(late=grace)
    parts = []
    for name, filter_ in wanted.items():
        count = report.count(connection, filter_)
        more = "+" if count >= COUNTED else ""
        parts.append(f"{name} {count}{more}")
    return "   ".join(parts)


def _engines(shown: list[ShownEngine]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in ("engine", "host", "pid", "state", "lease", "left"):
        table.add_column(name, no_wrap=True)
    for each in shown:
        engine, left = each.engine, each.lease_left or 0.0
        part = min(max(left / engine.ttl, 0.0), 1.0)
        colour = "green" if part > 0.5 else "yellow" if part > 0 else "red"
        bar = "█" * round(part * BAR) + "░" * (BAR - round(part * BAR))
        table.add_row(
            Text(printable(engine.id)),
            Text(printable(engine.host)),
            str(engine.pid),
            Text(engine.state),
            Text(bar, style=colour),
            f"{left:.1f} s",
        )
    if not shown:
        table.add_row(Text("no living engine", style="red"))
    return table


def _events(events: Any) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in ("at", "what", "subject", "by", "detail"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for event in events:
        subject = event.about_id or event.engine_id
        if event.key is not None:
            subject = f"{event.kind}/{event.key}"
        cells = (
            event.at,
            event.what,
            subject,
            event.engine_id or "operator",
            event.detail,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
