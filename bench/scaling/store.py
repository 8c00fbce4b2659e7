"""The tables, in memory: the store's methods as the engines call them, each of which
takes the time that the servers take for it and then does what its SQL does."""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from oslo_db import exception as db_exc

from bench.scaling.costs import Cost, Costs
from bench.scaling.hub import Hub
from bench.scaling.server import Database
from liveness.db.engines import Observation
from liveness.db.finding import FIRST, Found, Place, Question, Scope, Since
from liveness.model import Deadline, DeadlineState, Engine, EngineState

START = datetime(2030, 1, 1, tzinfo=UTC)
KIND = "noop"
AHEAD = 20.0
"""Seconds for which rows exist before they are due; all others are only counted. More
than any engine reads ahead: 1.5 sweeps, of 10 s at most here."""


class Connection:
    """One engine's connection: to which node it goes."""

    invalidated = False
    dialect: Any = None  # nothing is claimed from the head of a line

    def __init__(self, node: int) -> None:
        self.node = node
        self.connection = self
        self.dbapi_connection = object()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        """It stays open."""

    def connect(self) -> Connection:
        """A pool of one."""
        return self

    def invalidate(self) -> None:
        self.dbapi_connection = object()

    def close(self) -> None:
        """It stays open."""


@dataclasses.dataclass
class Seen:
    """What was measured; times in seconds."""

    beats: list[float] = dataclasses.field(default_factory=list)
    lateness: list[float] = dataclasses.field(default_factory=list)
    fenced: dict[str, float] = dataclasses.field(default_factory=dict)
    adopted: int = 0
    last_adopted: float = 0.0
    handled: int = 0
    tried: int = 0
    lost: int = 0
    suspended: int = 0
    housekeeping: float = 0.0

    def clear(self) -> None:
        """Forget what was measured while the fleet warmed up."""
        self.__init__()  # type: ignore[misc]


class Tables:
    """The rows, and who asks for them."""

    def __init__(self, hub: Hub, database: Database, costs: Costs) -> None:
        self.hub = hub
        self.database = database
        self.costs = costs
        self.seen = Seen()
        self.engines: dict[str, Engine] = {}
        self.ring: list[str] = []
        self.ended: list[str] = []
        self.rows: dict[int, Deadline] = {}
        self.of_owner: dict[str, list[tuple[datetime, int]]] = {}
        self.due: list[tuple[datetime, int]] = []
        self._ids = itertools.count(1)
        self._calendar: list[tuple[float, str]] = []
        self._rates: dict[str, float] = {}
        self._locks: set[tuple[int, int]] = set()

    @property
    def now(self) -> datetime:
        """The database's UTC."""
        return START + timedelta(seconds=self.hub.now)

    # --- stock ------------------------------------------------------------------

    def stock(self, owner: str, count: int, seconds: float) -> None:
        """``owner`` has so many armed deadlines, due at random within so long, and arms
        a new one for each that is done."""
        if count:
            self._rates[owner] = count / seconds
            self._arrive(owner, self.hub.now)

    def fill(self) -> None:
        """Make the rows that are due before long."""
        while self._calendar and self._calendar[0][0] <= self.hub.now + AHEAD:
            at, owner = heapq.heappop(self._calendar)
            if owner in self._rates:
                self.arm(owner, at)
                self._arrive(owner, at)

    def orphan(self, owner: str, count: int, seconds: float) -> None:
        """``owner`` is killed: now everything that it has counts, row by row."""
        if self._rates.pop(owner, None) is not None:
            for _ in range(count):
                self.arm(owner, self.hub.now + AHEAD + random.uniform(0, seconds))

    def arm(self, owner: str, due: float) -> None:
        """A row due at that moment."""
        row_id, at = next(self._ids), START + timedelta(seconds=due)
        self._put(
            Deadline(
                id=row_id,
                kind=KIND,
                key=str(row_id),
                owner_id=owner,
                token=random.getrandbits(62),
                arm_token=0,
                epoch=0,
                state=DeadlineState.ARMED,
                due_at=at,
                expires_at=at,
                attempts=0,
                max_attempts=5,
                payload=None,
                last_error=None,
            )
        )

    def alive(self, owner: str | None) -> bool:
        engine = self.engines.get(owner or "")
        return engine is not None and engine.alive

    def take(self, value: Deadline, **changes: Any) -> Deadline:
        """Change a row, which gets a new token."""
        self.remove(value)
        taken = value._replace(token=random.getrandbits(62), **changes)
        self._put(taken)
        return taken

    def remove(self, value: Deadline) -> None:
        row = self.rows.pop(value.id)
        owned = self.of_owner[row.owner_id or ""]
        owned.pop(bisect.bisect_left(owned, (row.due_at, row.id)))

    def locked(self, node: int, what: str, found: Sequence[Deadline]) -> list[Deadline]:
        """One transaction that changes the rows that are as they were found, and that
        nobody else on that node has locked.

        :raises DBDeadlock: another node's transaction was certified first.
        """
        mine = [value for value in found if self._free(node, value)]
        self.seen.tried += len(found)
        self.seen.lost += len(found) - len(mine)
        locks = {(node, value.id) for value in mine}
        self._locks |= locks
        self.database.write(node, self.costs.of(what, len(found)))
        self._locks -= locks
        if all(self._same(value) for value in mine):
            return mine
        self.seen.lost += len(mine)
        raise db_exc.DBDeadlock

    def _free(self, node: int, value: Deadline) -> bool:
        return self._same(value) and (node, value.id) not in self._locks

    def _same(self, value: Deadline) -> bool:
        row = self.rows.get(value.id)
        return row is not None and row.token == value.token

    def _put(self, row: Deadline) -> None:
        self.rows[row.id] = row
        bisect.insort(
            self.of_owner.setdefault(row.owner_id or "", []), (row.due_at, row.id)
        )
        if row.state == DeadlineState.ARMED:
            heapq.heappush(self.due, (row.due_at, row.id))

    def _arrive(self, owner: str, after: float) -> None:
        gap = random.expovariate(self._rates[owner])
        heapq.heappush(self._calendar, (after + gap, owner))

    def overdue(self, before: datetime, limit: int) -> list[Deadline]:
        """Armed rows that were due before then, the longest due first."""
        while self.due and not self._is_due(*self.due[0]):
            heapq.heappop(self.due)
        if not self.due or self.due[0][0] > before:
            return []
        found: list[Deadline] = []
        for at, row_id in heapq.nsmallest(limit * 2, self.due):
            if at > before or len(found) == limit:
                break
            if self._is_due(at, row_id):
                found.append(self.rows[row_id])
        return found

    def _is_due(self, at: datetime, row_id: int) -> bool:
        row = self.rows.get(row_id)
        return row is not None and row.state == DeadlineState.ARMED and row.due_at == at


class SimulatedEngines:
    """In place of :class:`liveness.db.engines.Engines`."""

    def __init__(self, tables: Tables) -> None:
        self._t = tables

    def register(self, engine: Engine) -> None:
        self._t.engines[engine.id] = engine
        bisect.insort(self._t.ring, engine.id)

    def beat(
        self, connection: Any, me: str, token: int, sent: int, seq: int, ttl: float
    ) -> bool:
        t = self._t
        began = t.hub.now
        t.database.write(connection.node, t.costs.of("beat"))
        t.seen.beats.append(t.hub.now - began)
        row = t.engines[me]
        if not row.alive:
            return False
        t.engines[me] = dataclasses.replace(row, beat_seq=seq, beat_at=t.now, ttl=ttl)
        return True

    def observe(
        self, connection: Any, me: str, window: int, question: Question | None = None
    ) -> Observation:
        """With a ``question`` it costs as much as the two statements would."""
        t, found = self._t, None
        at = bisect.bisect_left(t.ring, me)
        # Those that follow in the ring, and the first ones of it for the last of it.
        read = min(window + 1, len(t.ring) - at) + min(window, at) + len(t.ended)
        cost = t.costs.of("observe", read)
        if question is not None:
            finder: Any = question.finder
            found, more = finder.look(question.scope, question.dead, question.offset)
            cost = Cost(cost.seconds + more.seconds, cost.bytes + more.bytes)
        t.database.read(connection.node, cost)
        at = bisect.bisect_left(t.ring, me)
        ids = t.ring[at : at + window + 1]
        if len(ids) < window + 1:
            ids += t.ring[: min(at, window + 1 - len(ids))]
        seen = [t.engines[each] for each in (*ids, *t.ended)]
        return Observation(f"node {connection.node}", t.now, tuple(seen), found)

    def fence(self, connection: Any, victim: Engine, by: str | None, why: str) -> bool:
        t = self._t
        t.database.write(connection.node, t.costs.of("fence"))
        row = t.engines[victim.id]
        if not row.alive or row.beat_seq != victim.beat_seq:
            return False
        t.engines[victim.id] = dataclasses.replace(
            row, state=EngineState.FENCED, ended_at=t.now, fenced_by=by
        )
        t.ring.remove(victim.id)
        t.ended.insert(0, victim.id)
        del t.ended[100:]
        t.seen.fenced[victim.id] = t.hub.now
        return True

    def count_alive(self, connection: Any) -> int:
        t = self._t
        rows = len(t.ring) + len(t.ended)
        t.database.read(connection.node, t.costs.of("look", rows, "count_row"))
        return len(t.ring)

    def owners_not_alive(self, connection: Any, limit: int) -> dict[str, bool]:
        t = self._t
        cost = t.costs.of("look", len(t.ring), "owners_row")
        t.database.read(connection.node, cost)
        t.seen.housekeeping += cost.seconds
        gone = (o for o, rows in t.of_owner.items() if rows and not t.alive(o))
        return dict.fromkeys(itertools.islice(gone, limit), True)

    def purge(self, connection: Any, older_than: float, limit: int) -> int:
        self._t.database.read(connection.node, self._t.costs.of("look"))
        return 0

    def get(self, connection: Any, engine_id: str) -> Engine | None:
        self._t.database.read(connection.node, self._t.costs.of("look"))
        return self._t.engines.get(engine_id)


class SimulatedFinder:
    """In place of :class:`liveness.db.finding.Finder`. Marks mean nothing to it: there
    are no entries of what is gone, and nothing comes with an old due time."""

    def __init__(self, tables: Tables, me: str) -> None:
        self._t = tables
        self._me = me

    def find(self, connection: Any, question: Question) -> Found:
        found, cost = self.look(question.scope, question.dead, question.offset)
        self._t.database.read(connection.node, cost)
        return found

    def look(
        self, scope: Scope, dead: Sequence[str], offset: int
    ) -> tuple[Found, Cost]:
        """What there is to find now, and what it costs."""
        found = self._find(scope, dead, offset)
        return found, self._t.costs.of("find", found.rows + offset)

    def question(
        self, scope: Scope, dead: Iterable[str], offset: int, since: Since | None
    ) -> Question:
        finder: Any = self
        return Question(scope, tuple(sorted(dead)), offset, since, finder)

    def orphans_of(
        self, connection: Any, scope: Scope, owner: str, after: Place, limit: int
    ) -> list[Deadline]:
        t = self._t
        following = (each for each in t.of_owner.get(owner, ()) if each > after)
        page = [
            self._value(row_id, t.now, True)
            for _, row_id in itertools.islice(following, limit)
        ]
        t.database.read(connection.node, t.costs.of("find", len(page)))
        return page

    def count_armed(self, connection: Any, owner: str, most: int) -> int:
        t = self._t
        t.database.read(connection.node, t.costs.of("find", 0))
        return min(most, len(t.of_owner.get(owner, ())))

    def place_after(self, connection: Any, owner: str, skipped: int) -> Place:
        t = self._t
        t.database.read(connection.node, t.costs.of("find", 0))
        before = [FIRST, *itertools.islice(t.of_owner.get(owner, ()), skipped)]
        return Place(*before[-1])

    def _find(self, scope: Scope, dead: Sequence[str], offset: int) -> Found:
        t = self._t
        now = t.now
        soon = now + timedelta(seconds=scope.horizon)
        own = []
        for at, row_id in t.of_owner.get(self._me, ()):
            if at > soon or len(own) == scope.own_limit:
                break
            if t.rows[row_id].state == DeadlineState.ARMED:
                own.append(self._value(row_id, now, False))
        orphaned = (each for owner in dead for each in t.of_owner.get(owner, ()))
        page = itertools.islice(orphaned, offset, offset + scope.limit)
        orphans = [self._value(row_id, now, True) for _, row_id in page]
        late: list[Deadline] = []
        late_from = None
        if scope.foreign_due:
            before = now - timedelta(seconds=scope.grace)
            rows = t.overdue(before, scope.limit)
            late = [
                self._value(r.id, now, False) for r in rows if r.owner_id != self._me
            ]
            late_from = min((r.due_at for r in rows), default=None)
        return Found(own, [], orphans, late, late_from)

    def _value(self, row_id: int, now: datetime, orphaned: bool) -> Deadline:
        row = self._t.rows[row_id]
        due = row.due_at <= now
        return row._replace(orphaned=orphaned, expired=row.expires_at <= now, due=due)


class SimulatedClaims:
    """In place of :class:`liveness.db.claims.Claims`."""

    def __init__(self, tables: Tables) -> None:
        self._t = tables

    def claim_own(
        self, connection: Any, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        return self._claim(connection, me, found)

    def chain(
        self, connection: Any, me: str, done: Any, again: bool, found: Any
    ) -> tuple[set[int], list[Deadline]]:
        # As dear as the two are apart: what one commit saves is not calibrated.
        stale = SimulatedDeadlines(self._t).complete(connection, done, again)
        return stale, self._claim(connection, me, found)

    def claim_overdue(
        self, connection: Any, me: str, found: Sequence[Deadline], grace: float
    ) -> list[Deadline]:
        return self._claim(connection, me, found)

    def claim_orphans(
        self, connection: Any, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        return self._claim(connection, me, found)

    def adopt_lost(
        self, connection: Any, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        return []

    def park(self, *args: Any) -> bool:
        raise AssertionError("nothing fails here")

    def adopt_orphans(
        self, connection: Any, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        t = self._t
        if not found:
            return []
        taken = [
            t.take(value, owner_id=me, epoch=value.epoch + 1)
            for value in t.locked(connection.node, "adopt", found)
            if not t.alive(value.owner_id)
        ]
        t.seen.adopted += len(taken)
        t.seen.last_adopted = t.hub.now
        return taken

    def _claim(
        self, connection: Any, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        t = self._t
        if not found:
            return []
        locked = t.locked(connection.node, "claim", found)
        now = t.now
        taken = []
        for value in locked:
            if value.due_at <= now:
                taken.append(
                    t.take(
                        value,
                        owner_id=me,
                        state=DeadlineState.CLAIMED,
                        epoch=value.epoch + 1,
                        attempts=value.attempts + 1,
                    )
                )
                t.seen.lateness.append((now - value.due_at).total_seconds())
        return taken


class SimulatedDeadlines:
    """In place of :class:`liveness.db.deadlines.Deadlines`."""

    def __init__(self, tables: Tables) -> None:
        self._t = tables

    def complete(
        self, connection: Any, values: Iterable[Deadline], again: bool
    ) -> set[int]:
        t = self._t
        values = list(values)
        t.database.write(connection.node, t.costs.of("complete", len(values)))
        stale = set()
        for value in values:
            row = t.rows.get(value.id)
            if row is None or row.token != value.token:
                stale.add(value.id)
                continue
            t.remove(row)
            t.seen.handled += 1
        return stale
