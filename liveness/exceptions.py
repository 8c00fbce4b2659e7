"""Every error that the package raises; the docstring is the message.

All of them derive from :class:`LivenessError`, so that a command line can print
one line and a host program can catch one class.
"""

from __future__ import annotations

from typing import Any


class LivenessError(Exception):
    """Something is wrong: {reason}"""

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__((type(self).__doc__ or "").strip().format(**facts))


class ConfigError(LivenessError):
    """The configuration cannot work: {reason}"""


# --- the database -----------------------------------------------------------


class DatabaseError(LivenessError):
    """The database {url} cannot be used: {reason}"""


class SchemaMissing(DatabaseError):
    """The database {url} has no liveness tables: run 'liveness-manage db sync'."""


class SchemaTooOld(DatabaseError):
    """The database {url} is at schema {found}, this release needs {needed}: run \
'liveness-manage db sync'."""


class SchemaTooNew(DatabaseError):
    """The database {url} is at schema {found}, this release knows {needed}: \
upgrade this program."""


# --- engines ----------------------------------------------------------------


class EngineError(LivenessError):
    """Engine {engine_id}: {reason}"""


class EngineIdTaken(EngineError):
    """Engine id {engine_id} is already registered (host {host}, pid {pid}): two \
programs use one id, or an incarnation came back; give every start a new id."""


class NotRunning(EngineError):
    """This engine is not running ({reason}): start it first."""


class NotTrusted(EngineError):
    """Engine {engine_id} may not act now: {reason}"""


class Suspended(NotTrusted):
    """Engine {engine_id} is suspended: no beat was committed for {seconds:.1f} s; \
it goes on when a beat succeeds."""


class Fenced(NotTrusted):
    """Engine {engine_id} was fenced ({reason}); its deadlines belong to others. \
Start a new incarnation."""


# --- deadlines --------------------------------------------------------------


class DeadlineError(LivenessError):
    """Deadline {kind}/{key}: {reason}"""


class InvalidDeadline(DeadlineError):
    """Deadline {kind}/{key} was not written: {reason}"""


class UnknownKind(DeadlineError):
    """No handler for kind {kind!r} is installed here (known: {known}); register \
one before arming {key!r}."""


class AlreadyArmed(DeadlineError):
    """Deadline {kind}/{key} is already armed (owner {owner_id}, {state}); disarm \
or adopt it, arming never overwrites."""


class StaleDeadline(DeadlineError):
    """Deadline {kind}/{key} has moved on since this value of it was given out \
(token {token:x}); nothing was changed."""


class NotOrphaned(DeadlineError):
    """Deadline {kind}/{key} cannot be adopted: its owner {owner_id} is alive."""


class NoSuchDeadline(DeadlineError):
    """There is no deadline {kind}/{key}."""


class NotParked(DeadlineError):
    """Deadline {kind}/{key} is {state}, not parked; nothing was changed."""


class Reject(LivenessError):
    """The handler refuses this deadline: {reason}"""

    def __init__(self, reason: object) -> None:
        super().__init__(reason=str(reason))
