"""``liveness-manage engine …``: who lives, and ending one by hand."""

from __future__ import annotations

import argparse
import getpass
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from liveness import clock, exceptions, model
from liveness.cmd import app
from liveness.events import Event, What

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.db.report import ShownEngine
    from liveness.model import Engine


def seconds(text: str) -> float:
    """A command line's number of seconds."""
    try:
        return clock.seconds(float(text), "it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


class List(app.Lister):
    """List the engines: who lives, since when, and how much is left of each lease

    A lease is renewed by every beat; 'left' counts by the database's clock, and is for
    the eye: nobody is fenced for it. Engines that ended stay for engine_retention.
    """

    examples = (
        "engine list",
        "engine list --state live --state draining -f value -c id",
        "engine list --host web-3 --count",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add(
            "--state",
            action="append",
            default=[],
            choices=[str(state) for state in model.EngineState],
            help="only those; repeat it for more",
        )
        add("--host", help="only those on this host")
        add(
            "--count",
            action="store_true",
            help="also count the deadlines of each; a statement for each engine",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        names = (
            ["id", "state", "host", "pid", "left", "ttl", "started_at", "ended_at"]
            + ["deadlines"] * args.count
            + ["evidence"]
        )
        return names, self._rows(args)

    def _rows(self, args: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
        from liveness.db.report import Report

        with self.database(args) as connection:
            report = Report(clock.Clock())
            for shown in report.engines(connection, args.state, args.host):
                engine = shown.engine
                count: tuple[int, ...] = ()
                if args.count:
                    count = (sum(report.owned(connection, engine.id).values()),)
                yield (
                    engine.id,
                    engine.state,
                    engine.host,
                    engine.pid,
                    rounded(shown.lease_left),
                    engine.ttl,
                    engine.started_at,
                    engine.ended_at,
                    *count,
                    engine.fence_evidence,
                )


class Show(app.ShowOne):
    """Show one engine, what it owns, and what will happen next"""

    examples = (
        "engine show 0b6f5b0e-0f0c-4d52-8a61-5f6fb6cf4a31",
        "engine show 0b6f5b0e -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", help="its id, or how only its id begins")
        return parser

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        from liveness.db.report import Report

        with self.database(args) as connection:
            report = Report(clock.Clock())
            shown = one(report.engines_like(connection, args.id), args.id)
            owned = report.owned(connection, shown.engine.id)
        engine = shown.engine
        facts = {
            "id": engine.id,
            "state": engine.state,
            "host": engine.host,
            "pid": engine.pid,
            "binary": engine.binary,
            "version": engine.version,
            "started_at": engine.started_at,
            "beat_at": engine.beat_at,
            "beat_seq": engine.beat_seq,
            "ttl": engine.ttl,
            "left": rounded(shown.lease_left),
            "ended_at": engine.ended_at,
            "fenced_by": engine.fenced_by,
            "evidence": engine.fence_evidence,
            "armed": owned.get(model.DeadlineState.ARMED, 0),
            "claimed": owned.get(model.DeadlineState.CLAIMED, 0),
            "next": prospects(shown, sum(owned.values())),
        }
        return self.dict2columns(facts)


class Drain(app.Changing):
    """Ask an engine to stop in good order

    Writes the wish into its row. The engine obeys at its next sweep, wherever it runs:
    it takes no more work, waits at most drain_timeout for what is in flight, hands its
    deadlines to the others and resigns. Its process goes on without an engine (arming
    raises NotRunning there) until it is restarted.
    """

    examples = (
        "engine drain 0b6f5b0e-0f0c-4d52-8a61-5f6fb6cf4a31 --yes",
        "engine drain 0b6f5b0e-0f0c-4d52-8a61-5f6fb6cf4a31 --yes --wait 60",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", help="its whole id")
        parser.add_argument(
            "--wait",
            type=seconds,
            metavar="SECONDS",
            help="wait until it has stopped, at most so long; else exit code 1",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.detector import WINDOW

        with self.database(args) as connection:
            engine = living(connection, args.id).engine
            if engine.state != model.EngineState.DRAINING:
                self.confirm(
                    args,
                    f"{named(engine)} will take no more work, hand its deadlines to the"
                    " others, and stop; its process goes on without an engine.",
                )
                engines().set_draining(connection, engine.id)
                sweep = self.settings(args).sweep_interval
                self.say(
                    f"{named(engine)} was asked to drain; it obeys at its next sweep"
                    f" (about {sweep:g} s; in a fleet of more than {WINDOW}, up to its"
                    f" lease of {engine.ttl:g} s)."
                )
            else:
                self.say(f"{named(engine)} drains already.")
            if args.wait is not None:
                self._wait(connection, engine.id, args.wait)

    def _wait(self, connection: sa.Connection, engine_id: str, patience: float) -> None:
        end = time.monotonic() + patience
        while True:
            engine = engines().get(connection, engine_id)
            if engine is None or not engine.alive:
                self.say(f"It is {engine.state if engine else 'gone'}.")
                return
            if time.monotonic() >= end:
                raise exceptions.EngineError(
                    engine_id=engine_id, reason=f"it still drains after {patience:g} s"
                )
            time.sleep(min(0.5, max(end - time.monotonic(), 0.0)))


class Fence(app.Changing):
    """Declare an engine dead, for good

    The others then take over what it had. The write is the one that engines use: it
    counts only if the engine has not beaten since it was looked at.

    An engine that still has a lease is refused without --force, since it may be alive.
    With --force it learns of the fence at its next beat; then it claims and settles
    nothing more, and liveness-engine ends and starts again as a new engine. What its
    handlers do until then may be done once more by those who take over.
    """

    examples = (
        "engine fence 0b6f5b0e-0f0c-4d52-8a61-5f6fb6cf4a31",
        "engine fence 0b6f5b0e-0f0c-4d52-8a61-5f6fb6cf4a31 --force --yes"
        " --reason host-on-fire",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("id", help="its whole id")
        add("--reason", default="", help="kept in its row, and shown")
        add(
            "--force",
            action="store_true",
            help="even when its lease is not over: it may be alive",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.identity import Identity

        with self.database(args) as connection:
            shown = living(connection, args.id)
            engine = shown.engine
            proof = Identity.of_this_process().proof_of_death(engine)
            left = shown.lease_left or 0.0
            alive = left > 0 and proof is None
            if alive and not args.force:
                raise exceptions.EngineError(
                    engine_id=engine.id,
                    reason=f"its lease has {left:.1f} s left, it may well be alive;"
                    " 'engine drain' stops it in good order, --force fences it all the"
                    " same",
                )
            self.confirm(args, self._what(connection, engine, alive, proof, left))
            evidence = f"operator {operator()}"
            if args.reason:
                evidence += f": {args.reason}"
            self._fence(connection, engine, evidence, args.force)
            event = Event(What.FENCED, None, engine.id, detail=evidence)
            self.record(args, connection, event)
        self.say(f"{named(engine)} is fenced; the others take over what it had.")

    def _what(
        self,
        connection: sa.Connection,
        engine: Engine,
        alive: bool,
        proof: str | None,
        left: float,
    ) -> str:
        from liveness.db.report import Report

        count = sum(Report(clock.Clock()).owned(connection, engine.id).values())
        text = f"{named(engine)} will be declared dead, for good"
        text += f"; others take over its {count} deadlines."
        if not alive:
            return f"{text} {proof or f'Its lease ended {-left:.1f} s ago'}."
        return (
            f"{text} Its lease has {left:.1f} s left, so it may be alive: then it"
            " learns of the fence at its next beat, and what its handlers do until then"
            " may be done once more by those who take over."
        )

    def _fence(
        self, connection: sa.Connection, engine: Engine, evidence: str, force: bool
    ) -> None:
        for _ in range(20 if force else 1):
            if engines().fence(connection, engine, None, evidence):
                return
            engine = living(connection, engine.id).engine
        raise exceptions.EngineError(
            engine_id=engine.id,
            reason="it has beaten since it was looked at; it was not fenced",
        )


# --- what the verbs share -----------------------------------------------------------


def engines() -> Any:
    """The statements on engines."""
    from liveness.db.engines import Engines

    return Engines(clock.Clock())


def living(connection: sa.Connection, engine_id: str) -> ShownEngine:
    """The engine of that id. :raises EngineError: it is over, or there is none."""
    from liveness.db.report import Report

    found = Report(clock.Clock()).engines_like(connection, engine_id)
    if not found or found[0].engine.id != engine_id:
        raise exceptions.EngineError(
            engine_id=engine_id, reason="there is no such engine"
        )
    if not found[0].engine.alive:
        raise exceptions.EngineError(
            engine_id=engine_id, reason=f"it is {found[0].engine.state} already"
        )
    return found[0]


def one(found: list[ShownEngine], begin: str) -> ShownEngine:
    """The only one found. :raises EngineError: none, or several."""
    if len(found) == 1:
        return found[0]
    reason = "several ids begin so" if found else "there is no such engine"
    raise exceptions.EngineError(engine_id=begin, reason=reason)


def named(engine: Engine) -> str:
    """An engine for a sentence."""
    return f"Engine {engine.id} (host {engine.host}, pid {engine.pid}, {engine.state})"


def operator() -> str:
    """Who gives the orders, as well as the system knows."""
    try:
        return f"{getpass.getuser()}@{os.uname().nodename}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}@{os.uname().nodename}"


def prospects(shown: ShownEngine, owned: int) -> str:
    """What an operator should expect of an engine."""
    engine, left = shown.engine, shown.lease_left
    if left is None:
        if owned:
            return (
                f"It is over; the others take over its {owned} deadlines, each engine"
                " those whose kinds it has handlers for."
            )
        return "It is over and owns nothing; its row goes after engine_retention."
    if left <= 0:
        return (
            f"Its lease ended {-left:.1f} s ago. An engine that has seen no beat for a"
            " whole ttl fences it; one on the same host does so as soon as its process"
            " is gone."
        )
    if engine.state == model.EngineState.DRAINING:
        return "It takes no more work, and stops when what is in flight is done."
    return f"It lives; it is due to beat within {left:.1f} s."


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
