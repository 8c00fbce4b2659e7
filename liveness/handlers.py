"""What a kind of deadline is, and what to do with one: handlers.

A handler takes a value and answers with a value (:mod:`liveness.model`): it sees
neither the database nor the sweep. It runs at least once for each deadline, perhaps
twice after a crash, so its effects should be idempotent;
:attr:`~liveness.model.Deadline.idempotency_key` names the attempt.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterator
from typing import Any

import stevedore

from liveness import clock, exceptions, log
from liveness.conf import Settings
from liveness.db.tables import KIND_LENGTH
from liveness.model import Deadline, Done, Outcome, Park, Rearm, Release, Retry

LOG = log.get(__name__)

NAMESPACE = "liveness.handlers"


class WhenOrphaned(enum.StrEnum):
    """What happens to a deadline whose owner died before it was due."""

    ADOPT = "adopt"
    """The new owner keeps the due time; no code runs. Right for timers."""

    RETRIGGER = "retrigger"
    """:meth:`Handler.orphaned` runs at once. Right for actions."""

    PARK = "park"
    """It waits for the operator."""


class Handler:
    """Base class of handlers. Set the attributes, write :meth:`expired`.

    None in an attribute means the option of the same name.
    """

    kind: str = ""
    when_orphaned: WhenOrphaned = WhenOrphaned.ADOPT
    handler_timeout: float | None = None
    max_attempts: int | None = None
    backoff_initial: float | None = None
    backoff_max: float | None = None

    def expired(self, deadline: Deadline) -> Outcome | None:
        """The promise has passed. Return an outcome; None means ``Done()``.

        Raise :class:`~liveness.exceptions.Reject` to park the deadline; any other
        exception is a retry.
        """
        raise NotImplementedError

    def orphaned(self, deadline: Deadline) -> Outcome | None:
        """The owner is gone and the promise has not passed yet. Called only with
        ``RETRIGGER``, again for each retry. By default the same as expired."""
        return self.expired(deadline)

    def __str__(self) -> str:
        return self.kind


class FunctionHandler(Handler):
    """A handler made of one function of a deadline."""

    def __init__(
        self, kind: str, function: Callable[[Deadline], Outcome | None]
    ) -> None:
        self.kind = kind
        self._function = function

    def expired(self, deadline: Deadline) -> Outcome | None:
        return self._function(deadline)


class Handlers:
    """The handlers of one engine, by kind."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._by_kind: dict[str, Handler] = {}

    def add(self, handler: Handler | type[Handler]) -> None:
        """Afterwards ``handler`` handles its kind, in place of any other.

        :raises ConfigError: when an attribute cannot work.
        """
        if isinstance(handler, type):
            handler = handler()
        problem = _problem(handler)
        if problem:
            raise exceptions.ConfigError(reason=f"handler {handler!r}: {problem}")
        self._by_kind[handler.kind] = handler

    def load(self) -> None:
        """Add every handler that an installed package offers (entry points of group
        ``liveness.handlers``), for kinds that have none yet. One that cannot be loaded
        is logged and left out."""

        def failed(manager: Any, entry_point: Any, error: BaseException) -> None:
            LOG.error(
                "Handler %s (%s) could not be loaded: %s. Its deadlines are left to"
                " other engines.",
                entry_point.name,
                entry_point.value,
                error,
                event="handler-unloaded",
            )

        manager = stevedore.ExtensionManager(NAMESPACE, on_load_failure_callback=failed)
        for extension in manager:
            if getattr(extension.plugin, "kind", None) in self:
                continue
            try:
                self.add(extension.plugin)
            except Exception as error:
                failed(manager, extension.entry_point, error)

    def get(self, kind: str) -> Handler | None:
        """The handler of ``kind``, or None."""
        return self._by_kind.get(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_kind)

    def __len__(self) -> int:
        return len(self._by_kind)

    def __contains__(self, kind: object) -> bool:
        return kind in self._by_kind

    # --- a kind's own numbers, or the options' --------------------------------

    def timeout(self, kind: str) -> float:
        """Seconds that a handler of ``kind`` may run."""
        own = getattr(self.get(kind), "handler_timeout", None)
        return self.settings.handler_timeout if own is None else own

    def max_attempts(self, kind: str) -> int:
        """Claims of a deadline of ``kind`` before it is parked."""
        own = getattr(self.get(kind), "max_attempts", None)
        return self.settings.max_attempts if own is None else own

    def backoff(self, kind: str, attempts: int) -> float:
        """Seconds until the next try after ``attempts`` tries: doubling from the
        initial, up to the maximum, half of it jitter."""
        handler = self.get(kind)
        initial = getattr(handler, "backoff_initial", None)
        longest = getattr(handler, "backoff_max", None)
        initial = self.settings.backoff_initial if initial is None else initial
        longest = self.settings.backoff_max if longest is None else longest
        full = min(longest, initial * 2.0 ** min(attempts - 1, 60))
        return full * random.uniform(0.5, 1.0)


DONE = Done()


def answer(handler: Handler, deadline: Deadline) -> Outcome:
    """Run the handler for ``deadline`` and return what it answered.

    :raises TypeError: when that is no outcome that can be written, and not None.
    """
    run = handler.expired if deadline.expired else handler.orphaned
    outcome = run(deadline)
    if outcome is None:
        return DONE
    if problem := _nonsense(outcome):
        raise TypeError(f"handler {handler} answered {outcome!r:.100}: {problem}")
    return outcome


def _nonsense(outcome: Any) -> str | None:
    """What is wrong with an answer, or None."""
    if type(outcome) not in (Done, Rearm, Retry, Release, Park):
        return "that is no outcome"
    due_in = getattr(outcome, "due_in", None)
    if isinstance(outcome, Rearm) or due_in is not None:
        try:
            clock.seconds(due_in, "due_in")
        except ValueError as error:
            return str(error)
    if not isinstance(getattr(outcome, "reason", ""), str):
        return "its reason is no text"
    return None


def _problem(handler: Handler) -> str | None:
    if not isinstance(handler, Handler):
        return "it is no liveness.Handler"
    if problem := kind_problem(handler.kind):
        return problem
    if handler.when_orphaned not in tuple(WhenOrphaned):
        return f"when_orphaned must be one of {', '.join(WhenOrphaned)}"
    try:
        for name in ("handler_timeout", "backoff_initial", "backoff_max"):
            if getattr(handler, name) is not None:
                clock.seconds(getattr(handler, name), name)
    except ValueError as error:
        return str(error)
    most = handler.max_attempts
    whole = isinstance(most, int) and not isinstance(most, bool)
    if most is not None and not (whole and 1 <= most <= 1_000_000):
        return f"max_attempts must be a whole number of at least 1, not {most!r}"
    return None


def kind_problem(kind: Any) -> str | None:
    """What is wrong with ``kind`` as the name of a kind, or None."""
    if not isinstance(kind, str) or not kind:
        return f"its kind must be a text that is not empty, not {kind!r}"
    if len(kind) > KIND_LENGTH or not kind.isascii() or not kind.isprintable():
        return f"its kind must be at most {KIND_LENGTH} printable ASCII characters"
    if kind != kind.strip():
        return "its kind must not begin or end with a space"
    return None
