"""The handler of an endurance run, and the work that an engine's host program does."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

import liveness
from liveness import Arm, Deadline, Handler, Liveness, WhenOrphaned
from liveness.db import tables
from liveness.db.claims import Claims
from liveness.db.deadlines import Deadlines
from liveness.db.heads import Heads
from liveness.exceptions import (
    DatabaseError,
    Fenced,
    LivenessError,
    NotParked,
    NotRunning,
    StaleDeadline,
)
from tests.endure.journal import Pen, promise_of

DAY = 86400.0

OUTCOMES: list[tuple[float, Callable[[random.Random], Any]]] = [
    (0.85, lambda rng: liveness.Done()),
    (0.08, lambda rng: liveness.Rearm(rng.uniform(1, 10))),
    (0.04, lambda rng: liveness.Retry("later", rng.uniform(1, 5))),
    (0.02, lambda rng: liveness.Release("not here")),
    (0.01, lambda rng: liveness.Park("for the operator")),
]
"""What handlers answer, and how often."""


class Timer(Handler):
    """Notes when it is called and when it returns, and has all outcomes."""

    kind = "timer"

    def __init__(self, pen: Pen, rng: random.Random) -> None:
        self._pen = pen
        self._rng = rng

    def expired(self, deadline: Deadline) -> Any:
        again = deadline.last_error is not None  # retried, released or unparked
        return self._work("again" if again else "expired", deadline)

    def orphaned(self, deadline: Deadline) -> Any:
        return self._work("orphaned", deadline)

    def _work(self, method: str, deadline: Deadline) -> Any:
        me, promise = deadline.owner_id or "", promise_of(deadline)
        self._pen.note("begin", me, promise, number=time.time(), text=method)
        time.sleep(self._rng.uniform(0, 0.02))
        self._pen.note("finish", me, promise)
        return self._choose()

    def _choose(self) -> Any:
        draw = self._rng.random()
        for share, make in OUTCOMES:
            draw -= share
            if draw < 0:
                return make(self._rng)
        return liveness.Done()


class Action(Timer):
    """Its orphans are retriggered."""

    kind = "action"
    when_orphaned = WhenOrphaned.RETRIGGER


def watch_settlements(pen: Pen) -> None:
    """Write down what the database said to every ending of a deadline by this
    process, whichever of its engines sent it."""
    complete, move = Deadlines.complete, Deadlines.move
    chain, head = Claims.chain, Heads.claim

    def watched_complete(
        self: Deadlines, connection: Any, deadlines: Any, again: bool = False
    ) -> set[int]:
        stale = complete(self, connection, deadlines, again=again)
        for deadline in deadlines:
            what = "stale" if deadline.id in stale else "ended"
            pen.note(what, deadline.owner_id or "", promise_of(deadline))
        return stale

    def watched_chain(
        self: Claims, connection: Any, me: str, done: Any, again: bool, found: Any
    ) -> Any:
        stale, claimed = chain(self, connection, me, done, again, found)
        for deadline in done:
            what = "stale" if deadline.id in stale else "ended"
            pen.note(what, deadline.owner_id or "", promise_of(deadline))
        return stale, claimed

    def watched_head(
        self: Heads, connection: Any, ask: Any, done: Any = (), again: bool = False
    ) -> Any:
        stale, claimed = head(self, connection, ask, done, again)
        for deadline in done:
            what = "stale" if deadline.id in stale else "ended"
            pen.note(what, deadline.owner_id or "", promise_of(deadline))
        return stale, claimed

    def watched_move(
        self: Deadlines, connection: Any, deadline: Deadline, token: int, **values: Any
    ) -> bool:
        moved = move(self, connection, deadline, token, **values)
        what = "parked" if values.get("state") == "parked" else "moved"
        if what == "moved" and "owner_id" in values:
            what = "released"
        pen.note(
            what if moved else "stale",
            deadline.owner_id or "",
            promise_of(deadline),
            number=_promised(connection, deadline) if moved else 0.0,
        )
        return moved

    Deadlines.complete = watched_complete  # type: ignore[method-assign]
    Claims.chain = watched_chain  # type: ignore[method-assign]
    Heads.claim = watched_head  # type: ignore[method-assign]
    Deadlines.move = watched_move  # type: ignore[method-assign]


def _promised(connection: Any, deadline: Deadline) -> float:
    """What its row says: a value that is rearmed has what its engine reckons."""
    D = tables.deadline
    statement = sa.select(D.c.expires_at).where(D.c.id == deadline.id)
    found = connection.execute(statement).scalar()
    return found.timestamp() if found else 0.0


class Host:
    """The host program of one engine: a standing stock of deadlines far away, and
    ``rate`` operations a second around it."""

    def __init__(
        self, live: Liveness, pen: Pen, rng: random.Random, name: str, rate: float
    ) -> None:
        self._live = live
        self._pen = pen
        self._rng = rng
        self._name = name
        self._rate = rate
        self._count = 0
        self._stock: list[Deadline] = []
        self._wanted = 0
        self.ready = threading.Event()
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="host", daemon=True)

    def start(self, stock: int) -> None:
        """Arm so many deadlines that will not come due, and go to work."""
        self._wanted = stock
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(30)

    @property
    def me(self) -> str:
        return self._live.engine_id

    def _key(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _far(self) -> float:
        return self._rng.uniform(DAY, 10 * DAY)

    def _run(self) -> None:
        while len(self._stock) < self._wanted and not self.stopping.is_set():
            self._do(self._lay_in)
        self.ready.set()
        works = [self._arm_soon, self._extend, self._swap, self._guard, self._unpark]
        weights = [40, 30, 20, 9, 1]
        while not self.stopping.wait(self._rng.expovariate(self._rate)):
            (work,) = self._rng.choices(works, weights)
            self._do(work)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StaleDeadline:
            self._pen.note("late", self.me, text=work.__name__)
        except LivenessError as error:
            name = type(error).__name__
            self._pen.note("refused", self.me, text=f"{work.__name__} {name}")
            if isinstance(error, (Fenced, NotRunning)):
                self.stopping.set()
            self.stopping.wait(1.0)

    def _lay_in(self) -> None:
        number = min(500, self._wanted - len(self._stock))
        self._stock += self._arm(*(self._key() for _ in range(number)))

    def _arm_soon(self) -> None:
        self._arm(self._key(), due_in=self._rng.uniform(1, 20))

    def _arm(self, *keys: str, due_in: float | None = None) -> list[Deadline]:
        due = [self._far() if due_in is None else due_in for _ in keys]
        try:
            if len(keys) == 1:
                values = [self._live.arm("timer", keys[0], due[0], payload={"n": 1})]
            else:
                values = self._live.arm_many(
                    [
                        Arm("timer", key, seconds, payload={"n": 1})
                        for key, seconds in zip(keys, due, strict=True)
                    ]
                )
        except DatabaseError:  # they may be armed, and nobody knows the tokens
            self._pen.note("unsure", self.me, *(f"{key}/" for key in keys))
            raise
        for value in values:
            self._note("armed", value)
        return values

    def _note(self, what: str, value: Deadline) -> None:
        due = value.expires_at.timestamp()
        self._pen.note(what, self.me, promise_of(value), number=due)

    def _take(self) -> Deadline:
        """One of the stock, which is in it no more."""
        index = self._rng.randrange(len(self._stock))
        self._stock[index], self._stock[-1] = self._stock[-1], self._stock[index]
        return self._stock.pop()

    def _extend(self) -> None:
        if self._stock:
            # Whatever becomes of it: a value whose answer was lost is stale.
            value = self._live.extend(self._take(), self._far())
            self._note("extended", value)
            self._stock.append(value)

    def _swap(self) -> None:
        """Another deadline instead; now and then of the same key."""
        if not self._stock:
            return
        old = self._take()
        self._pen.note("letting", self.me, promise_of(old))
        self._live.disarm(old)
        key = old.key if self._rng.random() < 0.5 else self._key()
        self._stock += self._arm(key)

    def _guard(self) -> None:
        with self._live.guard("action", self._key(), due_in=60) as guard:
            self._note("armed", guard.deadline)
            time.sleep(self._rng.uniform(0, 0.1))
            guard.check()
            self._pen.note("letting", self.me, promise_of(guard.deadline))

    def _unpark(self) -> None:
        for deadline in self._live.parked(limit=5):
            with contextlib.suppress(NotParked):  # another one was quicker
                self._live.unpark(deadline.kind, deadline.key)
