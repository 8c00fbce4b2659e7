"""The values that travel: engines, deadlines, and what a handler answers.

A :class:`Deadline` carries the token it was given out with, and every write
presents it. Whoever holds an older value changes nothing.
"""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime
from typing import Any, NamedTuple


class EngineState(enum.StrEnum):
    """What an engine row says. ``FENCED`` and ``STOPPED`` are final."""

    LIVE = "live"
    DRAINING = "draining"
    STOPPED = "stopped"
    FENCED = "fenced"


ALIVE = (EngineState.LIVE, EngineState.DRAINING)


class DeadlineState(enum.StrEnum):
    """What a deadline row says."""

    ARMED = "armed"
    CLAIMED = "claimed"
    PARKED = "parked"


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """One incarnation of a process, as its row shows it.

    ``ttl`` is in seconds; times are UTC, by the database's clock.
    """

    id: str
    token: int
    host: str
    pid: int
    process_start: int | None
    boot_id: str | None
    namespaces: str | None
    binary: str
    version: str
    state: str
    started_at: datetime
    beat_seq: int
    beat_at: datetime
    ttl: float
    ended_at: datetime | None
    fenced_by: str | None
    fence_evidence: str | None

    @property
    def alive(self) -> bool:
        """True while the engine may beat: live or draining."""
        return self.state in ALIVE


class Deadline(NamedTuple):
    """One deadline as it was when this value was given out.

    ``due_at`` is when it must next be looked at; ``expires_at`` is the promise
    as armed or extended, which recovery never changes. Both are UTC by the
    database's clock (of a deadline that this engine has just rearmed, as it reckons
    them, to some milliseconds; the row decides). ``expired``: the promise had passed;
    ``orphaned``: the owner was gone, or it is such a case's retry. Both may be.
    ``due``: it was due when it was found. ``problem`` says why the row cannot be
    handled at all (a payload that is not JSON).
    """

    id: int
    kind: str
    key: str
    owner_id: str | None
    token: int
    arm_token: int
    epoch: int
    state: str
    due_at: datetime
    expires_at: datetime
    attempts: int
    max_attempts: int
    payload: Any
    last_error: str | None
    orphaned: bool = False
    expired: bool = False
    due: bool = False
    problem: str | None = None

    @property
    def idempotency_key(self) -> str:
        """Names this attempt: kind, key, arm token, epoch. Later attempts of the
        same deadline share all but the epoch, which only grows."""
        return f"{self.kind}/{self.key}/{self.arm_token:x}/{self.epoch}"

    @property
    def last_chance(self) -> bool:
        """True when the next claim is the last before the deadline is parked."""
        return self.attempts + 1 >= self.max_attempts

    def __str__(self) -> str:
        name = f"{self.kind}/{self.key}"
        return name if name.isprintable() else ascii(name)[1:-1]


# --- what a handler answers ---------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a claimed deadline."""


@dataclasses.dataclass(frozen=True, slots=True)
class Done(Outcome):
    """Complete: the row goes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rearm(Outcome):
    """A new due time (seconds from now, by the database's clock), attempts at zero."""

    due_in: float


@dataclasses.dataclass(frozen=True, slots=True)
class Retry(Outcome):
    """Later, same owner. ``due_in`` seconds, or the kind's backoff when None."""

    reason: str = ""
    due_in: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Release(Outcome):
    """Give the row back at once, without an owner: any engine may take it."""

    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Unstarted(Release):
    """Given back before its handler was called: the attempt does not count. Not for
    handlers to answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Park(Outcome):
    """Give up, and keep the row with this reason for the operator."""

    reason: str
