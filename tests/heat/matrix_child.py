"""One scenario of Heat's own framework, and from each of its messages on, once for
each way to die there, the rest of it with our recovery.

Started by matrix.py as a script, by a Python with Heat and this package. The scenario
runs undisturbed in this process; before a message it is forked for each fault, and the
child goes on with that. Whoever dies stops in the middle (a greenlet that is never
continued): nothing unwinds, no handler of an exception runs. Results are lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import greenlet
import heat.tests.common  # noqa: F401  # chooses oslo.service's backend
import testtools
from heat.common import context
from heat.db import api as db_api
from heat.engine import check_resource, sync_point
from heat.engine import stack as parser
from heat.engine import worker as worker_module
from heat.rpc import listener_client, worker_client
from heat.tests import utils
from heat.tests.convergence import test_converge
from heat.tests.convergence.framework import (
    engine_wrapper,
    fake_resource,
    message_queue,
    processes,
    scenario,
    testutils,
)
from oslo_db.sqlalchemy import engines

from liveness import Done
from liveness.heat import recover
from liveness.heat.conf import HeatSettings
from liveness.heat.names import Action, Timer
from liveness.heat.scan_judge import judge
from liveness.heat.scan_rows import Rows

LIVING, DEAD = "living-engine", "dead-engine"
TRIES = 20

# Where a worker dies with a message, and where an engine dies with a user's request.
DROPPED = "dropped"
WORKER = (
    DROPPED,
    "in the action",
    "after the action",
    "before the next is cast",
    "before the second is told",
    "before the stack is complete",
)
ENGINE = (
    "before the resources",
    "before the sync points",
    "between the sync points",
    "between the leaves",
)

# How it is found: by the deadline that the dead engine had armed (and at once, so that
# all goes on as it would have); by the scan alone; by both, but so late that the user
# has asked for other things meanwhile.
AT_ONCE, SCANNED, LATE = "at once", "by the scan", "late"
REQUESTS = ("create_stack", "update_stack", "delete_stack", "rollback_stack")


class Death:
    """Where the current message is to die. A point is passed by name."""

    def __init__(self) -> None:
        self.point = ""
        self.passed: dict[str, int] = {}
        self.died = False

    def pass_by(self, point: str, at: int = 1) -> None:
        self.passed[point] = self.passed.get(point, 0) + 1
        if point == self.point and self.passed[point] == at:
            self.died = True
            greenlet.getcurrent().parent.switch()
            raise AssertionError("the dead do not come back")

    def run(self, point: str, work: Callable[[], Any]) -> bool:
        """Do ``work`` until it is over or passes ``point``: then True."""
        self.point, self.died = point, False
        self.passed.clear()
        body = greenlet.greenlet(work)
        GRAVEYARD.append(body)
        body.switch()
        self.point = ""
        return self.died


GRAVEYARD: list[Any] = []
DEATH = Death()


class Worker(processes.worker_wrapper.Worker):
    """Heat's, but for the id of the engine that it plays."""

    engine_id = LIVING


def service(host: str, topic: str, engine_id: str, threads: Any) -> Any:
    return SERVICE(host, topic, Worker.engine_id, threads)


SERVICE = worker_module.WorkerService


class Loop:
    """As Heat's: a message of the engine, a message of the worker, and so on. With a
    fault, whatever is sent again takes the place of what was lost."""

    def __init__(self, procs: Any, fork: Fork) -> None:
        self._engine, self._worker = procs.engine, procs.worker
        self._fork = fork
        self._recovery = Recoveries(procs)

    def __call__(self) -> None:
        while self._turn(self._engine) | self._turn(self._worker):
            pass
        self._settle()

    def _turn(self, processor: Any) -> bool:
        if processor is self._engine and self._fork.late and not self._idle():
            self._settle()  # somebody looks; the user came meanwhile
        message = next(iter(processor.queue._queue), None)
        if message is None:
            return False
        faults: tuple[str, ...] = ()
        if processor is self._worker:
            faults = WORKER
        elif message.name in REQUESTS:
            faults = ENGINE
        fault = self._fork(describe(message), faults)
        if fault:
            self._fault(processor, message, fault)
        elif self._fork.cell and message.name == "_execute":
            self._look(processor, message)
        else:
            processor()
        return True

    def _idle(self) -> bool:
        message = next(iter(self._engine.queue._queue), None)
        return message is None or message.name != "_execute"

    def _look(self, processor: Any, message: Any) -> None:
        """How many there are at one moment is another matter after a death; but what
        is not right yet must be when all is quiet."""
        called = getattr(message.data.func, "func", None)
        if "count" in getattr(called, "__name__", ""):
            processor.queue.get()
            return
        try:
            processor()
        except Exception:
            self._settle()
            message.data.func()

    def _fault(self, processor: Any, message: Any, fault: str) -> None:
        if fault == DROPPED:
            processor.queue.get()
        else:
            Worker.engine_id = DEAD
            died = DEATH.run(fault, processor)
            Worker.engine_id = LIVING
            if not died:
                finish("not there")
        how = self._fork.how
        if processor is self._engine:
            self._recovery.of_request(message, scanned=how == SCANNED)
        elif fault != DROPPED and how != SCANNED:
            self._recovery.of_action(message.data)
        if how == LATE:
            return
        queue = self._worker.queue
        queue.lost = getattr(message.data, "resource_id", None)
        self._recovery.now()
        queue.lost = None
        for _ in range(queue.sent_again):  # as if nothing had happened
            self._worker()

    def _settle(self) -> None:
        """Until nobody has anything to do."""
        while True:
            while self._worker():
                pass
            if not self._recovery.now():
                return


class Queue(message_queue.MessageQueue):
    """What is sent again for the resource ``lost`` goes to the head of the queue: that
    is where it was. All else goes to its end, as always."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lost: Any = None
        self.sent_again = 0

    def send(self, name: str, data: Any = None) -> None:
        if self.lost is None or not self._again(data.resource_id):
            super().send(name, data)
            return
        self._queue.insert(self.sent_again, message_queue.Message(name, data))
        self.sent_again += 1

    def _again(self, resource_id: Any) -> bool:
        if resource_id == self.lost:
            return True
        row = db_api.resource_get(context.get_admin_context(), resource_id)
        return bool(row.replaces == self.lost)


class Recoveries:
    """What the survivors do: handlers' work, and the scan's."""

    def __init__(self, procs: Any) -> None:
        self._engine, self._queue = procs.engine, procs.worker.queue
        self._rows = Rows()
        self._waiting: list[Callable[[], Any]] = []
        self._left = TRIES
        self._request: Any = None
        threads = engine_wrapper.SynchronousThreadGroupManager()
        settings = HeatSettings(
            retriggers_per_second=1000.0, retriggers_per_second_of_project=1000.0
        )
        self._recovery = recover.Recovery(
            "survivor", threads, settings, lambda engine_id: engine_id == DEAD
        )

    def of_action(self, data: Any) -> None:
        """A resource_action was armed, and is an orphan now."""
        action = Action(
            resource=data.resource_id,
            traversal=data.current_traversal,
            is_update=data.is_update,
            node_type=data.node_type,
            abandon=bool(data.abandon),
            engine=DEAD,
            host="lost-host",
        )
        self._waiting.append(lambda: self._recovery.action(action))

    def of_request(self, message: Any, scanned: bool) -> None:
        """The stack_timer of what it began is an orphan now. What cannot be begun again
        fails, and then the user asks again."""
        self._request = message
        for view in () if scanned else self._views():
            self._begin(Timer(view.id, view.traversal, view.action, False, DEAD, "h"))

    def now(self) -> bool:
        """The handlers' work, then the scan's. True: there was something to do."""
        if FORK.nothing:
            return False
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            self._do(work)
        found = self._scan()
        if self._request is not None and failed_cleanly():
            if any(m.name == "rollback_stack" for m in self._asked):
                finish("failed cleanly")  # what is rolled back is another thing then
            self._engine.queue.send_priority(*self._request)
            self._request = None
        return found or bool(waiting)

    @property
    def _asked(self) -> list[Any]:
        return [self._request, *self._engine.queue._queue]

    def _scan(self) -> bool:
        """Whatever nobody has, and is not in a queue either: time enough has passed."""
        queued = {
            (m.data.resource_id, m.data.current_traversal, m.data.is_update)
            for m in self._queue._queue
            if m.name == "check_resource"
        }
        waiting = len(self._waiting)
        for view in self._views():
            verdict = judge(view, frozenset(), lambda e: e != DEAD, False)
            if not verdict.begun:
                self._begin(Timer(view.id, view.traversal, view.action, False))
            for action in verdict.lost:
                place = (action.resource, action.traversal, action.is_update)
                if place not in queued:
                    self._waiting.append(
                        lambda action=action: self._recovery.action(action)
                    )
        found, self._waiting = self._waiting[waiting:], self._waiting[:waiting]
        for work in found:
            self._do(work)
        return bool(found)

    def _begin(self, timer: Timer) -> None:
        self._waiting.append(lambda: self._recovery.stack(timer))

    def _do(self, work: Callable[[], Any]) -> None:
        self._left -= 1
        if not self._left:
            finish("endless", "it is recovered again and again")
        outcome = work()
        if outcome is not None and not isinstance(outcome, Done):
            self._waiting.append(work)

    def _views(self) -> Iterator[Any]:
        found, _ = self._rows.page("")
        for stack_id in found:
            view = self._rows.view(stack_id, data=True)
            if view is not None:
                yield view


def failed_cleanly() -> bool:
    """The request failed with a reason of ours."""
    stack = db_api.stack_get_by_name(utils.dummy_context(), "foo")
    return stack is not None and "died before the" in (stack.status_reason or "")


def describe(message: Any) -> str:
    if message.name != "check_resource":
        return message.name
    kind = "update" if message.data.is_update else "cleanup"
    return f"{kind} of {message.data.resource_id}"


HOW = {
    **{fault: (AT_ONCE, SCANNED, LATE) for fault in WORKER + ENGINE},
    DROPPED: (SCANNED, LATE),
}


# --- forking ------------------------------------------------------------------------


class Fork:
    """Before each message, a child for each fault; the parent goes on without."""

    def __init__(self, every: int, nothing: bool) -> None:
        """Only every so many-th cell of the matrix. ``nothing``: with no recovery."""
        self._every, self.nothing = every, nothing
        self._messages = 0
        self.cell: dict[str, Any] = {}

    @property
    def how(self) -> str:
        return str(self.cell.get("how", ""))

    @property
    def late(self) -> bool:
        return self.how == LATE

    def __call__(self, what: str, faults: tuple[str, ...]) -> str:
        if self.cell or not faults:  # a child has its fault
            return ""
        self._messages += 1
        for fault in faults:
            for how in HOW[fault]:
                cell = zlib.crc32(f"{self._messages} {fault} {how}".encode())
                if cell % self._every == 0 and self._fork(what, fault, how):
                    return fault
        return ""

    def _fork(self, what: str, fault: str, how: str) -> bool:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return False
        # oslo.db would open another database in memory, an empty one.
        db_api.get_engine().pool.connection.info["pid"] = os.getpid()
        self.cell = dict(message=self._messages, what=what, fault=fault, how=how)
        return True


def finish(word: str, reason: str = "") -> None:
    """Write what came of this process, and end it."""
    line = {"scenario": NAME, **FORK.cell, "word": word, "reason": reason[-2000:]}
    os.write(OUT, (json.dumps(line) + "\n").encode())
    os._exit(0)


# --- the points of death ------------------------------------------------------------


@contextlib.contextmanager
def points() -> Iterator[None]:
    """Make the points known, where Heat passes them."""
    with contextlib.ExitStack() as stack:
        # It gives way to others after each statement; there are no other threads.
        stack.enter_context(mock.patch.object(engines, "time"))

        def before(owner: Any, name: str, *passed: tuple[str, int]) -> None:
            original = getattr(owner, name)

            def pass_by(*args: Any, **kwargs: Any) -> Any:
                for point, at in passed:
                    DEATH.pass_by(point, at)
                return original(*args, **kwargs)

            stack.enter_context(mock.patch.object(owner, name, pass_by))

        def after(owner: Any, name: str, point: str) -> None:
            original = getattr(owner, name)

            def pass_by(*args: Any, **kwargs: Any) -> Any:
                answer = original(*args, **kwargs)
                DEATH.pass_by(point)
                return answer

            stack.enter_context(mock.patch.object(owner, name, pass_by))

        for handler in ("handle_create", "handle_update", "handle_delete"):
            after(fake_resource.TestResource, handler, "in the action")
        before(
            check_resource.CheckResource,
            "_initiate_propagate_resource",
            ("after the action", 1),
        )
        before(
            check_resource,
            "propagate_check_resource",
            ("before the second is told", 2),
        )
        before(parser.Stack, "mark_complete", ("before the stack is complete", 1))
        before(parser.Stack, "_update_or_store_resources", ("before the resources", 1))
        before(
            sync_point,
            "create",
            ("before the sync points", 1),
            ("between the sync points", 2),
        )
        yield


def dead_engines() -> contextlib.ExitStack:
    """Messages are run by whatever engine is on; a ping finds nobody, as with us."""
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(worker_module, "WorkerService", service))
    client = listener_client.EngineListenerClient
    stack.enter_context(mock.patch.object(client, "is_alive", lambda *_: False))
    return stack


class MatrixTest(test_converge.ScenarioTest):
    scenarios = ()
    in_progress = False

    def setUp(self) -> None:
        super().setUp()
        # A mock of Heat's test; what we send again is sent with it.
        context.StoredContext.from_dict = lambda *_, **__: utils.dummy_context()
        self.procs = processes.Processes()
        self.procs.worker = processes.worker = Worker()
        self.procs.worker.queue = Queue("worker")
        self.procs.engine = processes.engine = engine_wrapper.Engine(self.procs.worker)
        worker_client.WorkerClient.check_resource.side_effect = self._cast

    def _cast(self, *args: Any, **kwargs: Any) -> None:
        DEATH.pass_by("before the next is cast")
        DEATH.pass_by("between the leaves", 2)
        self.procs.worker.check_resource(*args, **kwargs)

    def test_scenario(self) -> None:
        self.procs.clear()
        with dead_engines(), points():
            scenario.Scenario(self.name, self.path)(
                Loop(self.procs, FORK), **testutils.scenario_globals(self.procs, self)
            )
        self.in_progress = bool(Rows().page("")[0])


def main(out: str, name: str, every: str, nothing: str) -> None:
    global OUT, NAME, FORK
    OUT = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    NAME, FORK = name, Fork(int(every), nothing == "nothing")
    test = MatrixTest("test_scenario")
    test.name, test.path = name, dict(scenario.list_all())[name]
    result = testtools.TestResult()
    try:
        test.run(result)
    except BaseException:
        finish("crashed", traceback.format_exc())
    wrong = [text for _, text in result.errors + result.failures]
    if test.in_progress:
        wrong.append("The stack is stuck.")
    finish("failed" if wrong else "held", "\n".join(wrong))


OUT, NAME, FORK = 0, "", Fork(1, False)

if __name__ == "__main__":
    main(*sys.argv[1:])
