"""``liveness-manage history``: what happened, and why."""

from __future__ import annotations

import argparse
import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from liveness import clock, events
from liveness.cmd import app, deadlines

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def when(text: str) -> datetime | timedelta:
    """A command line's moment: ISO 8601 (UTC unless it says otherwise), or how long
    ago (90, 90s, 30m, 24h, 7d)."""
    if found := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd]?)", text):
        return timedelta(seconds=float(found[1]) * UNITS[found[2] or "s"])
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return clock.moment(moment, "it")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a moment (2026-11-24T03:00) nor a time ago (24h)"
        ) from None


class History(app.Lister):
    """Show what engines did out of turn: fences, takeovers, retries, parking

    In order of time, the newest of --limit. With --key, the end of the engines that the
    deadline was taken from is shown as well.
    """

    examples = (
        "history --since 24h",
        "history --key web-1 --kind stack_timer",
        "history --engine 0b6f5b0e --since 2026-11-24T03:00 --until 2026-11-24T04:00",
        "history --what parked --what retried -f csv",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add(
            "--engine", metavar="ID", help="done by or to it; how its id begins will do"
        )
        add("--kind", help="only deadlines of this kind")
        add("--key", help="only deadlines with this key, and their former owners' ends")
        add(
            "--what",
            action="append",
            default=[],
            choices=[str(what) for what in events.What],
            help="only those; repeat it for more",
        )
        add(
            "--since", type=when, metavar="WHEN", help="a moment in UTC, or 24h for ago"
        )
        add("--until", type=when, metavar="WHEN", help="in the same ways")
        add(
            "--limit",
            type=deadlines.whole,
            default=1000,
            metavar="N",
            help="at most so many, the newest (1000)",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        from liveness.clock import Clock
        from liveness.db.events import EventLog, Sought
        from liveness.db.report import Report

        with self.database(args) as connection:
            now = Report(Clock()).now(connection)
            sought = Sought(
                engine=args.engine,
                kind=None if args.key else args.kind,
                what=args.what,
                since=_moment(args.since, now),
                until=_moment(args.until, now),
            )
            found = EventLog(Clock()).newest_first(connection, sought)
            if args.key:
                found = events.story(found, args.kind, args.key)
            rows = list(itertools.islice(found, args.limit))
        names = ("at", "what", "by", "subject", "from", "epoch", "attempts", "detail")
        return names, map(_shown, reversed(rows))


def _moment(given: datetime | timedelta | None, now: datetime) -> datetime | None:
    return now - given if isinstance(given, timedelta) else given


def _shown(event: events.Event) -> tuple[Any, ...]:
    by = event.engine_id or "operator"
    if event.key is None:
        subject, source = f"engine {event.about_id or event.engine_id}", None
    else:
        subject, source = f"{event.kind}/{event.key}", event.about_id
    return (
        event.at,
        event.what,
        by,
        subject,
        source,
        event.epoch,
        event.attempts,
        event.detail,
    )
