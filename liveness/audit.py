"""The audit: what is wrong, and what to do about it. It only looks.

Every check reads at most :data:`MOST` rows through an index, so it costs little however
large the tables are.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta

import sqlalchemy as sa

from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db import migration
from liveness.db.engines import Engines
from liveness.db.report import NOBODY, Filter, Listed, Report, ShownEngine
from liveness.handlers import Handlers
from liveness.identity import Identity
from liveness.model import ALIVE, DeadlineState, Engine, EngineState

MOST = 1000
"""Rows that one check looks at."""

EXAMPLES = 3
"""Keys that one sentence names."""

FLAPS, FLAP_SECONDS = 3, 900.0
"""Fences of one program on one host, within so long, that make a crash loop."""


class Severity(enum.StrEnum):
    """How urgent: somebody waits for work that is not done; look today; tidiness."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


REMEDIES: dict[str, tuple[Severity, str]] = {
    "engine-dead": (
        Severity.CRITICAL,
        "An engine on this host fences it at its next sweep; if none runs here:"
        " 'liveness-audit --recover'.",
    ),
    "engine-silent": (
        Severity.CRITICAL,
        "If its host is up, see why it does not beat (its log, the database). Others"
        " fence it once they have seen no beat for a whole ttl; if none runs:"
        " 'liveness-audit --recover --wait'.",
    ),
    "engine-none": (
        Severity.CRITICAL,
        "Start an engine ('liveness-engine', or the host program): nobody handles what"
        " is promised.",
    ),
    "engine-flapping": (
        Severity.WARNING,
        "See its log, and who kills it (out of memory? a handler that crashes?);"
        " 'liveness-manage history --what fenced --since 1h' has the evidence.",
    ),
    "engine-stale": (
        Severity.INFO,
        "'liveness-manage purge'; engines do so by themselves once per ttl.",
    ),
    "deadline-orphaned": (
        Severity.CRITICAL,
        "See that an engine runs that has a handler for the kind; if none does:"
        " 'liveness-audit --recover', where the handler is installed.",
    ),
    "deadline-overdue": (
        Severity.CRITICAL,
        "See whether the engines with a handler for the kind are overloaded, hang in"
        " handlers, or do not run ('liveness-manage engine list'); meanwhile:"
        " 'liveness-audit --recover', where the handler is installed.",
    ),
    "deadline-claimed": (
        Severity.WARNING,
        "See what the handler waits for, in the log of its owner; 'liveness-manage"
        " engine drain ID' ends that engine in good order.",
    ),
    "deadline-parked": (
        Severity.WARNING,
        "Repair what the reason says, then 'liveness-manage deadline retry KIND KEY'"
        " (or 'liveness-manage deadline disarm KIND KEY').",
    ),
    "kind-unknown": (
        Severity.WARNING,
        "Install the handler where engines run and restart them; then 'liveness-manage"
        " deadline retry --all --kind KIND' for what was parked.",
    ),
    "clock-host": (
        Severity.WARNING,
        "See to the time synchronisation of this host and of the database's. Nobody is"
        " fenced for it, but times in logs mislead.",
    ),
    "clock-database": (
        Severity.WARNING,
        "See to the time synchronisation of the database's nodes, or raise"
        " max_clock_skew: deadlines are due by the clock of the node that is asked.",
    ),
    "schema-differs": (
        Severity.WARNING,
        "See who changed the tables, and undo it; 'liveness-manage db check' lists"
        " this.",
    ),
}
"""Every code there is, how urgent it is, and what to do."""

BY_SWEEP = ("engine-dead", "engine-silent", "deadline-orphaned", "deadline-overdue")
"""Findings that a sweep can cure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. ``subject``: an engine, a kind, a host; ``count``: how
    many rows it is about, of at most :data:`MOST`."""

    code: str
    severity: str
    subject: str
    message: str
    remedy: str
    count: int = 1


class Audit:
    """All checks, for one database."""

    def __init__(
        self,
        clock: Clock,
        settings: Settings,
        kinds: Collection[str] = (),
        identity: Identity | None = None,
    ) -> None:
        """``kinds``: those that engines have handlers for; none means that it is not
        known which they are."""
        self._clock = clock
        self._settings = settings
        self._kinds = kinds
        self._report = Report(clock)
        self._identity = identity or Identity.of_this_process()

    def findings(self, connection: sa.Connection) -> Iterator[Finding]:
        """What is wrong now, check by check."""
        yield from self._clocks(connection)
        yield from self._engines(connection)
        yield from self._orphaned(connection)
        yield from self._overdue(connection)
        yield from self._claimed(connection)
        yield from self._parked(connection)
        yield from self._unknown(connection)
        yield from self._schema()

    @property
    def patience(self) -> float:
        """Seconds for which engines are given to see to something by themselves."""
        return self._settings.ttl

    # --- clocks and schema ------------------------------------------------------

    def _clocks(self, connection: sa.Connection) -> Iterator[Finding]:
        asked = self._clock.host_now()
        database = self._report.now(connection)
        answered = self._clock.host_now()
        vague = (answered - asked) / 2
        apart = database - (asked + vague)
        if abs(apart) - vague > timedelta(seconds=self._settings.max_clock_skew):
            yield _finding(
                "clock-host",
                f"host {self._identity.host}",
                f"The database's clock is {apart.total_seconds():+.1f} s off this"
                " host's.",
            )

    def _schema(self) -> Iterator[Finding]:
        for text in migration.differences(self._settings.connection)[:MOST]:
            yield _finding("schema-differs", "schema", f"{_capital(text)}.")

    # --- engines ----------------------------------------------------------------

    def _engines(self, connection: sa.Connection) -> Iterator[Finding]:
        living = 0
        for shown in self._report.engines(connection, ALIVE):
            living += 1
            yield from self._engine(shown)
        if not living and self._some(connection, Filter(states=UNSETTLED), 1):
            yield _finding(
                "engine-none",
                "engines",
                "There are deadlines, and no living engine.",
            )
        yield from self._flapping(connection)
        yield from self._stale(connection)

    def _engine(self, shown: ShownEngine) -> Iterator[Finding]:
        engine, left = shown.engine, shown.lease_left or 0.0
        where = f"(host {engine.host}, pid {engine.pid})"
        if proof := self._identity.proof_of_death(engine):
            yield _finding(
                "engine-dead",
                f"engine {engine.id}",
                f"Engine {engine.id} {where} is dead and not fenced: {proof}.",
            )
        elif left <= 0:
            yield _finding(
                "engine-silent",
                f"engine {engine.id}",
                f"Engine {engine.id} {where} last beat {engine.ttl - left:.1f} s ago;"
                f" its lease was {engine.ttl:g} s.",
            )
        ahead = (engine.beat_at - shown.now).total_seconds()
        if ahead > self._settings.max_clock_skew:
            yield _finding(
                "clock-database",
                f"engine {engine.id}",
                f"The last beat of engine {engine.id} is {ahead:.1f} s in the future:"
                " nodes of the database disagree about the time, or its clock was set"
                " back.",
            )

    def _flapping(self, connection: sa.Connection) -> Iterator[Finding]:
        ended = self._report.ended_within(connection, FLAP_SECONDS, MOST)
        fenced = Counter(
            (engine.host, engine.binary)
            for engine in ended
            if engine.state == EngineState.FENCED
        )
        for (host, binary), count in sorted(fenced.items()):
            if count >= FLAPS:
                yield _finding(
                    "engine-flapping",
                    f"host {host}",
                    f"{count} engines of {binary} on host {host} were fenced within"
                    f" {FLAP_SECONDS / 60:.0f} minutes.",
                    count,
                )

    def _stale(self, connection: sa.Connection) -> Iterator[Finding]:
        age = 2 * self._settings.engine_retention + 4 * self.patience
        stale = self._report.ended_before(connection, age, MOST)
        if stale:
            yield _finding(
                "engine-stale",
                "engines",
                f"{_number(stale)} rows of engines that ended more than {age:.0f} s ago"
                " are still there.",
                len(stale),
            )

    # --- deadlines --------------------------------------------------------------

    def _orphaned(self, connection: sa.Connection) -> Iterator[Finding]:
        gone = list(Engines(self._clock).owners_not_alive(connection, MOST))
        wanted = [Filter(states=[state], owner=NOBODY) for state in UNSETTLED]
        if gone:
            wanted.append(Filter(states=UNSETTLED, owners=gone))
        rows = [row for each in wanted for row in self._some(connection, each)]
        late = [row for row in rows if self._waits(row) > self.patience]
        for kind, found in _by_kind(late):
            longest = max(map(self._waits, found))
            yield _finding(
                "deadline-orphaned",
                f"kind {kind}",
                f"{_number(found)} deadlines of kind {kind} have no living owner, for"
                f" up to {longest:.0f} s: {_names(found)}.",
                len(found),
            )

    def _waits(self, row: Listed) -> float:
        """Seconds for which the row has waited for somebody, at least."""
        since = max(filter(None, (row.owner_ended_at, row.updated_at)))
        return (row.now - since).total_seconds()

    def _overdue(self, connection: sa.Connection) -> Iterator[Finding]:
        settings = self._settings
        late = settings.expired_grace + settings.max_clock_skew + self.patience
        rows = self._some(connection, Filter(late=late))
        for kind, found in _by_kind(row for row in rows if not row.orphaned):
            longest = max(row.late for row in found)
            yield _finding(
                "deadline-overdue",
                f"kind {kind}",
                f"{_number(found)} deadlines of kind {kind} are due and not claimed,"
                f" for up to {longest:.0f} s: {_names(found)}.",
                len(found),
            )

    def _claimed(self, connection: sa.Connection) -> Iterator[Finding]:
        handlers = Handlers(self._settings)
        handlers.load()
        rows = self._some(connection, Filter(states=[DeadlineState.CLAIMED]))
        long = [
            row
            for row in rows
            if not row.orphaned
            and self._waits(row) > handlers.timeout(row.kind) + self.patience
        ]
        for kind, found in _by_kind(long):
            longest = max(map(self._waits, found))
            yield _finding(
                "deadline-claimed",
                f"kind {kind}",
                f"{_number(found)} deadlines of kind {kind} were claimed up to"
                f" {longest:.0f} s ago, longer than a handler may run:"
                f" {_names(found)}.",
                len(found),
            )

    def _parked(self, connection: sa.Connection) -> Iterator[Finding]:
        rows = self._some(connection, Filter(states=[DeadlineState.PARKED]))
        for kind, found in _by_kind(rows):
            reason = " ".join((found[0].last_error or "no reason given").split())
            yield _finding(
                "deadline-parked",
                f"kind {kind}",
                f"{_number(found)} deadlines of kind {kind} are parked:"
                f" {_names(found)}. The first, because {_shown(reason)[:300]}",
                len(found),
            )

    def _unknown(self, connection: sa.Connection) -> Iterator[Finding]:
        if not self._kinds:
            return
        for kind in self._report.kinds(connection, MOST):
            if kind in self._kinds:
                continue
            found = self._some(connection, Filter(kinds=[kind]))
            if found:
                yield _finding(
                    "kind-unknown",
                    f"kind {_shown(kind)}",
                    f"No handler for kind {_shown(kind)} is known here; there are"
                    f" {_number(found)} deadlines of it: {_names(found)}.",
                    len(found),
                )

    def _some(
        self, connection: sa.Connection, wanted: Filter, limit: int = MOST
    ) -> list[Listed]:
        return self._report.some(connection, wanted, limit)


UNSETTLED = (DeadlineState.ARMED, DeadlineState.CLAIMED)


def _finding(code: str, subject: str, message: str, count: int = 1) -> Finding:
    severity, remedy = REMEDIES[code]
    return Finding(code, severity, subject, message, remedy, count)


def _by_kind(rows: Iterable[Listed]) -> list[tuple[str, list[Listed]]]:
    """Rows by kind, as it is shown; those of each by due time."""
    kinds: dict[str, list[Listed]] = defaultdict(list)
    for row in rows:
        kinds[_shown(row.kind)].append(row)
    for found in kinds.values():
        found.sort(key=lambda row: (row.due_at, row.id))
    return sorted(kinds.items())


def _number(found: Collection[Listed] | Collection[Engine]) -> str:
    return f"{len(found)} or more" if len(found) >= MOST else f"{len(found)}"


def _names(found: Collection[Listed]) -> str:
    names = [_shown(row.key) for row in list(found)[:EXAMPLES]]
    return ", ".join(names) + (", …" if len(found) > EXAMPLES else "")


def _shown(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
