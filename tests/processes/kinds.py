"""Handlers whose behaviour is in the payload, and which write down what they do."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

from liveness import Deadline, Handler, Liveness, WhenOrphaned
from liveness.db.claims import Claims
from liveness.db.deadlines import Deadlines
from liveness.db.heads import Heads
from liveness.exceptions import LivenessError
from tests.processes.journal import note, now

STEP = 0.05

released = threading.Event()
"""Lets go of the handlers that hang."""


class Engine:
    """The running engine, for handlers to ask whether they may act."""

    live: Liveness | None = None


class Bug(BaseException):
    """What no ``except Exception`` catches."""


def facts(deadline: Deadline) -> dict[str, Any]:
    return {
        "kind": deadline.kind,
        "key": deadline.key,
        "epoch": deadline.epoch,
        "attempts": deadline.attempts,
        "expires": deadline.expires_at.timestamp(),
        "engine": deadline.owner_id,
    }


def step(check: Any, deadline: Deadline) -> None:
    """One effect of the work, right after the question whether it may be had.

    ``checked`` is when the question was put: a process may be stopped between the
    answer and the effect, and nothing in it can prevent that.
    """
    asked = now()
    try:
        check()
    except LivenessError as error:
        note("refused", **facts(deadline), error=type(error).__name__)
        raise
    note("effect", **facts(deadline), checked=asked)


def handle(method: str, deadline: Deadline) -> None:
    """Have one effect, or do what the payload says, in this order: ``exit``, ``segv``,
    ``raise``, ``hang``; ``steps``: that many effects.

    ``only``: so only in the process of that name; ``key``: only for that deadline;
    ``first``: only at the first attempt.
    """
    note("called", method=method, **facts(deadline))
    todo = dict(deadline.payload or {})
    me = os.environ.get("LIVENESS_TEST_NAME")
    wanted = (
        todo.get("only", me) == me and todo.get("key", deadline.key) == deadline.key
    )
    if not wanted or (todo.get("first") and deadline.attempts > 1):
        todo = {}
    live = Engine.live  # a later incarnation's answer would be another one
    _misbehave(todo)
    for number in range(todo.get("steps", 1)):
        if number:
            time.sleep(STEP)
        step(lambda: live.check(deadline) if live else None, deadline)


def _misbehave(todo: dict[str, Any]) -> None:
    if "exit" in todo:
        os._exit(todo["exit"])
    if "segv" in todo:
        ctypes.string_at(0)
    if "raise" in todo:
        raise Bug("on purpose")
    if "hang" in todo:
        released.wait()


class Timer(Handler):
    """Its orphans keep their due time."""

    kind = "timer"

    def expired(self, deadline: Deadline) -> None:
        handle("expired", deadline)

    def orphaned(self, deadline: Deadline) -> None:
        handle("orphaned", deadline)


class Action(Timer):
    """Its orphans are retriggered."""

    kind = "action"
    when_orphaned = WhenOrphaned.RETRIGGER


def watch_settlements() -> None:
    """Write down what the database said to every settlement of this process."""
    complete, move = Deadlines.complete, Deadlines.move
    chain, head = Claims.chain, Heads.claim

    def watched_complete(
        self: Deadlines, connection: Any, deadlines: Any, again: bool = False
    ) -> set[int]:
        stale = complete(self, connection, deadlines, again=again)
        for deadline in deadlines:
            note("stale" if deadline.id in stale else "settled", **facts(deadline))
        return stale

    def watched_chain(
        self: Claims, connection: Any, me: str, done: Any, again: bool, found: Any
    ) -> Any:
        stale, claimed = chain(self, connection, me, done, again, found)
        for deadline in done:
            note("stale" if deadline.id in stale else "settled", **facts(deadline))
        return stale, claimed

    def watched_head(
        self: Heads, connection: Any, ask: Any, done: Any = (), again: bool = False
    ) -> Any:
        stale, claimed = head(self, connection, ask, done, again)
        for deadline in done:
            note("stale" if deadline.id in stale else "settled", **facts(deadline))
        return stale, claimed

    def watched_move(
        self: Deadlines, connection: Any, deadline: Deadline, token: int, **values: Any
    ) -> bool:
        moved = move(self, connection, deadline, token, **values)
        state = str(values.get("state"))
        note("moved" if moved else "stale", **facts(deadline), state=state)
        return moved

    Deadlines.complete = watched_complete  # type: ignore[method-assign]
    Claims.chain = watched_chain  # type: ignore[method-assign]
    Heads.claim = watched_head  # type: ignore[method-assign]
    Deadlines.move = watched_move  # type: ignore[method-assign]


def the_engine_is(live: Liveness) -> None:
    """From now on ``live`` is whom handlers ask."""
    Engine.live = live
    live.on_fenced(lambda reason: note("fenced", engine=live.engine_id, reason=reason))
    note("started", engine=live.engine_id)
