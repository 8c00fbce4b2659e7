"""What a host program does with its deadlines, from a seed.

Every operation is written down before and after, with what came of it: ``ok``,
``stale``, ``refused``, ``unknown`` when the answer was lost, or ``bug``: an error that
no caller was told to expect.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import Arm, Deadline, Liveness
from liveness.clock import Clock
from liveness.db.arming import NewDeadline
from liveness.db.deadlines import Deadlines
from liveness.db.rows import dump_payload, new_token
from liveness.exceptions import DatabaseError, LivenessError, StaleDeadline
from tests.chaos.history import note, now
from tests.chaos.journal import NOW
from tests.chaos.kinds import MAX_ATTEMPTS, effects, facts

AWAY = (sa.exc.SQLAlchemyError, db_exc.DBError, OSError)

HOT_KEYS = 6
"""Keys that all engines arm again and again."""

KEPT = 40
"""Values that one incarnation keeps in mind, to extend, disarm or misuse."""

MISBEHAVIOUR = {
    "rearm": 6,
    "retry": 5,
    "back off": 3,
    "release": 5,
    "park": 1,
    "reject": 1,
    "raise": 4,
    "nonsense": 1,
    "hang": 2,
    "die": 1,
}


class Workload:
    """The host program's threads of one incarnation."""

    def __init__(self, live: Liveness, host: sa.Engine, name: str, todo: Any) -> None:
        """``name`` is the incarnation's, unique in the run; ``todo`` are the worker's
        orders: seed, rate, and what of :data:`TASTE` a profile changes."""
        self._live = live
        self._host = host
        self._name = name
        self._rate = todo["rate"]
        self.taste = {**TASTE, **todo.get("taste", {})}
        self._rng = random.Random(f"{todo['seed']} {name}")
        self._values: list[Deadline] = []
        self._old: list[Deadline] = []
        self._deadlines = Deadlines(Clock())
        self._numbers = iter(range(1 << 30))
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._arms, daemon=True)] + [
            threading.Thread(target=self._guards, args=(n,), daemon=True)
            for n in range(self.taste["guards"])
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    # --- threads ----------------------------------------------------------------

    def _arms(self) -> None:
        rng = self._rng
        names = list(OPERATIONS)
        weights = [self.taste.get(name, OPERATIONS[name][0]) for name in names]
        while not self._stopping.wait(rng.expovariate(self._rate)):
            name = rng.choices(names, weights)[0]
            self._operate(name, lambda n=name: OPERATIONS[n][1](self, rng))

    def _guards(self, number: int) -> None:
        rng = random.Random(f"{self._rng.random()} {number}")
        while not self._stopping.wait(rng.uniform(0.05, 0.5)):
            self._operate("guard", lambda: self._guard(rng))

    def _operate(self, do: str, operation: Callable[[], dict[str, Any]]) -> None:
        engine, number = self._live.engine_id, next(self._numbers)
        same = {"engine": engine, "do": do, "n": number}
        note("begin", **same, trusted=self._live.trusted)
        result: dict[str, Any]
        try:
            result = {"outcome": "ok", **operation()}
        except StaleDeadline:
            result = {"outcome": "stale"}
        except DatabaseError as error:
            result = {"outcome": "unknown", "error": str(error)[-200:]}
        except LivenessError as error:
            result = {"outcome": "refused", "error": type(error).__name__}
        except AWAY as error:  # on the host's own connection
            result = {"outcome": "unknown", "error": f"{error!r:.200}"}
        except Exception as error:
            where = traceback.format_exc()[-2000:]
            result = {"outcome": "bug", "error": f"{error!r:.200}", "where": where}
        note("end", **{**same, "trusted": self._live.trusted, **result})

    # --- what is armed ------------------------------------------------------------

    def _key(self) -> str:
        return f"{self._name}.{next(self._numbers)}"

    def _new(self, rng: random.Random, key: str | None = None) -> Arm:
        kind = rng.choices(("timer", "action", "form"), (5, 4, 1))[0]
        todo: dict[str, Any] = {"steps": rng.choice((0, 1, 1, 2))}
        if rng.random() < self.taste["long"]:
            todo = {"steps": rng.randrange(5, 25), "step": 0.05}
        if rng.random() < self.taste["misbehaving"]:
            mix = {**MISBEHAVIOUR, **self.taste["misbehaviour"]}
            todo["do"] = rng.choices(list(mix), list(mix.values()))[0]
            todo["until"] = 99 if todo["do"] == "die" else rng.randrange(1, 4)
        due_in = rng.choice((0.0, rng.uniform(0, 1), rng.uniform(0, self.taste["due"])))
        return Arm(kind, key or self._key(), due_in=due_in, payload=todo)

    def _keep(self, value: Deadline) -> Deadline:
        self._values.append(value)
        if len(self._values) > KEPT:
            self._old.append(self._values.pop(0))
            del self._old[:-KEPT]
        return value

    def _pick(self, rng: random.Random) -> Deadline | None:
        if not self._values:
            return None
        return self._values.pop(rng.randrange(len(self._values)))

    # --- operations ---------------------------------------------------------------

    def arm(self, rng: random.Random) -> dict[str, Any]:
        return facts(self._keep(self._live.arm(**_words(self._new(rng)))))

    def arm_hot(self, rng: random.Random) -> dict[str, Any]:
        new = self._new(rng, f"hot.{rng.randrange(HOT_KEYS)}")
        return facts(self._keep(self._live.arm(**_words(new))))

    def arm_many(self, rng: random.Random) -> dict[str, Any]:
        news = [self._new(rng) for _ in range(rng.randrange(2, 12))]
        values = self._live.arm_many(news)
        return {"armed": [facts(self._keep(value)) for value in values]}

    def hosted(self, rng: random.Random) -> dict[str, Any]:
        """In a transaction of the host's own, which may take its time, or roll back."""
        slow = rng.uniform(0.2, 2.0) * (rng.random() < self.taste["slow hosts"])
        if self._host.dialect.name == "sqlite":
            slow = min(slow, 0.1)  # it would keep everybody from writing
        commit = rng.random() < 0.8
        with self._host.connect() as connection:
            transaction = connection.begin()
            now_is = sa.text(f"SELECT {NOW[self._host.dialect.name]}")
            told = str(connection.execute(now_is).scalar_one())
            value = self._live.arm(connection=connection, **_words(self._new(rng)))
            note("hosting", **facts(value), database=told)
            time.sleep(slow)
            if not commit:
                transaction.rollback()
                return {**facts(value), "outcome": "rolled back"}
            transaction.commit()
        return {**facts(self._keep(value)), "database": told}

    def leave(self, rng: random.Random) -> dict[str, Any]:
        """Some that nobody owns, most of them due now: as many drains leave them."""
        news = []
        for _ in range(rng.randrange(8, 32)):
            new = self._new(rng)
            due = rng.choice((0.0, 0.0, 0.0, rng.uniform(0.2, 2.0)))
            kind = "timer" if new.kind == "form" and due == 0.0 else new.kind
            payload, token = dump_payload(new.payload), new_token()
            news.append(
                NewDeadline(kind, new.key, None, due, MAX_ATTEMPTS, payload, token)  # type: ignore[arg-type]
            )
        with self._host.begin() as connection:
            values = self._deadlines.arm_many(connection, news, hosted=True)
        return {"armed": [facts(value) for value in values]}

    def extend(self, rng: random.Random) -> dict[str, Any]:
        value = self._pick(rng)
        if value is None:
            return {"outcome": "nothing"}
        self._old.append(value)
        due_in = rng.uniform(0, self.taste["due"])
        newer = self._keep(self._live.extend(value, due_in=due_in))
        return {**facts(newer), "before": value.token}

    def disarm(self, rng: random.Random) -> dict[str, Any]:
        value = self._pick(rng)
        if value is None:
            return {"outcome": "nothing"}
        self._old.append(value)
        note("disarming", **facts(value))
        self._live.disarm(value)
        return facts(value)

    def misuse(self, rng: random.Random) -> dict[str, Any]:
        """Use a value that is old, and perhaps stale."""
        if not self._old:
            return {"outcome": "nothing"}
        value = rng.choice(self._old)
        if rng.random() < 0.5:
            newer = self._keep(self._live.extend(value, due_in=rng.uniform(0.5, 2)))
            return {**facts(newer), "before": value.token}
        note("disarming", **facts(value))
        self._live.disarm(value)
        return facts(value)

    def adopt(self, rng: random.Random) -> dict[str, Any]:
        key = f"hot.{rng.randrange(HOT_KEYS)}"
        return facts(self._keep(self._live.adopt(rng.choice(("timer", "action")), key)))

    def _guard(self, rng: random.Random) -> dict[str, Any]:
        """Work under a guard; sometimes for longer than a lease, or than it has."""
        steps = rng.choice((1, 3, 10, rng.randrange(10, 100)))
        due_in = rng.choice((0.5, 5.0, 20.0))
        if rng.random() < self.taste["long guards"]:
            steps, due_in = rng.randrange(80, 160), 20.0
        kind = rng.choice(("timer", "action"))
        begun = now()
        with self._live.guard(kind, self._key(), due_in=due_in) as guard:
            note("guarded", **facts(guard.deadline))
            for _ in range(steps):
                effects(guard.check, guard.deadline, {"step": 0.05})
                if self._stopping.is_set():
                    break
                if rng.random() < 0.03:
                    guard.extend(due_in=due_in)
            last = facts(guard.deadline)
        return {**last, "begun": begun}


def _words(new: Arm) -> dict[str, Any]:
    return {
        "kind": new.kind,
        "key": new.key,
        "due_in": new.due_in,
        "payload": new.payload,
    }


OPERATIONS: dict[str, tuple[int, Callable[[Workload, random.Random], dict]]] = {
    "arm": (45, Workload.arm),
    "arm hot": (8, Workload.arm_hot),
    "arm many": (6, Workload.arm_many),
    "hosted": (14, Workload.hosted),
    "leave": (6, Workload.leave),
    "extend": (10, Workload.extend),
    "disarm": (10, Workload.disarm),
    "misuse": (6, Workload.misuse),
    "adopt": (3, Workload.adopt),
}

TASTE: dict[str, Any] = {
    "guards": 2,
    "long guards": 0.1,
    "long": 0.15,
    "due": 6.0,
    "misbehaving": 0.25,
    "misbehaviour": {},
    "slow hosts": 0.3,
}
"""What a profile may change: how many guards, and how often what happens."""


@contextlib.contextmanager
def at_work(workload: Workload):  # type: ignore[no-untyped-def]
    """The workload's threads, for the block."""
    workload.start()
    try:
        yield
    finally:
        workload.stop()
