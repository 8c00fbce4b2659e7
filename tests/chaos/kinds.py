"""Kinds of deadlines under chaos: what their handlers do is in the payload.

A payload says: ``steps`` effects of ``step`` seconds each; and ``do`` something else,
as long as the epoch is at most ``until``. So everything comes to an end.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from liveness import (
    Deadline,
    Handler,
    Liveness,
    Park,
    Rearm,
    Release,
    Retry,
    WhenOrphaned,
)
from liveness.exceptions import LivenessError, Reject
from tests.chaos.history import note, now

HANDLER_TIMEOUT = 1.5
MAX_ATTEMPTS = 3


class Bug(BaseException):
    """What no ``except Exception`` catches."""


def facts(value: Deadline) -> dict[str, Any]:
    """What tells one value from all others."""
    return {
        "engine": value.owner_id,
        "row": value.id,
        "kind": value.kind,
        "key": value.key,
        "arm": value.arm_token,
        "token": value.token,
        "epoch": value.epoch,
    }


def effects(check: Callable[[], None], value: Deadline, todo: dict[str, Any]) -> None:
    """So many effects, each right after the question whether it may be had.

    ``asked`` is when the question was put: a process can be stopped between the
    answer and the effect, and nothing in it can prevent that.
    """
    for _ in range(todo.get("steps", 1)):
        asked = now()
        try:
            check()
        except LivenessError as error:
            note("refused", **facts(value), asked=asked, error=type(error).__name__)
            raise
        note("effect", **facts(value), asked=asked)
        time.sleep(todo.get("step", 0.0))
        note("effected", **facts(value))


def _hang(value: Deadline) -> None:
    time.sleep(HANDLER_TIMEOUT * 1.5)


def _die(value: Deadline) -> None:
    note("suicide", **facts(value))
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(value: Deadline) -> None:
    raise Bug("on purpose")


def _reject(value: Deadline) -> None:
    raise Reject("on purpose")


OTHERWISE: dict[str, Callable[[Deadline], Any]] = {
    "rearm": lambda value: Rearm(0.5),
    "retry": lambda value: Retry("on purpose", 0.3),
    "back off": lambda value: Retry("on purpose"),
    "release": lambda value: Release("on purpose"),
    "park": lambda value: Park("on purpose"),
    "reject": _reject,
    "raise": _raise,
    "nonsense": lambda value: "on purpose",
    "hang": _hang,
    "die": _die,
}


class Base(Handler):
    """Handlers of one engine; a later incarnation has its own."""

    handler_timeout = HANDLER_TIMEOUT
    max_attempts = MAX_ATTEMPTS
    backoff_initial = 0.1
    backoff_max = 0.4
    calm = False

    def __init__(self, live: Liveness) -> None:
        self._live = live

    def expired(self, deadline: Deadline) -> Any:
        return self._handle("expired", deadline)

    def orphaned(self, deadline: Deadline) -> Any:
        return self._handle("orphaned", deadline)

    def _handle(self, method: str, value: Deadline) -> Any:
        note("called", **facts(value), method=method, attempts=value.attempts)
        todo = value.payload or {}
        try:
            answer = self._do(todo, value)
        except BaseException as error:
            note("answered", **facts(value), outcome=type(error).__name__)
            raise
        name = "Done" if answer is None else type(answer).__name__
        note("answered", **facts(value), outcome=name)
        return answer

    def _do(self, todo: dict[str, Any], value: Deadline) -> Any:
        otherwise = todo.get("do") if value.epoch <= todo.get("until", 0) else None
        if Base.calm:
            todo, otherwise = {}, None
        answer = OTHERWISE[otherwise](value) if otherwise else None
        effects(lambda: self._live.check(value), value, todo)
        return answer


class Timer(Base):
    kind = "timer"


class Action(Base):
    kind = "action"
    when_orphaned = WhenOrphaned.RETRIGGER


class Form(Base):
    """What a human has to look at when its owner is dead."""

    kind = "form"
    when_orphaned = WhenOrphaned.PARK


KINDS = (Timer, Action, Form)
