"""Growth: does any of it cost more with more rows in the table?

Arming, a batch claimed and settled of a backlog that has been due for a minute, and an
engine at rest; with few and many armed rows, beside many parked ones, and while
somebody keeps an old snapshot open. The floor of each is the same with the fewest rows
(without the snapshot), in the same round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa

from bench import machine, raw, rows
from bench.context import Context
from bench.driven import Herd
from bench.rounds import Row, interleave, row
from bench.servers import Place
from liveness.db.finding import Scope
from liveness.db.heads import Ask, Heads, Line
from liveness.model import Deadline

BATCH = 200


@dataclasses.dataclass(frozen=True)
class Size:
    rounds: int
    armed: tuple[int, ...]
    parked: int
    arms: int
    batches: int


SIZES = {
    "quick": Size(2, (1000, 10_000), 2000, 20, 3),
    "full": Size(15, (1000, 10_000, 100_000, 1_000_000), 100_000, 200, 10),
}

WHATS = ("arming", "a batch of 200", "at rest")

Work = Callable[[], None]
Three = dict[str, float]


class Subject:
    """One engine, driven by hand, and the three things it does."""

    def __init__(self, place: Place, armed: int) -> None:
        rows.clear(place)
        self.place = place
        self._herd = Herd(place, ["engine-of-growth"], batch_size=BATCH)
        self._engine = self._herd.engines[0]
        rows.load(place, armed, [self._engine.id], due_in=86400.0, prefix="armed")
        self._numbers = itertools.count()
        self._engine.turn()

    def close(self) -> None:
        self._herd.close()

    def rest(self) -> None:
        """A beat and a sweep that finds nothing."""
        self._engine.beat()
        self._engine.turn()

    def arm(self) -> None:
        self._engine.live.arm("noop", f"new-{next(self._numbers)}", due_in=86400.0)

    def batch(self) -> None:
        """Claim a batch of due rows, as the loop does with a backlog, and settle it."""
        with self._engine.connect() as connection:
            if Heads.serve(connection.dialect, Line.OWN, BATCH):
                ask = Ask(self._engine.id, Line.OWN, ("noop",), BATCH)
                _, claimed = self._engine.parts.firing._heads.claim(connection, ask)
            else:
                claimed = self._by_key(connection)
            assert len(claimed) == BATCH, f"{len(claimed)} were claimed"
            self._engine.parts.deadlines.complete(connection, list(claimed))

    def _by_key(self, connection: sa.Connection) -> Sequence[Deadline]:
        finder, claims = self._engine.parts._sweep._finder, self._engine.parts._claims
        found = finder.find(connection, finder.question(self._scope())).own
        due = [value for value in found if value.due]
        return claims.claim_own(connection, self._engine.id, due)

    def make_due(self, batches: int) -> None:
        """Afterwards so many batches have been due for a minute."""
        prefix = f"due{next(self._numbers)}"
        count = BATCH * batches
        rows.load(self.place, count, [self._engine.id], due_in=-60.0, prefix=prefix)

    def _scope(self) -> Scope:
        settings = self._engine.live.settings
        return Scope(
            horizon=settings.sweep_interval * 1.5,
            grace=settings.expired_grace + settings.max_clock_skew,
            kinds=("noop",),
            unknown_grace=settings.unknown_kind_grace,
            limit=BATCH,
            own_limit=BATCH,
        )


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        load = machine.load()
        with contextlib.ExitStack() as stack:
            subjects = dict(_subjects(context, database, stack))
            first, *others = subjects
            measures = {
                name: lambda subject=subject: _three(subject, size)
                for name, subject in subjects.items()
            }
            found = interleave(
                size.rounds,
                measures,
                lambda text, where=database: context.tell(f"growth, {where}: {text}"),
            )
            for name in others:
                yield from _rows(database, name, found[name], found[first], load)
            with_it: list[Three] = []
            without: list[Three] = []
            for number in range(size.rounds):
                context.tell(f"growth, {database}: an old snapshot, round {number + 1}")
                without.append(_three(subjects[first], size))
                with_it.append(_beside_a_snapshot(subjects[first], size))
            yield from _rows(database, "an old open snapshot", with_it, without, load)


def _subjects(
    context: Context, database: str, stack: contextlib.ExitStack
) -> Iterator[tuple[str, Subject]]:
    """One engine in a database of its own for each number of rows, so that all of them
    can be measured in turn."""
    size: Size = context.size
    cases = [(f"{armed:,} armed", armed, 0) for armed in size.armed]
    cases.append((f"{size.parked:,} parked", size.armed[0], size.parked))
    for name, armed, parked in cases:
        context.tell(f"growth, {database}: loading {name}")
        place = stack.enter_context(context.servers.place(database))
        subject = Subject(place, armed)
        stack.callback(subject.close)
        if parked:
            rows.load(place, parked, state="parked", prefix="parked")
        yield name, subject


def _rows(
    database: str, name: str, values: list[Three], floors: list[Three], load: float
) -> Iterator[Row]:
    for what in WHATS:
        yield row(
            f"{what}, {name}",
            database,
            "ms",
            [value[what] for value in values],
            [floor[what] for floor in floors],
            goal="ratio <= 1.3",
            load=load,
        )


def _three(subject: Subject, size: Size) -> Three:
    """Milliseconds of each of the three things."""
    subject.make_due(size.batches)
    return {
        "arming": _timed(subject.arm, size.arms),
        "a batch of 200": _timed(subject.batch, size.batches),
        "at rest": _timed(subject.rest, size.arms // 2),
    }


def _beside_a_snapshot(subject: Subject, size: Size) -> Three:
    """The same while somebody still sees what was done and undone before."""
    with _old_snapshot(subject.place):
        subject.make_due(size.batches * 5)
        for _ in range(size.batches * 5):
            subject.batch()
        return _three(subject, size)


def _timed(work: Work, times: int) -> float:
    """Milliseconds of one; the median of so many."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


@contextlib.contextmanager
def _old_snapshot(place: Place) -> Iterator[None]:
    """A transaction of somebody else that has read, and is left open."""
    connection = raw.connect(place.url)
    cursor = connection.cursor()
    begin = {
        "mariadb": ["SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "BEGIN"],
        "postgresql": ["BEGIN ISOLATION LEVEL REPEATABLE READ"],
        "sqlite": ["BEGIN"],
    }[place.database]
    for statement in [*begin, "SELECT COUNT(*) FROM liveness_engine"]:
        cursor.execute(statement)
    cursor.fetchall()
    try:
        yield
    finally:
        cursor.execute("ROLLBACK")
        connection.close()
