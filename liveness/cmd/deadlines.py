"""``liveness-manage deadline …``: what is promised, by whom, and giving up on it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from liveness import clock, exceptions, model
from liveness.cmd import app, engines
from liveness.cmd.redaction import Redaction
from liveness.events import BATCH, Event, What

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings
    from liveness.db.deadlines import Deadlines
    from liveness.db.report import Filter, Listed
    from liveness.model import Deadline


def whole(text: str) -> int:
    """A command line's count."""
    if not text.isdigit() or not 0 < int(text) < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


class List(app.Lister):
    """List deadlines: what is promised, when, by whom, and what went wrong

    Rows come by row id and are read while they are shown, in windows, so that a table
    of any length may be listed; all filters hold together. 'late' is in seconds since
    it was due, negative before. 'overdue' means due for longer than its owner's head
    start (expired_grace and max_clock_skew), 'orphaned' that nobody alive owns it.
    """

    examples = (
        "deadline list --kind stack_timer --limit 20",
        "deadline list --overdue",
        "deadline list --state parked -f csv -c kind -c key -c error",
        "deadline list --orphaned --prefix web- -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add(
            "--state",
            action="append",
            default=[],
            choices=[str(state) for state in model.DeadlineState],
            help="only those; repeat it for more",
        )
        add("--kind", action="append", default=[], help="only these kinds; repeat it")
        add("--owner", metavar="ID", help="only those of this engine, or 'nobody'")
        add("--prefix", default="", help="only keys that begin so")
        add(
            "--overdue",
            nargs="?",
            type=engines.seconds,
            const=-1.0,
            metavar="SECONDS",
            help="only armed ones that have been due for so long, or for longer than"
            " their owner's head start",
        )
        add("--orphaned", action="store_true", help="only those nobody alive owns")
        add("--limit", type=whole, metavar="N", help="at most so many rows")
        return parser

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        names = "kind key state owner owner_state due_at late attempts epoch error id"
        return names.split(), self._rows(args, wanted(args, self.settings(args)))

    def _rows(
        self, args: argparse.Namespace, filter_: Filter
    ) -> Iterator[tuple[Any, ...]]:
        from liveness.db.report import Report

        with self.database(args) as connection:
            rows = Report(clock.Clock()).deadlines(connection, filter_)
            for number, row in enumerate(rows, 1):
                yield (
                    row.kind,
                    row.key,
                    row.state,
                    row.owner_id,
                    row.owner_state,
                    row.due_at,
                    round(row.late, 1),
                    row.attempts,
                    row.epoch,
                    row.last_error,
                    row.id,
                )
                if number == args.limit:
                    return


def wanted(args: argparse.Namespace, settings: Settings) -> Filter:
    """The filter that a command line asks for."""
    from liveness.db.report import Filter

    late = args.overdue
    if late is not None and late < 0:
        late = settings.expired_grace + settings.max_clock_skew
    return Filter(
        states=args.state,
        kinds=args.kind,
        owner=args.owner,
        prefix=args.prefix,
        late=late,
        orphaned=args.orphaned,
    )


class Show(app.ShowOne):
    """Show one deadline, and what will happen next

    Values in its payload whose names sound like secrets (the option 'redacted') are not
    shown.
    """

    examples = ("deadline show stack_timer web-1", "deadline show email 4711 -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        return _one_deadline(super().get_parser(prog_name))

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        from liveness.db.report import Report

        _require_text(args.kind, args.key)
        with self.database(args) as connection:
            found = Report(clock.Clock()).deadline(connection, args.kind, args.key)
        if found is None:
            raise exceptions.NoSuchDeadline(kind=args.kind, key=args.key)
        hides = Redaction(self.settings(args).redacted)
        return self.dict2columns(facts(*found, hides))


class Retry(app.Changing):
    """Give parked deadlines back to the engines, attempts at zero

    Repair first what the reason says ('deadline list --state parked'). An engine that
    has a handler for the kind takes each at its next sweep.
    """

    examples = (
        "deadline retry resource_action web-1/server",
        "deadline retry --all --kind email --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("what", nargs="*", metavar="KIND KEY", help="which one")
        add("--all", action="store_true", help="all that are parked, instead of one")
        add("--kind", action="append", default=[], help="with --all: of these kinds")
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        if bool(args.what) == args.all or len(args.what) not in (0, 2):
            raise app.Usage("say KIND and KEY, or --all")
        if args.kind and not args.all:
            raise app.Usage("--kind goes with --all")
        with self.database(args) as connection:
            if args.all:
                self._all(connection, args)
            else:
                found = found_one(connection, *args.what)
                if found.state != model.DeadlineState.PARKED:
                    raise exceptions.NotParked(
                        kind=found.kind, key=found.key, state=found.state
                    )
                self.confirm(args, f"{found} will be tried again.")
                if not _give_back(connection, found):
                    raise _stale(found)
                self.record(args, connection, _unparked(found))
                self.say(f"{found} is armed again; an engine takes it.")

    def _all(self, connection: sa.Connection, args: argparse.Namespace) -> None:
        from liveness.db.report import Filter, Report

        of = f" of kind {', '.join(args.kind)}" if args.kind else ""
        self.confirm(args, f"Every parked deadline{of} will be tried again.")
        parked = Filter(states=[model.DeadlineState.PARKED], kinds=args.kind)
        count = 0
        events: list[Event] = []
        # Read one after the other: what is retried here and parked again meanwhile has
        # the same row id, which is behind us.
        for row in Report(clock.Clock()).deadlines(connection, parked):
            with contextlib.suppress(exceptions.NoSuchDeadline):
                found = found_one(connection, row.kind, row.key)
                if found.id == row.id and _give_back(connection, found):
                    count += 1
                    events.append(_unparked(found))
            if len(events) == BATCH:
                self.record(args, connection, *events)
                events.clear()
        self.record(args, connection, *events)
        self.say(f"{count} deadlines are armed again; engines take them.")


class Park(app.Changing):
    """Keep a deadline from the engines until 'deadline retry' or 'deadline disarm'

    Its owner learns that its value is stale: what a handler is doing with it now counts
    for nothing, and a guard of it raises at its end.
    """

    examples = ("deadline park resource_action web-1/server --reason maintenance",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = _one_deadline(super().get_parser(prog_name))
        parser.add_argument("--reason", default="", help="kept in its row, and shown")
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.db.rows import new_token

        with self.database(args) as connection:
            found = found_one(connection, args.kind, args.key)
            if found.state == model.DeadlineState.PARKED:
                raise exceptions.DeadlineError(
                    kind=found.kind, key=found.key, reason="it is parked already"
                )
            self.confirm(
                args, f"{found} will be kept from the engines.{_in_hand(found)}"
            )
            reason = f"by operator {engines.operator()}"
            if args.reason:
                reason += f": {args.reason}"
            if not _deadlines().park(connection, _as_kept(found), new_token(), reason):
                raise _stale(found)
            event = Event.of(What.PARKED, None, found, found.owner_id, reason)
            self.record(args, connection, event)
        self.say(f"{found} is parked; 'deadline retry' gives it back.")


class Disarm(app.Changing):
    """Remove a deadline: what it promised will not be done

    For one that is pointless now. Its owner, if any, finds it gone.
    """

    examples = ("deadline disarm resource_action web-1/server",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        return _one_deadline(super().get_parser(prog_name))

    def take_action(self, args: argparse.Namespace) -> None:
        with self.database(args) as connection:
            found = found_one(connection, args.kind, args.key)
            self.confirm(
                args,
                f"{found} will be removed for good; what it promised will not be done."
                f"{_in_hand(found)}",
            )
            if _deadlines().complete(connection, [_as_kept(found)]):
                raise _stale(found)
            by = f"by operator {engines.operator()}"
            event = Event.of(What.DISARMED, None, found, found.owner_id, by)
            self.record(args, connection, event)
        self.say(f"{found} is gone.")


# --- what they share ----------------------------------------------------------------


def _one_deadline(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("kind", help="its kind")
    parser.add_argument("key", help="its key")
    return parser


def _deadlines() -> Deadlines:
    from liveness.db.deadlines import Deadlines

    return Deadlines(clock.Clock())


def found_one(connection: sa.Connection, kind: str, key: str) -> Deadline:
    """The deadline as its row is now. :raises NoSuchDeadline: there is none."""
    _require_text(kind, key)
    found = _deadlines().find(connection, kind, key)
    if found is None or (found.kind, found.key) != (kind, key):
        raise exceptions.NoSuchDeadline(kind=kind, key=key)
    return found


def _require_text(kind: str, key: str) -> None:
    """:raises NoSuchDeadline: for bytes of a command line that are no text."""
    if any("\ud800" <= c <= "\udfff" for c in kind + key):
        raise exceptions.NoSuchDeadline(kind=ascii(kind), key=ascii(key))


def _as_kept(found: Deadline) -> Deadline:
    """``found`` for a guarded write: no owner is compared as an empty one."""
    return found._replace(owner_id=found.owner_id or "")


def _give_back(connection: sa.Connection, found: Deadline) -> bool:
    from liveness.db.rows import new_token

    return _deadlines().unpark(connection, found, new_token())


def _unparked(found: Deadline) -> Event:
    by = f"by operator {engines.operator()}"
    return Event.of(What.UNPARKED, None, found, detail=by)


def _stale(found: Deadline) -> exceptions.StaleDeadline:
    return exceptions.StaleDeadline(kind=found.kind, key=found.key, token=found.token)


def _in_hand(found: Deadline) -> str:
    if found.state == model.DeadlineState.CLAIMED:
        return (
            f" Engine {found.owner_id} has claimed it: if its handler runs, what that"
            " does will count for nothing."
        )
    return f" It is owned by engine {found.owner_id}." if found.owner_id else ""


def facts(row: Listed, payload: str | None, hides: Redaction) -> dict[str, Any]:
    """What there is to say of a deadline whose payload is that text."""
    from liveness.db.rows import load_payload

    value, problem = load_payload(payload)
    return {
        "kind": row.kind,
        "key": row.key,
        "state": row.state,
        "owner": row.owner_id,
        "owner_state": row.owner_state,
        "owner_host": row.owner_host,
        "owner_pid": row.owner_pid,
        "due_at": row.due_at,
        "expires_at": row.expires_at,
        "late": round(row.late, 1),
        "attempts": row.attempts,
        "max_attempts": row.max_attempts,
        "epoch": row.epoch,
        "payload": problem or hides.of(value),
        "error": row.last_error and hides.text(row.last_error),
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "id": row.id,
        "next": prospects(row),
    }


def prospects(row: Listed) -> str:
    """What an operator should expect of a deadline."""
    if row.state == model.DeadlineState.PARKED:
        return "Nothing, until 'deadline retry' or 'deadline disarm'."
    who = f"engine {row.owner_id} ({row.owner_host}, pid {row.owner_pid})"
    if row.orphaned:
        why = {
            "nobody": "It has no owner",
            "missing": f"Its owner {row.owner_id} has no row",
        }.get(row.owner_state, f"Its owner, {who}, is {row.owner_state}")
        return (
            f"{why}: an engine with a handler for its kind takes it over at its next"
            f" sweep, under epoch {row.epoch + 1}."
        )
    if row.state == model.DeadlineState.CLAIMED:
        return (
            f"The handler runs in {who}, attempt {row.attempts} of"
            f" {row.max_attempts}; if that engine dies, others take it over."
        )
    if row.late > 0:
        return (
            f"It is due; {who} claims it, or after its head start any engine with a"
            " handler for its kind."
        )
    return f"It is handled in {-row.late:.1f} s by {who}, unless disarmed before."
