"""``liveness-manage sweep`` and ``purge``: what engines do by themselves, by hand.

A sweep by hand is a real one. An engine of its own registers, beats, observes, fences
and claims by the same guarded writes as any other, and resigns when it is done: nothing
here knows a shorter way.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from liveness import clock, exceptions, model
from liveness.cmd import app, engines

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings
    from liveness.db.report import Listed
    from liveness.handlers import Handlers
    from liveness.running import Running
    from liveness.sweep import Counts

TURN = 0.2
"""Seconds between two turns at most while something is in flight."""

FAILURES = 5
"""Turns after which a database that refuses is not asked any more."""


class Sweep(app.Changing, app.Lister):
    """Sweep once, by hand: fence who is proven dead, take over what they had

    For when no engine runs, or to see what engines would do (--dry-run). It runs as an
    engine of its own with the handlers that are installed here; deadlines of other
    kinds, and what it takes over that is not due yet, are left to other engines.

    An engine whose process is seen to be gone on this host is fenced at once. Any other
    one must be observed for a whole ttl first, which only --wait does.
    """

    examples = (
        "sweep --dry-run",
        "sweep --yes --wait",
        "sweep --yes --fence-only",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add(
            "--dry-run",
            action="store_true",
            help="change nothing; say what, why, whose, and under which epoch",
        )
        add(
            "--wait",
            action="store_true",
            help="observe silent engines and missing owners for a whole ttl",
        )
        add("--fence-only", action="store_true", help="run no handler: only judge")
        add(
            "--timeout",
            type=engines.seconds,
            default=60.0,
            metavar="SECONDS",
            help="wait at most so long for handlers (60)",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        settings = self.settings(args)
        if args.dry_run:
            names = ("action", "subject", "owner", "epoch", "why")
            return names, self._planned(args, settings)
        with self.database(args):  # a mistake is found out before the question
            pass
        self.confirm(args, "Engines that are proven dead will be fenced, for good.")
        done = by_hand(
            settings,
            wait=args.wait,
            timeout=args.timeout,
            handle=not args.fence_only,
        )
        return ("did", "number"), list(done.items())

    def _planned(
        self, args: argparse.Namespace, settings: Settings
    ) -> Iterator[tuple[Any, ...]]:
        handlers = installed(settings, handle=not args.fence_only)
        with self.database(args) as connection:
            yield from plan(connection, settings, handlers)


class Purge(app.Changing):
    """Delete the rows of engines that ended long ago and own nothing

    And events that are older than history_retention. Engines do so by themselves; this
    is for doing it now.
    """

    examples = ("purge --yes", "purge --older-than 86400 --yes")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--older-than",
            type=engines.seconds,
            metavar="SECONDS",
            help="since they ended; without it: engine_retention",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.db.events import EventLog

        settings = self.settings(args)
        age = args.older_than
        age = settings.engine_retention if age is None else age
        with self.database(args) as connection:
            self.confirm(
                args,
                f"Rows of engines that ended more than {age:g} s ago and own nothing"
                " will be deleted, and what is too old of the history.",
            )
            count = in_batches(
                lambda limit: engines.engines().purge(connection, age, limit)
            )
            kept, log = settings.history_retention, EventLog(clock.Clock())
            events = in_batches(lambda limit: log.purge(connection, kept, limit))
        self.say(f"{count} rows of engines and {events} events are deleted.")


def in_batches(delete: Callable[[int], int], limit: int = 500) -> int:
    """Call ``delete(limit)`` until it deletes fewer; return how many went."""
    total = 0
    while (count := delete(limit)) == limit:
        total += count
    return total + count


# --- what a sweep would do ----------------------------------------------------------


def installed(settings: Settings, handle: bool = True) -> Handlers:
    """The handlers that installed packages offer; none without ``handle``."""
    from liveness.handlers import Handlers

    handlers = Handlers(settings)
    if handle:
        handlers.load()
    return handlers


def plan(
    connection: sa.Connection, settings: Settings, handlers: Handlers
) -> Iterator[tuple[Any, ...]]:
    """What a sweep would do now: (action, subject, owner, epoch, why). ``epoch`` is
    the one that a claim gives the deadline."""
    from liveness.db.report import Filter, Report
    from liveness.identity import Identity

    report, here = Report(clock.Clock()), Identity.of_this_process()
    dead = []
    for shown in report.engines(connection, model.ALIVE):
        engine = shown.engine
        if proof := here.proof_of_death(engine):
            dead.append(engine.id)
            yield "fence", f"engine {engine.id}", None, None, proof
        elif (shown.lease_left or 0.0) <= 0:
            yield (
                "observe",
                f"engine {engine.id}",
                None,
                None,
                f"its lease ended {-(shown.lease_left or 0.0):.1f} s ago; with --wait"
                " it is fenced when no beat is seen for a whole ttl",
            )
    orphans = report.deadlines(connection, Filter(orphaned=True, dead=dead))
    for row in orphans:
        yield _planned(row, _why_orphaned(row, dead), handlers)
    grace = settings.expired_grace + settings.max_clock_skew
    for row in report.deadlines(connection, Filter(late=grace)):
        if not row.orphaned and row.owner_id not in dead:
            why = f"its owner has not claimed it for {row.late:.1f} s"
            yield _planned(row, why, handlers)


def _why_orphaned(row: Listed, dead: list[str]) -> str:
    if row.owner_id in dead:
        return "its owner is fenced first"
    if row.owner_state == "nobody":
        return "it has no owner"
    if row.owner_state == "missing":
        return "its owner has no row; with --wait, once that is so for a whole ttl"
    return f"its owner is {row.owner_state}"


def _planned(row: Listed, why: str, handlers: Handlers) -> tuple[Any, ...]:
    from liveness.handlers import WhenOrphaned

    handler, epoch = handlers.get(row.kind), row.epoch + 1
    if handler is None:
        action, epoch = "leave", row.epoch
        why += f"; no handler for kind {row.kind!r} is installed here"
    elif row.attempts >= row.max_attempts:
        action, epoch = "park", row.epoch
        why += f"; {row.attempts} attempts, of which none came back"
    elif row.expired:
        action = "expire"
    elif handler.when_orphaned == WhenOrphaned.RETRIGGER:
        action = "retrigger"
    elif handler.when_orphaned == WhenOrphaned.PARK:
        action, epoch = "park", row.epoch
        why += " (its kind says: park)"
    else:
        action = "adopt"
    return action, f"{row.kind}/{row.key}", row.owner_id, epoch, why


# --- a sweep ------------------------------------------------------------------------


def by_hand(
    settings: Settings, wait: bool, timeout: float, handle: bool = True
) -> dict[str, int]:
    """Be an engine for as long as one sweep takes; return what was done, by name.

    ``wait``: observe whoever is silent for a whole ttl. ``handle``: with the handlers
    that are installed; else nothing is claimed. Handlers get ``timeout`` seconds.

    :raises DatabaseError: it could not sweep.
    """
    from liveness.clock import MAX_SECONDS, Clock
    from liveness.db.report import opened
    from liveness.running import Running

    # A kind that is unknown here is for engines that know it; nobody asks for metrics.
    settings = dataclasses.replace(
        settings, unknown_kind_grace=MAX_SECONDS, metrics_listen=None
    )
    handlers = installed(settings, handle)
    me = str(uuid.uuid4())
    running = Running(me, settings, Clock(), handlers, lambda: None, [])
    try:
        running.register()
    except BaseException:
        running.close()
        raise
    tally = _Tally()
    running.loop.on_sweep = tally.swept
    running.heart.start()
    try:
        with opened(settings.connection, settings.database_timeout) as connection:
            silent = _Silent(connection, settings) if wait else None
            end = time.monotonic() + timeout + (silent.patience if silent else 0.0)
            _turn(running, tally, silent, end)
    finally:
        running.drain(0.0)
    if not tally.passes:
        raise exceptions.DatabaseError(
            url=str(running.database), reason="no sweep came to its end"
        )
    return tally.done


class _Tally:
    """What the passes did."""

    def __init__(self) -> None:
        self.passes = 0
        self.more = False
        self.done: dict[str, int] = {}

    def swept(self, counts: Counts, seconds: float) -> None:
        self.passes += 1
        self.more = counts.more
        for name in ("fenced", "adopted", "retriggered", "expired", "parked", "purged"):
            self.done[name] = self.done.get(name, 0) + getattr(counts, name)


class _Silent:
    """Those that only observation can judge: engines whose leases are over, and owners
    without a row."""

    def __init__(self, connection: sa.Connection, settings: Settings) -> None:
        from liveness.db.report import Report

        self._connection = connection
        living = Report(clock.Clock()).engines(connection, model.ALIVE)
        self._engines = [s.engine for s in living if (s.lease_left or 0.0) <= 0]
        longest = max([settings.ttl, *(engine.ttl for engine in self._engines)])
        whole = longest * (1 + settings.clock_drift) + settings.lease_margin
        self.patience = whole * 1.5 + 2 * settings.sweep_interval

    @property
    def left(self) -> bool:
        """True while one has neither beaten nor been judged."""
        statements = engines.engines()
        for engine in self._engines:
            now = statements.get(self._connection, engine.id)
            if now is not None and now.alive and now.beat_seq == engine.beat_seq:
                return True
        owners = statements.owners_not_alive(self._connection, limit=100)
        return not all(owners.values())


def _turn(running: Running, tally: _Tally, silent: _Silent | None, end: float) -> None:
    """Turn until a sweep leaves nothing to do, or the time is over."""
    turns = 0
    while not running.trust.fenced and time.monotonic() < end:
        delay = running.loop.turn()
        turns += 1
        if turns > FAILURES and not tally.passes:
            return
        busy = running.runner.busy or tally.more
        if tally.passes and not busy and not (silent and silent.left):
            return
        time.sleep(min(delay, TURN))
