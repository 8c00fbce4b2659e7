"""Engines driven by hand: real database, real statements, no threads of their own.

Nothing happens unless a test says so: :meth:`Driven.beat` is one step of the heart,
:meth:`Driven.turn` one turn of the loop. Handlers do run in the runner's threads; the
test waits for them by :meth:`Driven.settle`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from liveness import Handler, Liveness, Settings
from liveness.clock import Clock
from liveness.identity import Identity
from liveness.model import Deadline, Engine

FAST = {
    "ttl": 30.0,
    "beat_interval": 5.0,
    "sweep_interval": 2.0,
    "expired_grace": 5.0,
    "max_clock_skew": 1.0,
    "lease_margin": 1.0,
    "database_timeout": 5.0,
}


class Recorder(Handler):
    """A handler that notes what it was called for, and answers what it is told."""

    def __init__(self, kind: str = "timer", **attributes: Any) -> None:
        self.kind = kind
        self.calls: list[tuple[str, Deadline]] = []
        self.answer: Any = None
        for name, value in attributes.items():
            setattr(self, name, value)

    def expired(self, deadline: Deadline) -> Any:
        return self._called("expired", deadline)

    def orphaned(self, deadline: Deadline) -> Any:
        return self._called("orphaned", deadline)

    def _called(self, method: str, deadline: Deadline) -> Any:
        self.calls.append((method, deadline))
        answer = self.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer(deadline) if callable(answer) else answer

    @property
    def keys(self) -> list[str]:
        return [deadline.key for _, deadline in self.calls]


class Driven:
    """One registered engine whose heart and loop beat only when told to."""

    def __init__(
        self,
        url: str,
        clock: Any = None,
        handlers: tuple[Handler, ...] = (),
        engine_id: str | None = None,
        machine: str | None = None,
        **options: Any,
    ) -> None:
        """``machine``: pretend to run on a machine (boot) of that name, so that engines
        on different ones cannot look each other's processes up."""
        settings = Settings.of(connection=url, **{**FAST, **options})
        self.live = Liveness(settings, clock or Clock())
        for handler in handlers:
            self.live.add_handler(handler)
        identity = Identity.of_this_process()
        if machine is not None:
            identity = dataclasses.replace(identity, host=machine, boot_id=machine)
        self.parts = self.live._running = self.live._parts(engine_id, identity)
        self.parts._register()

    @property
    def id(self) -> str:
        return self.parts.trust.engine_id

    @property
    def trust(self) -> Any:
        return self.parts.trust

    def beat(self) -> bool:
        """One beat; True when it was committed."""
        return self.parts.heart.beat()

    def turn(self) -> float:
        """One turn of the loop, a sweep included; returns the delay it asks for."""
        self.parts.loop.sweep_soon()
        return self.parts.loop.turn()

    def settle(self, seconds: float = 10.0) -> None:
        """Wait for handlers in flight, and settle what they answered."""
        wait_until(lambda: not self.unanswered, seconds)
        with self.connect() as connection:
            self.parts.loop._settle(connection)

    @property
    def unanswered(self) -> bool:
        self.parts.runner.held()  # which unpacks all
        holds = list(self.parts.runner._holds.values())
        return any(not hold.spent for hold in holds)

    @contextlib.contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        with self.parts._pool.connect() as connection:
            yield connection

    def row(self, engine_id: str | None = None) -> Engine | None:
        """An engine's row, this one's by default."""
        with self.connect() as connection:
            return self.parts.engines.get(connection, engine_id or self.id)

    def abandon(self) -> None:
        """What a SIGKILL leaves behind: the row, and nothing that moves."""
        self.parts.close()


def wait_until(done: Callable[[], Any], seconds: float = 10.0) -> None:
    """Return when ``done()`` is true; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"not so within {seconds:g} s: {done}")
        time.sleep(0.005)


class Gate:
    """A handler's answer that waits until the test opens the gate."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, deadline: Deadline) -> None:
        self.entered.set()
        assert self.open.wait(30)
