"""Mutants: bugs planted in an engine, to see that the judge would find them.

Each takes one guard of the product out, in the worker's process, from outside; with it
goes a profile of faults in which the lack of that guard shows, and what it shows as.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from liveness import exceptions
from liveness.admission import Admission
from liveness.clock import Clock
from liveness.db import claims, completion, deadlines, finding, tables
from liveness.db.connection import Database
from liveness.db.engines import Engines
from liveness.db.heads import Heads
from liveness.db.rows import among, looked_at
from liveness.detector import Detector, Run
from liveness.heart import Heart
from liveness.model import ALIVE, DeadlineState, EngineState
from liveness.owner import Owner
from liveness.running import Running
from liveness.sweep import Sweep
from liveness.trust import Trust
from tests.chaos import names
from tests.chaos.journal import NOW
from tests.chaos.profile import Profile

D, E = tables.deadline, tables.engine

Rule = tuple[int, str]

LIVE_VICTIM = (4, "no live victim")
SAVED_BY_A_BEAT = (4, "a beat saves from the fence")
READS_ALONE = (4, "reads alone prove nothing")
LEASE = (5, "the lease is the limit")
DEAD = (5, "the dead do nothing")
SECOND_LIFE = (5, "no second life")
LEFT_OVER = (1, "nothing is left over")
VANISHED = (1, "no row vanishes")
OVERWRITTEN = (1, "no arm overwrites")
EARLY = (2, "no claim is early")
ASKED_FOR = (3, "a claim is asked for")
ONE_AT_WORK = (3, "one at work")
UNCLAIMED = (3, "no call without a claim")
OWNERS = (3, "a claim is its owner's")
COUNTS = (6, "what is told counts")
ATTEMPTS = (7, "attempts count at the claim")
FRESH = (7, "a head is fresh")
INNOCENT = (7, "no innocent is parked")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """``plant()`` takes the guard out; one of ``shows`` has to be found then, in so
    many ``seconds`` of the profile's faults and at most ``settled`` of quiet."""

    plant: Callable[[], None]
    shows: frozenset[Rule]
    profile: Profile
    seconds: float = 15.0
    settled: float = 8.0
    engines: int = 3
    databases: tuple[str, ...] = ("mariadb", "postgresql")


MUTANTS: dict[str, Mutant] = {}

ELSEWHERE = {
    "no look again at an owner under the lock": (
        "needs a failover that loses a fence",
        "test_found_dead_but_the_fence_was_lost_by_a_failover, M_NO_SECOND_LOOK",
    ),
    "a missing owner is taken for alive": (
        "its deadlines are handled when they are due; only sooner is better",
        "test_an_owner_whose_row_went_long_ago_is_found_by_housekeeping,"
        " M_MISSING_IS_ALIVE",
    ),
    "an engine that owns rows is purged": (
        "the guard behind it, missing owners, makes good for it",
        "test_an_engine_that_still_owns_rows_is_never_purged",
    ),
    "an engine holds again what it holds": (
        "the guard behind it, the new token, stops the first run at its next question",
        "test_a_claim_whose_answer_was_lost_is_held_by_the_next_sweep,"
        " M_ADOPTS_WHAT_IT_HOLDS",
    ),
    "silence is counted from the question": (
        "takes a late question, a beat while it is late, and none ever after",
        "test_the_first_reading_counts_from_after_its_answer, M_RUN_FROM_SEND",
    ),
    "a row id is given out twice": (
        "takes a database without AUTOINCREMENT",
        "test_row_ids_are_never_given_out_twice",
    ),
}
"""Bugs that chaos does not show in reasonable time: why, and what does show them."""


class NotPlanted(Exception):
    """The mutant replaces what the product does not have: it would be no mutant."""


def plant(name: str | None) -> None:
    """In this process the product has that bug from now on; None: none.

    :raises NotPlanted: it replaces a name that is not there (any more), or none.
    """
    if name is None:
        return
    before = names.now()
    MUTANTS[name].plant()
    changed, added = names.differences(before)
    if added:
        raise NotPlanted(f"{name}: the product has no {', '.join(added)}")
    if not changed:
        raise NotPlanted(f"{name}: nothing in the product is replaced")


def try_out(name: str) -> None:
    """Plant it and take it out again.

    :raises NotPlanted: see :func:`plant`.
    """
    before = names.now()
    try:
        plant(name)
    finally:
        names.restore(before)


def mutant(
    *shows: Rule, **rest: Any
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(function: Callable[[], None]) -> Callable[[], None]:
        profile = {
            field.name: rest.pop(field.name)
            for field in dataclasses.fields(Profile)
            if field.name in rest
        }
        profile.setdefault("only", True)
        profile.setdefault("machines", (0, 1, 2, 3))
        name = function.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(function, frozenset(shows), Profile(**profile), **rest)
        return function

    return register


STOPS: dict[str, Any] = {
    "weights": {"stop long": 1.0},
    "slots": {"stop long": (0,)},
    "lengths": {"stop long": (1.6, 2.4)},
    "taste": {"misbehaving": 0.0},
    "rate": 4.0,
}
"""The others are there to fence it."""

AHEAD: dict[str, Any] = {
    "weights": {"clock ahead": 1.0},
    "slots": {"clock ahead": (0,)},
    "taste": {"misbehaving": 0.0},
}

LATE_FENCES: dict[str, Any] = {
    "weights": {"stop long": 1.0, "late fences": 1.0},
    "slots": {"stop long": (0,), "late fences": (1,)},
    "lengths": {"stop long": (1.4, 1.8), "late fences": (1.5, 3.0)},
    "pace": 0.4,
    "taste": {"misbehaving": 0.0},
    "rate": 4.0,
    "engines": 2,
    "seconds": 30.0,
}
"""The fence of the one that was stopped arrives when it has gone on."""

CALM = {"misbehaving": 0.0}
LONG = {"long": 0.7, "misbehaving": 0.0}


# --- life and death ---------------------------------------------------------------


@mutant(
    LEASE,
    weights={"slow, then stalled": 1.0},
    pace=0.6,
    taste={**CALM, "guards": 4, "long guards": 0.9},
    rate=4.0,
    seconds=20.0,
)
def trust_counted_from_the_answer() -> None:
    renew = Trust.renew

    def wrong(self: Trust, sent: float, answered: float, seconds: float) -> None:
        renew(self, answered, answered, seconds)

    Trust.renew = wrong  # type: ignore[method-assign]


def _fence(*where: Any) -> None:
    """Fences ask for no more than this of their victim."""

    def wrong(
        self: Engines, connection: sa.Connection, victim: Any, by: Any, evidence: str
    ) -> bool:
        statement = (
            sa.update(E)
            .where(E.c.id == victim.id, *where)
            .values(
                state=EngineState.FENCED,
                ended_at=self._now(),
                fenced_by=by,
                fence_evidence=evidence[:255],
            )
        )
        return connection.execute(statement).rowcount == 1

    Engines.fence = wrong  # type: ignore[method-assign]


@mutant(
    SAVED_BY_A_BEAT,
    LIVE_VICTIM,
    **LATE_FENCES,
)
def fence_without_the_beat_that_was_seen() -> None:
    _fence(E.c.state.in_(ALIVE))


@mutant(SECOND_LIFE, SAVED_BY_A_BEAT, LIVE_VICTIM, **LATE_FENCES)
def fence_unguarded() -> None:
    _fence()


@mutant(READS_ALONE, weights={"stop long": 1.0}, pace=0.5, taste=CALM, seconds=25.0)
def no_gap_breaks_an_observation() -> None:
    def continued(self: Detector, engine: Any, asked: float, answered: float) -> Run:
        run = self._runs.get(engine.id)
        if run is None or run.beat_seq != engine.beat_seq:
            return Run(engine.beat_seq, answered, asked)
        return Run(run.beat_seq, run.since, answered)

    Detector._continued = continued  # type: ignore[method-assign]
    Trust.steady_since = lambda self, gap: float("-inf")  # type: ignore[method-assign]


@mutant(SECOND_LIFE, **STOPS)
def beat_without_the_state() -> None:
    def wrong(self: Engines) -> Any:
        return (
            sa.update(E)
            .where(E.c.id == sa.bindparam("me"))
            .where(E.c.token == sa.bindparam("mine"))
            .where(E.c.beat_seq <= sa.bindparam("sent"))
            .values(
                beat_seq=sa.bindparam("seq"),
                beat_at=self._now(),
                ttl=sa.bindparam("lease"),
            )
        )

    Engines._beat_statement = wrong  # type: ignore[method-assign]


@mutant(DEAD, **STOPS)
def beat_without_its_row_count() -> None:
    beat = Engines.beat

    def wrong(self: Engines, *args: Any, **kwargs: Any) -> bool:
        beat(self, *args, **kwargs)
        return True

    Engines.beat = wrong  # type: ignore[method-assign]


@mutant(
    LIVE_VICTIM,
    weights={"lost answers: beats": 1.0},
    lengths={"lost answers: beats": (3.0, 4.0)},
    slots={"lost answers: beats": (0,)},
    pace=0.7,
    taste=CALM,
    rate=4.0,
    seconds=20.0,
)
def beat_number_repeated() -> None:
    failed, beat = Heart._failed, Engines.beat

    def again(self: Heart, error: Exception) -> None:
        failed(self, error)
        self._sent -= 1

    def same(
        self: Engines, own: Any, me: str, token: int, sent: int, seq: int, ttl: float
    ) -> bool:
        return beat(self, own, me, token, seq, seq, ttl)  # or else it is the end

    Heart._failed = again  # type: ignore[method-assign]
    Engines.beat = same  # type: ignore[method-assign]


@mutant(LIVE_VICTIM, **AHEAD)
def silence_by_the_time_of_day() -> None:
    def wrong(self: Detector, engine: Any) -> str | None:
        silent = (self._clock.host_now() - engine.beat_at).total_seconds()
        return f"silent for {silent:.1f} s" if silent > engine.ttl * 1.5 else None

    Detector._silence = wrong  # type: ignore[method-assign]


@mutant(
    LEASE,
    LIVE_VICTIM,
    weights={"clock slow": 2.0, "stall": 1.0},
    lengths={"clock slow": (3.0, 4.0), "stall": (1.5, 2.0)},
    slots={"clock slow": (0,), "stall": (0,)},
    pace=0.4,
    taste={**CALM, "long guards": 0.7},
    seconds=20.0,
)
def lease_by_the_time_of_day() -> None:
    Clock.monotonic = lambda self: time.time()  # type: ignore[method-assign]


# --- rows ---------------------------------------------------------------------------


@mutant(UNCLAIMED, ONE_AT_WORK, taste=LONG, seconds=8.0)
def claim_leaves_it_due() -> None:
    claims.CLAIMED["state"] = DeadlineState.ARMED


@mutant(
    OWNERS,
    ONE_AT_WORK,
    options={"expired_grace": 0.1, "max_clock_skew": 0.1},
    taste=LONG,
    seconds=15.0,
)
def claimed_is_due_at_a_timeout() -> None:
    both = (DeadlineState.ARMED, DeadlineState.CLAIMED)
    state = looked_at(D.c.state)
    claims.ARMED = sa.or_(*(state == each for each in both))  # type: ignore[assignment]
    part = finding.Finder._part

    def wrong(self: Any, why: Any, scope: Any, *where: Any, **rest: Any) -> Any:
        if why == finding.Why.OVERDUE:
            where = (D.c.state.in_(both), *where[1:])
        return part(self, why, scope, *where, **rest)

    finding.Finder._part = wrong  # type: ignore[method-assign]


@mutant(EARLY, **AHEAD)
def due_by_the_time_of_day_of_the_host() -> None:
    pool = Database.pool

    def rewritten(
        conn: Any, cursor: Any, text: str, values: Any, context: Any, many: bool
    ) -> Any:
        if D.name in text:
            now = f"TIMESTAMP '{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}'"
            text = text.replace(NOW[conn.dialect.name], now)
        return text, values

    def wrong(self: Database, size: int) -> sa.Engine:
        made = pool(self, size)
        sa.event.listen(made, "before_cursor_execute", rewritten, retval=True)
        return made

    Database.pool = wrong  # type: ignore[method-assign]


@mutant(
    LEFT_OVER,
    weights={"lost answers": 1.0},
    pace=0.4,
    taste=CALM,
    settled=28.0,
)
def claims_with_lost_answers_are_not_looked_for() -> None:
    def wrong(self: Sweep, connection: Any, held: Any) -> None:
        self._admission.unknown = False

    Sweep._hold_lost = wrong  # type: ignore[method-assign]


@mutant(VANISHED, COUNTS, taste={"misuse": 40, "extend": 30}, seconds=8.0)
def settled_without_the_token() -> None:
    deadlines.held = lambda value: sa.and_(  # type: ignore[attr-defined]
        D.c.id == value.id, looked_at(D.c.owner_id) == value.owner_id
    )
    completion.unchanged = lambda connection, one, of: (  # type: ignore[attr-defined]
        D.c.id == sa.bindparam(f"{of}id")
        if one
        else among(connection, D.c.id, f"{of}ids")
    )


@mutant(ONE_AT_WORK, weights={"drain": 1.0}, pace=0.8, taste=LONG)
def released_and_then_taken_from_its_thread() -> None:
    drain = Running._drain

    def wrong(self: Running, timeout: float) -> None:
        self._hand_back()
        drain(self, timeout)

    Running._drain = wrong  # type: ignore[method-assign]


@mutant(OVERWRITTEN, taste={"arm hot": 60, "due": 20.0}, seconds=8.0)
def arm_overwrites() -> None:
    arm = deadlines.Deadlines.arm

    def wrong(self: Any, connection: Any, new: Any, hosted: bool = False) -> Any:
        try:
            return arm(self, connection, new, hosted)
        except exceptions.AlreadyArmed:
            connection.execute(
                sa.update(D)
                .where(D.c.kind == new.kind, D.c.key == new.key)
                .values(owner_id=new.owner_id, token=new.token, arm_token=new.token)
            )
            return self.find(connection, new.kind, new.key)

    deadlines.Deadlines.arm = wrong  # type: ignore[method-assign]


@mutant(ONE_AT_WORK, taste=CALM, seconds=10.0)
def guard_is_not_told() -> None:
    Owner.given_to_handlers = lambda self, row_ids: None  # type: ignore[method-assign]
    Owner.is_due = lambda self, value: False  # type: ignore[method-assign]


@mutant(LEFT_OVER, weights={"kill": 1.0}, taste=LONG, settled=28.0, engines=4)
def takeover_is_an_event() -> None:
    observe = Engines.observe

    def wrong(self: Engines, *args: Any) -> Any:
        seen = observe(self, *args)
        living = tuple(engine for engine in seen.engines if engine.alive)
        return dataclasses.replace(seen, engines=living)

    Engines.observe = wrong  # type: ignore[method-assign]
    Engines.owners_not_alive = lambda *args: {}  # type: ignore[method-assign]


# --- heads of lines -------------------------------------------------------------------

LINES: dict[str, Any] = {
    "taste": {**CALM, "leave": 80},
    "rate": 6.0,
    "engines": 4,
    "seconds": 12.0,
}


def _head(change: Callable[[Any], None]) -> None:
    """What is claimed from a head is searched for by a statement that was changed."""
    head = Heads._head

    def wrong(self: Heads, *args: Any) -> Any:
        statement = head(self, *args)._generate()
        change(statement)
        return statement

    Heads._head = wrong  # type: ignore[method-assign]


def _head_without(*names: str) -> None:
    """Claims from a head do not look at these columns."""

    def looks(clause: Any) -> bool:
        parts = sa.sql.visitors.iterate(clause)
        return any(isinstance(p, sa.Column) and p.name in names for p in parts)

    def change(statement: Any) -> None:
        kept = (each for each in statement._where_criteria if not looks(each))
        statement._where_criteria = tuple(kept)

    _head(change)


@mutant(
    ASKED_FOR,
    **LINES,
)
def head_without_the_state() -> None:
    _head_without("state")


@mutant(EARLY, **LINES)
def head_without_the_times() -> None:
    _head_without("due_at", "expires_at")


@mutant(
    FRESH,
    **{
        **LINES,
        "taste": {"leave": 80, "misbehaving": 0.5, "misbehaviour": {"release": 60}},
    },
)
def head_without_the_attempts() -> None:
    _head_without("attempts")


@mutant(OWNERS, ONE_AT_WORK, ATTEMPTS, ASKED_FOR, **{**LINES, "rate": 12.0})
def head_without_the_lock() -> None:
    def change(statement: Any) -> None:
        statement._for_update_arg = None

    _head(change)


@mutant(COUNTS, UNCLAIMED, **LINES)
def head_keeps_the_token() -> None:
    write = Heads._write

    def wrong(self: Heads, ask: Any) -> Any:
        statement = write(self, ask)._generate()
        values = statement._values.items()
        statement._values = {name: value for name, value in values if name != "token"}
        return statement

    Heads._write = wrong  # type: ignore[method-assign]


# --- attempts -----------------------------------------------------------------------


@mutant(ATTEMPTS, seconds=5.0)
def attempts_counted_at_the_end() -> None:
    claims.CLAIMED["attempts"] = D.c.attempts


@mutant(
    INNOCENT,
    taste={"misbehaving": 0.3, "misbehaviour": {"die": 60}, "long": 0.6},
    seconds=25.0,
    engines=4,
)
def last_attempts_in_company() -> None:
    def wrong(self: Admission, values: Any, claimed: bool = False) -> list[Any]:
        return list(values)[: max(self._runner.room, 0)]

    Admission.admit = wrong  # type: ignore[method-assign]
    Admission.suspect_held = property(lambda self: False)  # type: ignore[assignment]
