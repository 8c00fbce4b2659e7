"""The operations that a process may die in: what leads up to each, and the thing
itself.

Each is a generator in the dying process: up to its ``yield`` is the preparation, after
it every statement is a crash point. ``tell("armed k")`` says that the caller was told
so, ``tell("done k")`` that the deadline needs nobody any more, and ``tell("over k")``
that its row is gone as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from liveness import Arm, Park, Rearm, Release, Retry
from liveness.db import tables
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder, wait_until

D, E = tables.deadline, tables.engine

Tell = Callable[[str], None]
OPERATIONS: dict[str, Callable[[Any, Tell], Iterator[None]]] = {}
HOUR = 3600.0


class Doomed:
    """The process that dies: it makes engines on a clock of its own."""

    def __init__(self, url: str, tell: Tell) -> None:
        self.url = url
        self.tell = tell
        self.clock = SettableClock()
        self.timer = Recorder("timer", backoff_initial=1.0, backoff_max=1.0)
        self.action = Recorder("action", when_orphaned="retrigger")
        self.timer.answer = self.action.answer = lambda value: tell(f"done {value.key}")

    def engine(self, **options: Any) -> Driven:
        return Driven(self.url, self.clock, (self.timer, self.action), **options)

    def arm(self, engine: Driven, key: str, kind: str = "timer", due: float = 10.0):
        value = engine.live.arm(kind, key, due_in=due)
        self.tell(f"armed {key}")
        return value

    def victim(self, kind: str = "timer", due: float = 10.0) -> Driven:
        """Another engine, of another machine, with one deadline; nobody beats it."""
        engine = self.engine(machine="elsewhere")
        self.arm(engine, "k", kind, due)
        return engine

    def bury(self, engine: Driven) -> None:
        with engine.connect() as connection:
            connection.execute(
                sa.update(E)
                .where(E.c.id == engine.id)
                .values(state="fenced", ended_at=self.clock.utc)
            )

    def turns(self, engine: Driven, count: int = 2) -> None:
        for _ in range(count):
            engine.turn()
            engine.settle()


def operation(function: Any) -> Any:
    OPERATIONS[function.__name__.replace("_", " ")] = function
    return function


# --- engines --------------------------------------------------------------------


@operation
def register(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield
    doomed.engine()


@operation
def beat(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.arm(engine, "k")
    yield
    engine.beat()
    engine.beat()


@operation
def beat_while_it_drains(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.arm(engine, "k")
    with engine.connect() as connection:
        engine.parts.engines.set_draining(connection, engine.id)
    yield
    engine.beat()
    engine.beat()


@operation
def fence(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim, engine = doomed.victim(due=HOUR), doomed.engine()
    assert victim.id != engine.id
    for _ in range(16):
        engine.beat()
        engine.turn()
        doomed.clock.advance(2)
    engine.beat()
    yield
    engine.turn()


@operation
def drain(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.arm(engine, "k")
    doomed.arm(engine, "l", "action")
    yield
    engine.live.stop(0)


@operation
def purge(doomed: Doomed, tell: Tell) -> Iterator[None]:
    old, engine = doomed.engine(machine="elsewhere"), doomed.engine()
    doomed.arm(engine, "k", due=3 * HOUR)
    doomed.bury(old)
    doomed.clock.advance(2 * HOUR)
    engine.beat()
    yield
    engine.turn()


@operation
def purge_the_history(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine(history_retention=60.0)
    doomed.arm(engine, "k", due=3 * HOUR)
    engine.turn()
    doomed.clock.advance(2 * HOUR)
    engine.beat()
    yield
    engine.turn()


# --- owners ---------------------------------------------------------------------


@operation
def arm(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    yield
    doomed.arm(engine, "k")


@operation
def arm_many(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    yield
    engine.live.arm_many([Arm("timer", key, due_in=10) for key in "klm"])
    for key in "klm":
        tell(f"armed {key}")


@operation
def arm_in_the_hosts_transaction(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    host = sa.create_engine(doomed.url)
    yield
    with host.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
        engine.live.arm("timer", "k", due_in=10, connection=connection)
    tell("armed k")


@operation
def extend(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    value = doomed.arm(engine, "k")
    yield
    engine.live.extend(value, due_in=20)


@operation
def disarm(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    value = doomed.arm(engine, "k")
    yield
    tell("done k")
    engine.live.disarm(value)
    tell("over k")


@operation
def guard(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    yield
    with engine.live.guard("action", "k", due_in=10):
        tell("armed k")
        tell("done k")
    tell("over k")


@operation
def adopt_by_hand(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim, engine = doomed.victim(), doomed.engine()
    doomed.bury(victim)
    yield
    engine.live.adopt("timer", "k")


@operation
def unpark(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.timer.answer = Park("why")
    doomed.arm(engine, "k", due=0)
    doomed.turns(engine)
    yield
    engine.live.unpark("timer", "k")
    tell("unparked k")


# --- the pass -------------------------------------------------------------------


def _fire(
    doomed: Doomed, tell: Tell, answer: Any, word: str | None, **options: Any
) -> Iterator[None]:
    engine = doomed.engine(**options)
    if answer is not None:
        doomed.timer.answer = answer
    doomed.arm(engine, "k", due=1)
    engine.turn()
    doomed.clock.advance(1)
    yield
    doomed.turns(engine)
    if word and not engine.parts._settler.pending and doomed.timer.keys:
        tell(f"{word} k")


@operation
def fire(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, None, "over")


@operation
def fire_one_after_the_other(doomed: Doomed, tell: Tell) -> Iterator[None]:
    """What ends the first claims the second."""
    engine = doomed.engine()
    doomed.arm(engine, "k", due=1)
    doomed.arm(engine, "l", due=2)
    engine.turn()
    doomed.clock.advance(1)
    engine.turn()
    wait_until(lambda: not engine.unanswered)
    doomed.clock.advance(1)
    yield
    doomed.turns(engine, 3)
    if not engine.parts._settler.pending and len(doomed.timer.keys) == 2:
        tell("over k")
        tell("over l")


@operation
def fire_with_all_the_history(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, None, "over", history="all")


@operation
def fire_and_rearm(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, Rearm(5), None)


@operation
def fire_and_retry(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, Retry("later", 5), None)


@operation
def fire_and_release(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, Release("not here"), None)


@operation
def fire_and_park(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, Park("no use"), "parked")


@operation
def fire_and_fail(doomed: Doomed, tell: Tell) -> Iterator[None]:
    yield from _fire(doomed, tell, ValueError("no"), None)


@operation
def restart_a_timer(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim, engine = doomed.victim(due=HOUR), doomed.engine()
    doomed.bury(victim)
    yield
    doomed.turns(engine)


@operation
def retrigger_an_action(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim, engine = doomed.victim("action", HOUR), doomed.engine()
    doomed.bury(victim)
    yield
    doomed.turns(engine)
    if doomed.action.keys and not engine.parts._settler.pending:
        tell("over k")


@operation
def take_what_is_overdue(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim, engine = doomed.victim(due=1), doomed.engine()
    for _ in range(5):
        doomed.clock.advance(2)
        victim.beat()
        engine.beat()
    yield
    doomed.turns(engine)
    if doomed.timer.keys and not engine.parts._settler.pending:
        tell("over k")


@operation
def claim_from_the_head_of_a_line(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine(batch_size=2)
    engine.turn()
    for key in "klm":
        doomed.arm(engine, key, due=1)
    with engine.connect() as connection:
        connection.execute(sa.update(D).values(owner_id=None))
    engine.parts._agenda.__init__()
    doomed.clock.advance(1)
    engine.parts.loop._backlog.nobodys = True
    yield
    for _ in range(4):
        engine.parts.loop.turn()
        wait_until(lambda: not engine.unanswered)
    if not engine.parts._settler.pending:
        for key in doomed.timer.keys:
            tell(f"over {key}")


@operation
def hold_a_claim_whose_answer_was_lost(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.arm(engine, "k", due=1)
    doomed.clock.advance(1)
    with engine.connect() as connection:
        found = engine.live.find("timer", "k")
        assert engine.parts._claims.claim_own(connection, engine.id, [found])
    engine.parts._sweep.doubt()
    yield
    doomed.turns(engine)
    if doomed.timer.keys and not engine.parts._settler.pending:
        tell("over k")


def _used_up(doomed: Doomed, engine: Driven) -> None:
    with engine.connect() as connection:
        connection.execute(sa.update(D).values(attempts=D.c.max_attempts))
    doomed.clock.advance(1)


@operation
def park_what_has_no_attempts_left(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.arm(engine, "k", due=1)
    _used_up(doomed, engine)
    yield
    doomed.turns(engine)


@operation
def park_an_orphan_that_has_none_left(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim, engine = doomed.victim(due=HOUR), doomed.engine()
    _used_up(doomed, victim)
    doomed.bury(victim)
    yield
    doomed.turns(engine)
