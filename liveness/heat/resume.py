"""Waiting for what a dead engine began to create, in its place."""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import queue
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import check_resource, resource, scheduler

from liveness.heat import messages, names, rows
from liveness.heat.case import Case, resources_of

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery

LOG = logging.getLogger(__name__)


class Begun(enum.Enum):
    """What came of the beginning."""

    TAKEN = enum.auto()
    """The lock is ours, and a thread is at it."""

    LOST = enum.auto()
    """Somebody else has it."""

    ENOUGH = enum.auto()
    """There were attempts enough."""


def begin(recovery: Recovery, case: Case) -> Begun:
    """Take the row's lock over in one step, and go on in a thread of Heat's.

    Raises what Heat raises while the resource is loaded: nothing was done.
    """
    resumption = Resumption(recovery, case)
    recovery.threads.start(case.stack.id, resumption.run)
    return resumption.begun.result()


class Resumption:
    """One create that is waited for. It stands under a deadline of its own."""

    def __init__(self, recovery: Recovery, case: Case) -> None:
        self._recovery = recovery
        self._case = case
        self.begun: Future[Begun] = Future()

    def run(self) -> None:
        """The body of the thread."""
        try:
            with self._guard():
                rsrc = self._case.load()
                begun = self._take(rsrc)
                self.begun.set_result(begun)
                if begun is Begun.TAKEN:
                    self._finish(rsrc)
        except Exception as error:
            if self.begun.done():
                LOG.exception("Resource %s could not be resumed.", self._case.row.id)
            else:
                self.begun.set_exception(error)

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        recovery, case = self._recovery, self._case
        if recovery.guards is None:
            return contextlib.nullcontext()
        action = names.Action(
            resource=case.row.id,
            traversal=case.stack.current_traversal,
            is_update=True,
            engine=recovery.me,
            host=recovery.host,
        )
        return recovery.guards.guard(names.ACTION, action)

    def _take(self, rsrc: Any) -> Begun:
        recovery, case = self._recovery, self._case
        attempt = recovery.attempts.count(case)
        if attempt is None:
            return Begun.ENOUGH
        try:
            # From the dead engine to us at once: free in between, it would be stolen.
            rows.swap(case.row, engine_id=recovery.me)
        except rows.Lost:
            return Begun.LOST
        rsrc._calling_engine_id = recovery.me
        rsrc._atomic_key = (case.row.atomic_key or 0) + 1
        needed = resources_of(case.data or {}).values()
        rsrc.requires = {d.primary_key for d in needed if d is not None}
        messages.tell(recovery, case, "its CREATE is waited for", attempt)
        return Begun.TAKEN

    def _finish(self, rsrc: Any) -> None:
        try:
            self._poll(rsrc)
        except check_resource.CancelOperation as cancelled:
            self._failed(rsrc, f"CREATE aborted ({cancelled})")
            messages.resend(self._recovery, self._case)
        except scheduler.Timeout:
            self._failed(rsrc, "Timed out")
            rsrc.stack.mark_failed("Timed out")
        except exception.UpdateInProgress:
            LOG.warning("Resource %s was taken from us.", rsrc.id)
        except Exception as error:
            self._gave_error(rsrc, error)
        else:
            rsrc.state_set(rsrc.CREATE, rsrc.COMPLETE, lock=rsrc.LOCK_RELEASE)
            messages.resend(self._recovery, self._case)

    def _poll(self, rsrc: Any) -> None:
        messages: queue.Queue[str] = queue.Queue()
        threads, stack_id = self._recovery.threads, self._case.stack.id
        threads.add_msg_queue(stack_id, messages)
        try:
            scheduler.TaskRunner(self._task, rsrc)(
                timeout=rsrc.stack.time_remaining(),
                progress_callback=functools.partial(
                    check_resource._check_for_message, messages
                ),
            )
        finally:
            threads.remove_msg_queue(None, stack_id, messages)

    @staticmethod
    def _task(rsrc: Any) -> Iterator[float | None]:
        while True:
            try:
                # Every class that is resumed asks by the id, whatever it calls it.
                if rsrc.check_create_complete(rsrc.resource_id):
                    return
                yield None
            except resource.PollDelay as delay:
                yield delay.period

    def _gave_error(self, rsrc: Any, error: Exception) -> None:
        """As Heat's own create: what is in error or was never made is made again,
        another failure is the stack's."""
        LOG.info("Resource %s: %s", rsrc.id, error)
        failure = exception.ResourceFailure(error, rsrc, rsrc.CREATE)
        self._failed(rsrc, str(failure))
        if isinstance(error, exception.ResourceInError) or _not_found(rsrc, error):
            messages.replace(self._recovery, self._case)
        else:
            rsrc.stack.mark_failed(f"Resource CREATE failed: {failure}")

    @staticmethod
    def _failed(rsrc: Any, reason: str) -> None:
        rsrc.state_set(rsrc.CREATE, rsrc.FAILED, reason, lock=rsrc.LOCK_RELEASE)


def _not_found(rsrc: Any, error: Exception) -> bool:
    if type(error).__name__.removesuffix("_Remote").endswith("NotFound"):
        return True
    return bool(rsrc._default_client_plugin().is_not_found(error))
