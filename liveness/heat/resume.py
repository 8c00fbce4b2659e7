"""Waiting for what a dead engine began to create, in its place."""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import check_resource, node_data, resource, scheduler

from liveness.heat import names, rows

if TYPE_CHECKING:
    from liveness.heat.recover import Case, Recovery

LOG = logging.getLogger(__name__)


def resources_of(data: dict[Any, Any]) -> dict[str, Any]:
    """What the node's input data says of the resources that it needs."""
    found: dict[str, Any] = node_data.load_resources_data(data)
    return found


def begin(recovery: Recovery, case: Case, data: dict[Any, Any]) -> bool:
    """Take the row's lock over in one step, and go on in a thread of Heat's. False:
    somebody else has it."""
    resumption = Resumption(recovery, case, data)
    recovery.threads.start(case.stack.id, resumption.run)
    return resumption.taken.result()


class Resumption:
    """One create that is waited for. It stands under a deadline of its own."""

    def __init__(self, recovery: Recovery, case: Case, data: dict[Any, Any]) -> None:
        self._recovery = recovery
        self._case = case
        self._data = data
        self.taken: Taken = Taken()

    def run(self) -> None:
        """The body of the thread."""
        try:
            with self._guard():
                rsrc = self._take()
                if rsrc is not None:
                    self._finish(rsrc)
        except Exception:
            LOG.exception("Resource %s could not be resumed.", self._case.row.id)
        finally:
            self.taken.set(False)

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

    def _take(self) -> Any | None:
        """The resource, ours and loaded; None when somebody was quicker."""
        case, data = self._case, resources_of(self._data)
        rsrc, self._definition, self._stack = resource.Resource.load(
            case.stack.context,
            case.row.id,
            case.stack.current_traversal,
            True,
            data,
        )
        self._stack.thread_group_mgr = self._recovery.threads
        try:
            # From the dead engine to us at once: free in between, it would be stolen.
            rows.swap(case.row, engine_id=self._recovery.me)
        except rows.Lost:
            return None
        rsrc._calling_engine_id = self._recovery.me
        rsrc._atomic_key = (case.row.atomic_key or 0) + 1
        rsrc.requires = {d.primary_key for d in data.values() if d is not None}
        self.taken.set(True)
        return rsrc

    def _finish(self, rsrc: Any) -> None:
        try:
            self._poll(rsrc)
        except check_resource.CancelOperation as cancelled:
            self._failed(rsrc, f"CREATE aborted ({cancelled})")
            self._recovery.resend(self._case)
        except scheduler.Timeout:
            self._failed(rsrc, "Timed out")
            self._stack.mark_failed("Timed out")
        except exception.UpdateInProgress:
            LOG.warning("Resource %s was taken from us.", rsrc.id)
        except Exception as error:
            self._gave_error(rsrc, error)
        else:
            rsrc.state_set(rsrc.CREATE, rsrc.COMPLETE, lock=rsrc.LOCK_RELEASE)
            self._recovery.resend(self._case)

    def _poll(self, rsrc: Any) -> None:
        messages: queue.Queue[str] = queue.Queue()
        threads, stack_id = self._recovery.threads, self._case.stack.id
        threads.add_msg_queue(stack_id, messages)
        try:
            scheduler.TaskRunner(self._task, rsrc)(
                timeout=self._stack.time_remaining(),
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
            self._recovery.replace(self._case)
        else:
            self._stack.mark_failed(f"Resource CREATE failed: {failure}")

    @staticmethod
    def _failed(rsrc: Any, reason: str) -> None:
        rsrc.state_set(rsrc.CREATE, rsrc.FAILED, reason, lock=rsrc.LOCK_RELEASE)


class Taken:
    """Whether the lock was taken: set once, waited for by another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._value = False

    def set(self, value: bool) -> None:
        """The first value counts."""
        if not self._event.is_set():
            self._value = value
            self._event.set()

    def result(self) -> bool:
        """Wait for it."""
        self._event.wait()
        return self._value


def _not_found(rsrc: Any, error: Exception) -> bool:
    if type(error).__name__.removesuffix("_Remote").endswith("NotFound"):
        return True
    return bool(rsrc._default_client_plugin().is_not_found(error))
