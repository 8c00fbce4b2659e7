"""The kinds of Heat's deadlines, their keys, and what their payloads say.

A payload holds ids and flags, no token, no secret and no resource's data. It is read
by engines of other releases: fields are added, never given another meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from typing import Any, Self

ACTION = "resource_action"
"""One check_resource that runs. Its orphan is recovered at once."""

TIMER = "stack_timer"
"""One traversal of a stack that has a timeout. Due when Heat itself would time out,
and a grace; its orphan is looked at once and restarted with the time left."""

SNAPSHOT = "snapshot_delete"
"""One resource's part of a snapshot that a user deletes. Its orphan is cast again."""

RETRIGGER = "resource_retrigger"
"""One retrigger that was done: how many there were before. Ends by itself."""


class _Payload:
    def dump(self) -> dict[str, Any]:
        """As a JSON object; what is at its default is left out."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def load(cls, payload: Any) -> Self:
        """The value of a payload; fields of later releases are left out.

        :raises ValueError: when it is none of this kind.
        """
        if not isinstance(payload, dict):
            raise ValueError(f"a payload of {cls.__name__} is an object: {payload!r}")
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore
        try:
            return cls(**{k: v for k, v in payload.items() if k in known})
        except TypeError as error:
            raise ValueError(f"{payload!r:.200}: {error}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Action(_Payload):
    """A node of a stack's graph at work: the payload of :data:`ACTION`.

    ``resource`` is the row's id, or a snapshot's uuid when ``node_type`` says so.
    ``abandon`` None: nobody knows. ``engine`` and ``host``: who was at it. ``found``:
    no engine wrote it down before it began; the scan found it."""

    resource: int | str
    traversal: str
    is_update: bool
    node_type: str = "resource"
    abandon: bool | None = None
    adopt: bool = False
    engine: str | None = None
    host: str | None = None
    found: bool = False

    @property
    def node(self) -> str:
        """The node in this traversal, as text: what is retriggered once at a time."""
        return f"{self.traversal}/{self.resource}{'u' if self.is_update else 'c'}"

    def new_key(self) -> str:
        """A key of its own for each run of the node: two engines may get the same
        message, and Heat's lock decides which of them works."""
        return f"{self.node}/{secrets.token_hex(4)}"

    @property
    def found_key(self) -> str:
        """The key when the scan arms it: one for all scans."""
        return f"{self.node}/found"

    def attempt_key(self, number: int) -> str:
        """The key of its retrigger of that number, of :data:`RETRIGGER`."""
        return f"{self.node}#{number}"


@dataclasses.dataclass(frozen=True, slots=True)
class Timer(_Payload):
    """A traversal in progress: the payload of :data:`TIMER`. ``abandon`` None: nobody
    knows (the scan armed it)."""

    stack: str
    traversal: str
    action: str
    abandon: bool | None = None
    engine: str | None = None
    host: str | None = None

    @property
    def key(self) -> str:
        """Of this traversal."""
        return timer_key(self.stack, self.traversal)


def timer_key(stack: str, traversal: str) -> str:
    """The key of a traversal's timer."""
    return f"{stack}/{traversal}"


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotDelete(_Payload):
    """A resource's part of a snapshot that is being deleted: the message's own words,
    as the payload of :data:`SNAPSHOT`."""

    snapshot_id: str
    resource_name: str
    start_time: str | None = None
    is_stack_delete: bool = False
    current_traversal: str | None = None

    @property
    def node(self) -> str:
        """The part, as text. A resource's name may be long."""
        digest = hashlib.sha256(self.resource_name.encode()).hexdigest()[:16]
        return f"{self.snapshot_id}/{digest}"

    def new_key(self) -> str:
        """A key of its own for each run."""
        return f"{self.node}/{secrets.token_hex(4)}"
