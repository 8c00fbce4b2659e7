"""THE pass: observe the engines, fence the dead, take over what they had.

Only this module sees both handlers and store. A pass claims; handlers run in the
runner's threads, and what they answer is settled by the loop.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from liveness import log, walks
from liveness.admission import Admission
from liveness.agenda import Agenda, Entry
from liveness.backlog import Backlog
from liveness.bell import Bell
from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db.claims import Claims
from liveness.db.engines import Engines, Observation
from liveness.db.finding import Finder, Question, Scope
from liveness.db.heads import Line
from liveness.detector import WINDOW, Detector
from liveness.duty import Duty
from liveness.firing import Firing, hopeless
from liveness.handlers import Handlers, WhenOrphaned
from liveness.marks import Marks
from liveness.model import Deadline, DeadlineState, Engine, EngineState
from liveness.pace import Pace
from liveness.runner import Runner
from liveness.skew import Skew
from liveness.trust import Trust
from liveness.walks import VAIN, Walks

LOG = log.get(__name__)

PAGE, OWN_PAGE = 200, 1000
"""Rows of each sort that one pass reads at least, however small the batches are; and
of this engine's own, which are read ahead."""

HOUSEKEEPERS = 8
"""Engines that keep house within a lease, of a fleet of up to a hundred times as many
(see :data:`LONGEST`)."""

LONGEST = 100
"""Leases between two housekeepings of one engine at most. A fleet counts itself when it
keeps house; if it shrinks before the next, those that are left are still enough for one
within a lease: more than :data:`liveness.detector.WINDOW`, or they all see it."""

LINGERING = 100
"""Owners looked up at once that died long ago or have no row."""

FEW = 20
"""Rows. After a pass that found no more, one statement reads engines and deadlines.
(The longer it takes, the less is known of the database's clock: with pages of deadlines
in it, what is due here would be late.)"""


@dataclasses.dataclass(slots=True)
class Counts:
    """What one pass did, in rows. ``more``: a page was full, another pass is due;
    ``again_by``: from when, on the monotonic clock, there is more to do: a silent
    engine can be fenced, or more own deadlines are due than the page of them holds;
    they come after those that it holds. ``rest``: seconds until the next sweep, if
    nothing else tells of one."""

    fenced: int = 0
    adopted: int = 0
    retriggered: int = 0
    expired: int = 0
    parked: int = 0
    purged: int = 0
    more: bool = False
    again_by: float = float("inf")
    rest: float = 0.0

    def __str__(self) -> str:
        rows = ("fenced", "adopted", "retriggered", "expired", "parked", "purged")
        numbers = [(name, getattr(self, name)) for name in rows]
        return ", ".join(f"{number} {name}" for name, number in numbers if number)


class Plan(enum.Enum):
    """What to do with a deadline that was found."""

    CLAIM = enum.auto()
    ADOPT = enum.auto()
    PARK = enum.auto()
    WAIT = enum.auto()


class Taken(NamedTuple):
    """What became of a page of orphans: what was ``wanted`` to adopt, ``chosen`` to
    claim, and taken."""

    wanted: list[Deadline]
    chosen: list[Deadline]
    adopted: list[Deadline]
    claimed: list[Deadline]

    @property
    def tried(self) -> bool:
        return bool(self.wanted or self.chosen)

    @property
    def rows(self) -> int:
        return len(self.adopted) + len(self.claimed)


class Sweep:
    """One engine's passes. Used by one thread."""

    def __init__(
        self,
        me: str,
        clock: Clock,
        settings: Settings,
        trust: Trust,
        engines: Engines,
        claims: Claims,
        detector: Detector,
        handlers: Handlers,
        runner: Runner,
        agenda: Agenda,
        suspects: Agenda,
        bell: Bell,
        admission: Admission,
        backlog: Backlog,
        skew: Skew,
        firing: Firing,
    ) -> None:
        self.settings = settings
        self.skew = skew
        self.duty = Duty(clock, settings)
        self._me = me
        self._clock = clock
        self._trust = trust
        self._engines = engines
        self._claims = claims
        self._finder = Finder(clock, me)
        self._marks = Marks()
        self._walks = Walks(self._finder)
        self._vain = 0  # pages in a row of which nothing could be taken
        self._walking, self._adopting, self._claiming = Pace(), Pace(), Pace()
        self._detector = detector
        self._handlers = handlers
        self._runner = runner
        self._agenda = agenda
        self._suspects = suspects
        self._bell = bell
        self._admission = admission
        self._backlog = backlog
        self._firing = firing
        self.on_drain: Callable[[], None] = lambda: None
        self.on_claimed: Callable[[Sequence[Deadline]], None] = lambda values: None
        self.purge_history: Callable[[sa.Connection], None] = lambda connection: None
        self._lingering: list[str] = []
        self._dead: list[str] = []  # by the last pass
        self._quiet = False  # it found next to nothing
        self._next_housekeeping = self._next_doubt = float("-inf")
        self._offset = 0
        self._neighbours = self._rank = 0
        self._counted = 0
        self._doubt_until = float("-inf")
        self._looks = False  # for own claims, in this pass
        self._missing: dict[str, float] = {}
        self._moves = 0

    @property
    def fleet_size(self) -> int:
        """Living engines, this one among them; 0 before the first pass. By the last
        pass, or, of a fleet larger than one pass reads, by the last housekeeping."""
        return max(self._neighbours, self._counted)

    @property
    def herd_seconds(self) -> float:
        """Over how many seconds a herd of this size should spread what all of it is
        woken for."""
        return min(0.2, 0.002 * self._neighbours)

    def configure(self, settings: Settings) -> None:
        """Go on with other settings."""
        self.settings = self._detector.settings = self.duty.settings = settings

    @property
    def horizon(self) -> float:
        """Seconds for which own deadlines are read ahead, and put on the agenda when
        they are armed: until after the next sweep, however late it is."""
        return self.duty.interval * 1.5

    def doubt(self) -> None:
        """An answer may have been lost, or something is not visible yet: for a lease,
        look at everything, and for claims that this engine made without knowing it.
        (The server may commit them late.)"""
        self._doubt_until = self._clock.monotonic() + self.settings.ttl

    @property
    def _grace(self) -> float:
        """Seconds of head start of an owner on its own expired deadlines."""
        return self.settings.expired_grace + self.settings.max_clock_skew

    @property
    def _page(self) -> int:
        return max(PAGE, self.settings.batch_size)

    def _own_page(self, connection: sa.Connection) -> int:
        """The fewer are read ahead, the sooner more than those are claimed from the
        head of their line, if that can be."""
        if self._may_open(Line.OWN, connection):
            return self._page
        return max(OWN_PAGE, self.settings.batch_size)

    def run_pass(self, connection: sa.Connection) -> Counts:
        """One pass. Afterwards what it found, within its bounds, is fenced, owned,
        running or parked; the counts say how much. Claims nothing while suspended."""
        counts = Counts()
        self.duty.begin(self.fleet_size)
        ahead = self.duty.interval
        self._look_for_own()
        quiet, self._quiet = self._quiet and self._trust.good, False
        asked = self._question(connection, self._dead) if quiet else None
        seen = self._observe(connection, asked)
        self._marks.look(seen.now)
        self.duty.look(seen.engines, seen.now)
        self._dead = dead = self._judge(connection, seen.engines, counts)
        counts.rest = self.settings.sweep_interval  # if nothing is read ahead
        if self._trust.good:
            self._admission.begin_pass()
            self._walks.keep(dead)
            question = self._question(connection, dead)
            found = seen.found
            if found is None or question != asked:  # of others, or otherwise
                found = self._finder.find(connection, question)
            self._marks.note(question.scope, found, self.settings.database_timeout)
            self._quiet = found.rows <= FEW
            self._note_page(connection, found.own, counts)
            self._hold_lost(connection, found.held)
            self._take_page(connection, found.orphans, counts)
            self._walk(connection, question.scope, counts)
            self._claim_overdue(connection, found.overdue, counts)
            self._admission.end_pass()
            if not (question.scope.fresh_only or self._doubts):
                counts.rest = min(ahead, self.duty.interval)
        return counts

    # --- who is dead ----------------------------------------------------------

    def _observe(
        self, connection: sa.Connection, question: Question | None
    ) -> Observation:
        """Read the engines, and with them what the ``question`` finds."""
        asked = self._clock.monotonic()
        seen = self._detector.observe(connection, question)
        # What the server took came after it had said its time.
        answered = max(asked, self._clock.monotonic() - seen.took)
        self.skew.reading(
            seen.now,
            asked,
            answered,
            self.settings.max_clock_skew,
            self.settings.ttl,
        )
        return seen

    def _judge(
        self, connection: sa.Connection, engines: Sequence[Engine], counts: Counts
    ) -> list[str]:
        """Fence those of the ``engines`` that are dead; return the ids of all dead."""
        for engine in engines:
            if engine.id == self._me and engine.state == EngineState.DRAINING:
                self.on_drain()  # an engine that drains by itself sweeps no more
        fenced = self._detector.fence_the_dead(connection, engines)
        counts.fenced = len(fenced)
        counts.again_by = self._detector.look_again_by
        gone = [engine.id for engine in fenced]
        living = [e for e in engines if e.alive and e.id not in gone]
        self._neighbours = len(living)
        self._rank = self._place_among([engine.id for engine in living])
        self._bell.watch(living)
        self._keep_house(connection, counts)
        self.duty.on |= bool(self._missing)
        dead = gone + [e.id for e in engines if not e.alive] + self._lingering
        return [engine_id for engine_id in dict.fromkeys(dead) if engine_id != self._me]

    def _place_among(self, living: list[str]) -> int:
        """A number that no other survivor has, where all see the same ones."""
        if len(living) > WINDOW or self._me not in living:
            return random.randrange(len(living) or 1)
        return sorted(living).index(self._me)

    def _keep_house(self, connection: sa.Connection, counts: Counts) -> None:
        """Once a lease, less often in a larger fleet: who owns something without being
        alive in any reading (its row is missing, or it died long ago), and which rows
        can go."""
        now = self._clock.monotonic()
        whole = self._neighbours <= WINDOW
        if whole:  # also where it was a large one before
            latest = now + 1.2 * self._house_pause(self._neighbours)
            self._next_housekeeping = min(self._next_housekeeping, latest)
        if now < self._next_housekeeping:
            return
        self._counted = 0 if whole else self._engines.count_alive(connection)
        owners = self._engines.owners_not_alive(connection, LINGERING)
        self._lingering = self._gone_for_good(owners, now)
        if self._trust.good:
            counts.purged = self._engines.purge(
                connection, self.settings.engine_retention, self.settings.batch_size
            )
            self.purge_history(connection)
        pause = self._house_pause(self.fleet_size)
        if self._missing:
            pause = self.settings.ttl / 4  # is it missing for a whole lease?
        self._next_housekeeping = now + pause * random.uniform(0.8, 1.2)

    def _house_pause(self, fleet: int) -> float:
        """Seconds between two housekeepings of one engine in a fleet of that size."""
        leases = min(max(1.0, fleet / HOUSEKEEPERS), LONGEST)
        return self.settings.ttl * leases

    def _look_for_own(self) -> None:
        """Once a lease, also for claims of which no error told: see :meth:`doubt`."""
        now = self._clock.monotonic()
        self._looks = now + self.duty.interval >= self._next_doubt
        if self._looks:
            self._next_doubt = now + self.settings.ttl * random.uniform(0.8, 1.2)

    @property
    def _doubts(self) -> bool:
        return self._clock.monotonic() < self._doubt_until

    def _gone_for_good(self, owners: dict[str, bool], now: float) -> list[str]:
        """Of ``owners``: those that ended, and those that were missing for a whole
        lease in one database. (A failover may lose the registration of an engine that
        trusts itself until its next beat.)"""
        if self._moves != self._detector.moves:
            self._missing, self._moves = {}, self._detector.moves
        missing = [owner for owner, has_row in owners.items() if not has_row]
        self._missing = {owner: self._missing.get(owner, now) for owner in missing}
        wait = self.settings.ttl * (1 + self.settings.clock_drift)
        gone = [o for o, since in self._missing.items() if now - since >= wait]
        return gone + [owner for owner, has_row in owners.items() if has_row]

    # --- what is there to do --------------------------------------------------

    def _question(self, connection: sa.Connection, dead: Iterable[str]) -> Question:
        """What is to be found as things are; if these are the dead."""
        some = [owner for owner in dead if owner not in self._walks]
        scope = self._scope(connection)
        since = self._marks.since(scope)
        return self._finder.question(scope, some, self._offset, since)

    def _scope(self, connection: sa.Connection) -> Scope:
        settings = self.settings
        return Scope(
            horizon=self.horizon,
            grace=self._grace,
            kinds=tuple(self._handlers),
            unknown_grace=settings.unknown_kind_grace,
            limit=self._page,
            own_limit=self._own_page(connection),
            fresh_only=self._admission.suspect_held,
            foreign_due=self.skew.steady,
            held=self._admission.unknown or self._looks or self._doubts,
        )

    def _hold_lost(self, connection: sa.Connection, held: Iterable[Deadline]) -> None:
        """Claims of this engine whose answers were lost: nobody else will run them."""
        lost = [value for value in held if not self._runner.has(value.id)]
        chosen = self._admission.admit(lost, claimed=True)
        with self._admission.claiming():
            self._runner.run(self._claims.adopt_lost(connection, self._me, chosen))
        self._admission.unknown = len(chosen) < len(lost)

    def _take_page(
        self, connection: sa.Connection, orphans: list[Deadline], counts: Counts
    ) -> None:
        """A page of orphans, whoever had them. If one had many, they are walked; if
        they are nobody's, the loop claims them from the head of their line."""
        self._backlog.nobodys = self._are_a_line(connection, orphans)
        if self._backlog.nobodys:
            self._offset = 0
            return
        taken = self._take_over(connection, orphans, counts)
        worth = self._vain < VAIN and len(orphans) >= self._page
        if worth and self._walks.begin(taken.wanted, self._page):
            self._offset, counts.more = 0, True
        else:
            self._turn_page(len(orphans), taken, counts)

    def _are_a_line(
        self, connection: sa.Connection, orphans: Sequence[Deadline]
    ) -> bool:
        return (
            len(orphans) >= self._page
            and self._may_open(Line.NOBODYS, connection)
            and all(
                value.owner_id is None and value.expired and self._is_plain(value)
                for value in orphans
            )
        )

    def _is_plain(self, value: Deadline) -> bool:
        """It can be claimed together with others, and needs no look before."""
        known = value.kind in self._handlers
        fresh = not value.attempts and value.max_attempts > 1
        return fresh and not hopeless(value, known)

    def _may_open(self, line: Line, connection: sa.Connection) -> bool:
        limit = self.settings.batch_size
        return self._backlog.may_open(line, connection.dialect, limit)

    def _note_page(
        self, connection: sa.Connection, own: Sequence[Deadline], counts: Counts
    ) -> None:
        """Own deadlines go on the agenda. If they fill the page, more may be due after
        those; if all of them are due, the loop claims these as well from the head of
        their line."""
        full = len(own) >= self._own_page(connection)
        line = full and self._may_open(Line.OWN, connection)
        if line and all(value.due and self._is_plain(value) for value in own):
            self._backlog.own_from = self._clock.monotonic()
            return
        self._note_own(own)
        if full:
            more = self.skew.monotonic(own[-1].due_at)
            if line:
                self._backlog.own_from = more
            else:
                counts.again_by = min(counts.again_by, more)

    def _walk(self, connection: sa.Connection, scope: Scope, counts: Counts) -> None:
        """A page of an engine that had many, or several small ones. (When that ends,
        the rest is looked for at once, as everything else is.)"""
        counts.more |= bool(self._walks)
        left = walks.PAGE
        while left > 0 and self._walks:
            self._firing.fire_due(connection)
            rows = self._walking.rows(self._firing.free_for(), left)
            began = self._clock.monotonic()
            orphans = self._walks.next_page(
                connection, scope, self._rank, max(self._neighbours, 1), rows
            )
            if not orphans:
                break
            taken = self._take_over(connection, orphans, counts)
            self._walking.took(len(orphans), self._clock.monotonic() - began)
            vain = self._vain >= VAIN
            self._walks.taken(orphans, len(taken.wanted), len(taken.adopted), vain)
            left = left - rows if len(taken.adopted) == rows else 0

    def _take_over(
        self, connection: sa.Connection, orphans: list[Deadline], counts: Counts
    ) -> Taken:
        plans: dict[Plan, list[Deadline]] = {plan: [] for plan in Plan}
        for value in orphans:
            plans[self._plan(value)].append(value)
        taken = Taken(plans[Plan.ADOPT], [], [], [])
        for part in self._parts(connection, self._adopting, taken.wanted):
            adopted = self._claims.adopt_orphans(connection, self._me, part)
            self._note_own(adopted)
            taken.adopted.extend(adopted)
        anywhere = self._from_anywhere(plans[Plan.CLAIM])
        for part in self._parts(connection, self._claiming, anywhere):
            chosen = self._admission.admit(part)
            with self._admission.claiming():
                claimed = self._claims.claim_orphans(connection, self._me, chosen)
                self._runner.run(claimed)
            self.on_claimed([value for value in claimed if value.expired])
            taken.chosen.extend(chosen)
            taken.claimed.extend(claimed)
        self._park(connection, plans[Plan.PARK], None, counts)
        expired = sum(value.expired for value in taken.claimed)
        counts.adopted += len(taken.adopted)
        counts.expired += expired
        counts.retriggered += len(taken.claimed) - expired
        if taken.tried and not taken.rows:
            self._vain += 1
        elif taken.rows or not self._walks:
            self._vain = 0
        return taken

    def _parts(
        self, connection: sa.Connection, pace: Pace, values: Sequence[Deadline]
    ) -> Iterator[Sequence[Deadline]]:
        """All of ``values``, as many at once as keep no own deadline waiting for long;
        those that are due are fired in between."""
        while values:
            self._firing.fire_due(connection)
            rows = pace.rows(self._firing.free_for(), len(values))
            began = self._clock.monotonic()
            yield values[:rows]
            pace.took(rows, self._clock.monotonic() - began)
            values = values[rows:]

    def _from_anywhere(self, orphans: list[Deadline]) -> list[Deadline]:
        """Where others look at the same page, not all of them begin at its head: on
        Galera, where they do not see each other's locks, all but one would be in
        vain."""
        start = (
            random.randrange(len(orphans)) if self._neighbours > 1 and orphans else 0
        )
        return orphans[start:] + orphans[:start]

    def _claim_overdue(
        self, connection: sa.Connection, overdue: list[Deadline], counts: Counts
    ) -> None:
        plans: dict[bool, list[Deadline]] = {True: [], False: []}
        for value in overdue:
            plans[self._plan(value) is Plan.PARK].append(value)
        grace, expired = self._grace, 0
        for part in self._parts(connection, self._claiming, plans[False]):
            usable = self._admission.admit(part)
            with self._admission.claiming():
                claimed = self._claims.claim_overdue(
                    connection, self._me, usable, grace
                )
                self._runner.run(claimed)
            self.on_claimed(claimed)
            expired += len(claimed)
        self._park(connection, plans[True], grace, counts)
        counts.expired += expired
        counts.more |= bool(expired) and len(overdue) == self._page

    def _plan(self, value: Deadline) -> Plan:
        handler = self._handlers.get(value.kind)
        if hopeless(value, handler is not None):
            return Plan.PARK
        if value.expired:
            return Plan.CLAIM
        if handler.when_orphaned == WhenOrphaned.RETRIGGER:  # type: ignore[union-attr]
            return Plan.CLAIM
        if value.state == DeadlineState.CLAIMED:
            # Claimed when it was due by another clock; by this one it is not yet.
            return Plan.WAIT
        if handler.when_orphaned == WhenOrphaned.PARK:  # type: ignore[union-attr]
            return Plan.CLAIM if value.due else Plan.PARK  # due: the operator said so
        return Plan.ADOPT

    def _turn_page(self, found: int, taken: Taken, counts: Counts) -> None:
        """Where the next page starts: not where the other survivors start, who see the
        same first one; and past a page of which nothing could be taken. One that others
        were quicker to take is no reason to wait, a few times."""
        page = self._page
        full = found >= page
        late = taken.tried and self._vain < VAIN
        counts.more |= (full and (taken.rows > 0 or late)) or (
            not found and self._offset > 0
        )
        if not full:
            self._offset = 0
        elif not taken.rows:
            self._offset += page
        else:
            self._offset = random.randrange(min(self._neighbours, 8) or 1) * page

    # --- what follows from it ---------------------------------------------------

    def _park(
        self,
        connection: sa.Connection,
        values: Iterable[Deadline],
        grace: float | None,
        counts: Counts,
    ) -> None:
        for value in values:
            known = value.kind in self._handlers
            reason = hopeless(value, known) or "its owner died (its kind says: park)"
            counts.parked += self._firing.park(connection, value, reason, grace)

    def _note_own(self, own: Iterable[Deadline]) -> None:
        """Put what is due before the next sweep on the agenda."""
        soon = self._clock.monotonic() + self.horizon
        latest = self.skew.moment(soon)
        entries = [
            Entry(self.skew.monotonic(value.due_at), value)
            for value in own
            if value.due_at <= latest
        ]
        self._agenda.add(e for e in entries if not e.value.attempts)
        self._suspects.add(e for e in entries if e.value.attempts)
