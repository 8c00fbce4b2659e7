"""What is done to Heat, one function a case.

Each says in its docstring what a reader of the table wants to know. `stock` is the
word for what Heat does without this package (`Outcome.word`); the run checks it, so
that the table is never a legend. Which end is right is said by `run.expect`.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pymysql

from tests.heat.client import RemoteError
from tests.heat.fleet import Worker
from tests.heat.lab import Row
from tests.heat.run import Run
from tests.heat.templates import (
    chain,
    changed,
    crowd,
    fan,
    nested,
    resource,
    template,
)
from tests.proc import until

COMPLETE = "CREATE_COMPLETE"

# As an operator has to say of a class of his own.
DEPLOYMENTS = "OS::Heat::SoftwareDeployment,Liveness::Deployment"


@dataclass(frozen=True)
class Scenario:
    name: str
    play: Callable[[Run], None]
    stock: tuple[str, ...]
    short: bool
    masters: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join((self.play.__doc__ or "").split())


SCENARIOS: dict[str, Scenario] = {}

# What only the scan finds is looked for more often than once in some minutes.
SCAN = {"liveness__scan_interval": 4, "liveness__scan_patience": 6}


def scenario(
    *stock: str, short: bool = False, masters: int = 2, **options: Any
) -> Callable:
    def register(play: Callable[[Run], None]) -> Callable[[Run], None]:
        name = play.__name__
        SCENARIOS[name] = Scenario(name, play, stock, short, masters, options)
        return play

    return register


# --- nobody dies ------------------------------------------------------------------


@scenario("right", short=True)
def nobody_dies(run: Run) -> None:
    """A chain of three, all engines alive."""
    stack = run.create(chain(3, create_secs=2))
    run.expect(stack, COMPLETE)


# --- an engine is killed while it holds a create -------------------------------------


@scenario("stuck")
def killed_creating_plain(run: Run) -> None:
    """Engine killed while it polls a create; a class that Heat replaces."""
    stack = run.create(chain(3, "Plain", create_secs=4))
    run.kill_at(stack, "poll", "r1")
    run.expect(stack, COMPLETE, makes={"r1": 2})


@scenario("stuck", short=True)
def killed_creating_server(run: Run) -> None:
    """Engine killed while it polls a create; a class that asks the cloud (Server)."""
    stack = run.create(chain(3, create_secs=4))
    run.kill_at(stack, "poll", "r1")
    run.expect(stack, COMPLETE)
    assert_finished(run, stack, "r1")


@scenario("stuck")
def killed_creating_port(run: Run) -> None:
    """The same, of a class whose check is handed no id (Port)."""
    stack = run.create(chain(2, "Port", create_secs=4))
    run.kill_at(stack, "poll", "r0")
    run.expect(stack, COMPLETE)
    assert_finished(run, stack, "r0")


@scenario("stuck", liveness__resumed_types=DEPLOYMENTS)
def killed_creating_deployment(run: Run) -> None:
    """The same, of a class whose second create is a second run of a script."""
    stack = run.create(chain(2, "Deployment", create_secs=4))
    run.kill_at(stack, "poll", "r0")
    run.expect(stack, COMPLETE)
    assert_finished(run, stack, "r0")


@scenario("stuck", liveness__resumed_types=DEPLOYMENTS)
def killed_before_the_deployment_exists(run: Run) -> None:
    """Engine killed after an id was written down that nothing has yet."""
    stack = run.create(chain(2, "Deployment", gap_secs=6))
    run.journal.wait(stack, "asked", "r0")
    until(lambda: any(row.physical for row in run.lab.rows(stack)), 30)
    run.kill(stack, "r0", run.lab.holder(stack, "r0"))
    run.expect(stack, COMPLETE)


@scenario("stuck")
def killed_before_anything_exists(run: Run) -> None:
    """Engine killed inside the create call, before the cloud has made anything."""
    stack = run.create(chain(2, before_secs=6))
    run.kill_at(stack, "asked", "r0")
    run.expect(stack, COMPLETE)


@scenario("stuck")
def killed_before_the_id_is_written(run: Run) -> None:
    """Engine killed after the cloud made it, before Heat wrote down its id: a second
    cannot be avoided where nothing can be looked up by name."""
    stack = run.create(chain(2, "Plain", gap_secs=6))
    run.kill_at(stack, "create", "r0")
    run.expect(stack, COMPLETE, makes={"r0": 2}, leaks=1)


@scenario("stuck")
def killed_and_the_cloud_failed(run: Run) -> None:
    """Engine killed in a create that has ended in ERROR when a survivor looks."""
    stack = run.create(chain(2, create_secs=6))
    line = run.journal.wait(stack, "poll", "r0")
    # What nobody looks at any more cannot be seen as ready meanwhile.
    run.kill(stack, "r0", run.worker(line))
    run.journal.set_status(line.physical, "ERROR")
    run.expect(stack, COMPLETE, "CREATE_FAILED", makes={"r0": 2})


@scenario("stuck")
def killed_twice(run: Run) -> None:
    """The engine that holds a create is killed, then the one that took over."""
    stack = run.create(chain(2, create_secs=12))
    first = run.kill_at(stack, "poll", "r0")
    until(lambda: pollers(run, stack, "r0") - {first.pid}, 40)
    for pid in pollers(run, stack, "r0") - {first.pid}:
        run.kill(stack, "r0", *(w for w in run.lab.workers if w.pid == pid))
    run.expect(stack, COMPLETE)


@scenario("stuck", short=True, executor_thread_pool_size=2)
def killed_with_messages_waiting(run: Run) -> None:
    """Engine killed with messages waiting behind its thread pool of 2: acked, never
    run, in no row."""
    stack = run.create(crowd(8, create_secs=12))
    # One leaf is cast a second: when the last rows are known, all are under way.
    until(lambda: len(run.lab.rows(stack)) == 8, 30)
    time.sleep(9)
    line = run.journal.of(stack, "create")[-1]
    run.kill(stack, line.tag, run.worker(line))
    run.expect(stack, COMPLETE)


@scenario("stuck")
def killed_in_a_fan(run: Run) -> None:
    """Engine killed in the middle of ten: one, eight that need it, one that needs
    them all."""
    stack = run.create(fan(8, create_secs=4))
    run.kill_at(stack, "poll", "r3")
    run.expect(stack, COMPLETE)


@scenario("stuck")
def host_lost(run: Run) -> None:
    """Master and workers of one host killed at once, while they hold a create."""
    stack = run.create(chain(3, create_secs=4))
    worker = run.at(stack, "poll", "r1")
    run.mark(stack, "r1", {worker.pid})
    worker.master.kill_host()
    run.expect(stack, COMPLETE)


@scenario("stuck", graceful_shutdown_timeout=5)
def master_killed(run: Run) -> None:
    """Only the master killed: its worker drains, and ends when the graceful timeout
    (5 s here) does, in the middle of an action."""
    stack = run.create(chain(2, create_secs=25))
    worker = run.at(stack, "poll", "r0")
    run.mark(stack, "r0", {worker.pid})
    begin = time.monotonic()
    worker.master.kill()
    until(lambda: not worker.alive, 90)
    run.note(f"its worker ended after {time.monotonic() - begin:.1f} s")
    run.expect(stack, COMPLETE)


@scenario("stuck", short=True, graceful_shutdown_timeout=5)
def sigterm_with_a_long_action(run: Run) -> None:
    """SIGTERM to a host whose action outlasts the graceful timeout (5 s here)."""
    stack = run.create(chain(2, create_secs=20))
    worker = run.at(stack, "poll", "r0")
    run.mark(stack, "r0", {worker.pid})
    begin = time.monotonic()
    worker.master.sigterm()
    worker.master.wait_ended(60)
    run.note(f"ended after {time.monotonic() - begin:.1f} s")
    run.expect(stack, COMPLETE)


@scenario("stuck", graceful_shutdown_timeout=25)
def killed_beside_one_that_stops(run: Run) -> None:
    """Engine killed while the only other one stops, and finishes what it is at: that
    one takes nothing over, the killed one's successor does."""
    first = run.create(chain(1, create_secs=18))
    stopping = run.at(first, "poll", "r0")
    second = run.create(crowd(4, create_secs=10))
    until(lambda: held_by_others(run, second, stopping.pid), 30)
    tags = held_by_others(run, second, stopping.pid)
    tag, victim = next(iter(tags.items()))
    stopping.master.sigterm()
    until(lambda: not run.liveness or draining(run), 10)
    at = time.time()
    run.kill(second, tag, victim)
    run.expect(second, COMPLETE)
    run.expect(first, COMPLETE)
    for line in run.journal.of(second):
        if line.at > at and line.tag in tags and line.pid == stopping.pid:
            run.outcome.wrong.append(f"{line.tag} was taken over by who stops")
            break


# --- other actions ------------------------------------------------------------------


@scenario("stuck", short=True)
def killed_updating(run: Run) -> None:
    """Engine killed in an update in place."""
    first = chain(3, update_secs=4)
    stack = run.created(first)
    run.lab.update(stack, changed(first, "r1", size=2), timeout_mins=2)
    run.kill_at(stack, "update", "r1")
    run.expect(stack, "UPDATE_COMPLETE")


@scenario("stuck")
def killed_replacing(run: Run) -> None:
    """Engine killed while it makes the replacement in an update."""
    first = chain(2, create_secs=4)
    stack = run.created(first)
    run.lab.update(stack, changed(first, "r0", kind="b"), timeout_mins=2)
    made = run.journal.wait(stack, "create", "r0", n=2)
    until(lambda: made.physical in polled(run, stack), 30)
    run.kill(stack, "r0", run.worker(made))
    run.expect(stack, "UPDATE_COMPLETE", makes={"r0": 2})


@scenario("stuck")
def killed_replacing_before_anything_exists(run: Run) -> None:
    """Engine killed inside the create call of a replacement."""
    first = chain(2)
    stack = run.created(first)
    run.lab.update(stack, changed(first, "r0", kind="b", before_secs=6), timeout_mins=2)
    until(lambda: replacements(run, stack), 30)
    (row,) = replacements(run, stack)
    run.kill(stack, "r0", run.lab.fleet.worker_of(row.engine_id))
    run.expect(stack, "UPDATE_COMPLETE", makes={"r0": 2})


@scenario("stuck")
def killed_replacing_plain(run: Run) -> None:
    """Engine killed while it makes a replacement; a class that Heat replaces again."""
    first = chain(2, "Plain", create_secs=4)
    stack = run.created(first)
    run.lab.update(stack, changed(first, "r0", kind="b"), timeout_mins=2)
    made = run.journal.wait(stack, "create", "r0", n=2)
    until(lambda: made.physical in polled(run, stack), 30)
    run.kill(stack, "r0", run.worker(made))
    run.expect(stack, "UPDATE_COMPLETE", makes={"r0": 3})


@scenario("stuck")
def killed_cleaning_up(run: Run) -> None:
    """Engine killed while an update deletes what was replaced."""
    first = chain(2, delete_secs=4)
    stack = run.created(first)
    run.lab.update(stack, changed(first, "r0", kind="b"), timeout_mins=2)
    run.kill_at(stack, "delete", "r0")
    run.expect(stack, "UPDATE_COMPLETE", makes={"r0": 2})


@scenario("stuck", short=True)
def killed_deleting(run: Run) -> None:
    """Engine killed in a delete."""
    stack = run.created(chain(3, delete_secs=4))
    run.lab.delete(stack)
    run.kill_at(stack, "delete", "r1")
    run.expect(stack, "DELETE_COMPLETE")


@scenario("stuck")
def killed_deleting_with_a_snapshot(run: Run) -> None:
    """Engine killed in a delete with the deletion policy Snapshot: a second image may
    remain."""
    content = chain(2, delete_secs=4)
    for resource_ in content["resources"].values():
        resource_["deletion_policy"] = "Snapshot"
    stack = run.created(content)
    run.lab.delete(stack)
    run.kill_at(stack, "delete", "r1")
    run.expect(stack, "DELETE_COMPLETE")


@scenario("stuck")
def killed_rolling_back(run: Run) -> None:
    """Engine killed while it deletes what a failed create must leave behind."""
    content = chain(2, delete_secs=4)
    stack = run.create(changed(content, "r1", fail="create"), disable_rollback=False)
    run.kill_at(stack, "delete", "r0")
    run.expect(stack, "ROLLBACK_COMPLETE")


@scenario("stuck")
def killed_rolling_an_update_back(run: Run) -> None:
    """Engine killed while it takes back an update that failed."""
    first = chain(2, update_secs=3)
    stack = run.created(first)
    second = changed(changed(first, "r0", size=2), "r1", size=2, fail="update")
    run.lab.update(stack, second, timeout_mins=2, disable_rollback=False)
    run.kill_at(stack, "update", "r0", n=2)
    run.expect(stack, "ROLLBACK_COMPLETE", makes={"r1": 2})


@scenario("stuck")
def killed_suspending(run: Run) -> None:
    """Engine killed in a suspend."""
    stack = run.created(chain(2, suspend_secs=4))
    run.lab.suspend(stack)
    run.kill_at(stack, "suspend", "r1")
    run.expect(stack, "SUSPEND_COMPLETE")


@scenario("stuck")
def killed_resuming(run: Run) -> None:
    """Engine killed in a resume."""
    stack = run.created(chain(2, resume_secs=4))
    run.lab.suspend(stack)
    run.lab.wait_stack(stack, "SUSPEND_COMPLETE")
    run.lab.resume(stack)
    run.kill_at(stack, "resume", "r0")
    run.expect(stack, "RESUME_COMPLETE")


@scenario("stuck")
def killed_checking(run: Run) -> None:
    """Engine killed in a check."""
    stack = run.created(chain(2, check_secs=4))
    run.lab.check(stack)
    run.kill_at(stack, "check", "r0")
    run.expect(stack, "CHECK_COMPLETE")


@scenario("stuck")
def killed_deleting_a_nested_stack(run: Run) -> None:
    """All workers killed while a nested stack is deleted."""
    content, files = nested(chain(2, delete_secs=4))
    stack = run.created(content, files)
    run.lab.delete(stack)
    run.journal.wait(stack, "delete", "r1")
    run.kill_all_workers(stack, "r1")
    run.expect(stack, "DELETE_COMPLETE")


@scenario("stuck")
def killed_in_a_snapshot(run: Run) -> None:
    """Engine killed in a snapshot: a second image may remain, or it fails."""
    stack = run.created(chain(2, snapshot_secs=4))
    run.lab.snapshot(stack)
    run.kill_at(stack, "snapshot", "r0")
    run.expect(stack, "SNAPSHOT_COMPLETE", "SNAPSHOT_FAILED")


@scenario("wrong end")
def killed_deleting_a_snapshot(run: Run) -> None:
    """Engine killed while a user deletes a snapshot."""
    stack = run.created(chain(2, delete_snapshot_secs=4))
    snapshot = run.lab.snapshot(stack)
    run.lab.wait_stack(stack, "SNAPSHOT_COMPLETE")
    run.lab.delete_snapshot(stack, snapshot["id"])
    run.kill_at(stack, "delete_snapshot", "r0")
    if not until(lambda: not run.lab.snapshots(stack), 40):
        run.outcome.wrong.append(f"left of it: {run.lab.snapshots(stack)}")
    run.expect(stack, "SNAPSHOT_COMPLETE")


@scenario("stuck")
def killed_deleting_a_stack_with_snapshots(run: Run) -> None:
    """All workers killed in the deletion of a stack, one of them while it deletes a
    snapshot of it."""
    stack = run.created(chain(2))
    run.lab.snapshot(stack)
    run.lab.wait_stack(stack, "SNAPSHOT_COMPLETE")
    with gate(run, "snapshot", "DELETE") as waiting:
        run.lab.delete(stack)
        assert until(waiting, 30)
        run.kill_all_workers(stack, "r0")
    run.expect(stack, "DELETE_COMPLETE")
    if run.lab.snapshots(stack):
        run.outcome.wrong.append(f"left of it: {run.lab.snapshots(stack)}")


@scenario("stuck")
def killed_restoring(run: Run) -> None:
    """Engine killed in the update that restores a snapshot."""
    first = chain(2, update_secs=4)
    stack = run.created(first)
    snapshot = run.lab.snapshot(stack)
    run.lab.wait_stack(stack, "SNAPSHOT_COMPLETE")
    run.lab.update(stack, changed(first, "r0", size=2))
    run.lab.wait_stack(stack, "UPDATE_COMPLETE")
    run.lab.restore(stack, snapshot["id"])
    run.kill_at(stack, "update", "r0", n=2)
    run.expect(stack, "RESTORE_COMPLETE")


@scenario("stuck")
def killed_adopting(run: Run) -> None:
    """Engine killed in an adopt: it cannot be repeated, so it fails cleanly and
    makes nothing."""
    content = chain(2, adopt_secs=4)
    origin = run.created(content)
    data = run.lab.abandon(origin)
    run.expect(origin, "DELETE_COMPLETE", leaks=2)
    stack = run.lab.adopt(content, data, timeout_mins=2)
    run.kill_at(stack, "adopt", "r0")
    run.expect(stack, "ADOPT_FAILED", makes={"r0": 0, "r1": 0})


@scenario("stuck", masters=1, executor_thread_pool_size=1, **SCAN)
def killed_abandoning(run: Run) -> None:
    """Engine killed with the messages of an abandon waiting: what is kept must not be
    deleted by whoever takes over."""
    stack = run.created(chain(2))
    busy = run.create(crowd(1, create_secs=12))
    run.journal.wait(busy, "create", "r0")
    run.lab.abandon(stack)
    time.sleep(3)  # a leaf is cast a second
    run.kill_all_workers(busy, "r0")
    run.expect(stack, "DELETE_COMPLETE", leaks=2)
    run.expect(busy, COMPLETE)
    if run.counts(stack, "delete"):
        run.outcome.wrong.append("an abandoned stack's resources were deleted")


# --- nested ---------------------------------------------------------------------------


@scenario("stuck", short=True)
def killed_in_a_nested_stack(run: Run) -> None:
    """Engine killed while it creates inside a nested stack."""
    content, files = nested(chain(2, create_secs=4))
    stack = run.create(content, files)
    run.kill_at(stack, "poll", "r0")
    run.expect(stack, COMPLETE)


@scenario("stuck")
def killed_waiting_for_a_nested_stack(run: Run) -> None:
    """The engine that waits for a nested stack is killed, not the one in it."""
    content, files = nested(chain(2, create_secs=6), last=resource())
    stack = run.create(content, files)
    inner = run.at(stack, "poll", "r0")
    outer = run.lab.holder(stack, "child0")
    if outer.pid == inner.pid:
        run.note("one engine held both")
    outer.kill()
    run.expect(stack, COMPLETE)


@scenario("stuck")
def everyone_killed_in_nested_stacks(run: Run) -> None:
    """All workers killed while three nested stacks are created."""
    content, files = nested(chain(2, create_secs=4), n=3)
    files = {
        name: text.replace('"create_secs"', '"tag": "", "create_secs"')
        for name, text in files.items()
    }
    stack = run.create(content, files)
    run.journal.wait(stack, "poll", "r0")
    until(lambda: len(run.lab.tree(stack)) == 4, 20)
    run.kill_all_workers(stack, "r0")
    run.expect(stack, COMPLETE, makes={"r0": 3, "r1": 3})


# --- deadlines ------------------------------------------------------------------------


@scenario("stuck", short=True, stack_action_timeout=15)
def deadline_after_a_death(run: Run) -> None:
    """The stack's time is over after its engine was killed; no rollback."""
    stack = run.create(chain(2, create_secs=60), timeout_mins=None)
    run.kill_at(stack, "poll", "r0")
    found = run.expect(stack, "CREATE_FAILED", makes={"r0": 2})
    expect_reason(run, found, "Timed out")


@scenario("stuck", stack_action_timeout=15)
def deadline_after_a_death_with_rollback(run: Run) -> None:
    """The same, and what was made must be rolled back."""
    stack = run.create(
        chain(2, create_secs=60), timeout_mins=None, disable_rollback=False
    )
    run.kill_at(stack, "poll", "r0")
    run.expect(stack, "ROLLBACK_COMPLETE", makes={"r0": 2})


@scenario("stuck", "right", stack_action_timeout=15)
def deadline_of_a_nested_stack(run: Run) -> None:
    """The time of a stack and of the one nested in it is over after the engine in the
    inner one was killed: both fail, neither goes on."""
    content, files = nested(chain(2, create_secs=60))
    stack = run.create(content, files, timeout_mins=None)
    run.kill_at(stack, "poll", "r0")
    found = run.expect(stack, "CREATE_FAILED", makes={"r0": 2})
    expect_reason(run, found, "Timed out")
    going_on = [s.name for s in run.lab.tree(stack)[1:] if not s.ended]
    if found.ended and going_on:
        run.outcome.wrong.append(f"still in progress: {', '.join(going_on)}")


@scenario("stuck", stack_action_timeout=12)
def deadline_while_no_engine_lives(run: Run) -> None:
    """Every host is lost, the stack's time passes, one host comes back."""
    stack = run.create(chain(2, create_secs=60), timeout_mins=None)
    run.journal.wait(stack, "poll", "r0")
    for master in run.lab.masters:
        master.kill_host()
    time.sleep(15)
    run.lab.ensure_engines()
    found = run.expect(stack, "CREATE_FAILED", makes={"r0": 2})
    expect_reason(run, found, "Timed out")


@scenario("stuck", stack_action_timeout=12)
def deadline_of_an_update(run: Run) -> None:
    """An update's time is over after its engine was killed; with rollback."""
    first = chain(2, update_secs=1)
    stack = run.created(first, timeout_mins=None)
    second = changed(first, "r0", size=2, update_secs=60)
    run.lab.update(stack, second, disable_rollback=False)
    run.kill_at(stack, "update", "r0")
    run.expect(stack, "ROLLBACK_COMPLETE", makes={"r0": 2, "r1": 2})


@scenario("wrong end", liveness__resource_timeout=4)
def hung_for_ever(run: Run) -> None:
    """Nobody dies; a create never ends. With a timeout for resources it is cancelled
    and made again, and given up after five attempts (stock Heat has none: it waits
    until the stack's time is over)."""
    stack = run.create(chain(1, "Plain", create_secs=600))
    found = run.expect(stack, "CREATE_FAILED", makes={"r0": 5})
    expect_reason(run, found, "gave up after 5 attempts")


# --- alive after all -----------------------------------------------------------------


@scenario(
    "right",
    liveness__ttl=12,
    liveness__beat_interval=2,
    liveness__sweep_interval=1,
)
def paused_past_its_lease(run: Run) -> None:
    """An engine is stopped for longer than its lease (12 s here), then continued: it
    may not do what has been done for it."""
    stack = run.create(chain(3, create_secs=6))
    worker = run.at(stack, "poll", "r0")
    worker.stop()
    time.sleep(24)
    worker.cont()
    run.expect(stack, COMPLETE)


@scenario(
    "right",
    liveness__ttl=12,
    liveness__beat_interval=2,
    liveness__sweep_interval=1,
)
def paused_in_the_create_call(run: Run) -> None:
    """An engine is stopped for longer than its lease after the cloud made a thing and
    before its id is written down, then continued: it may not write it any more."""
    stack = run.create(chain(2, "Plain", gap_secs=4), timeout_mins=4)
    worker = run.at(stack, "create", "r0")
    worker.stop()
    until(lambda: not run.liveness or len(run.journal.of(stack, "create")) > 1, 40)
    worker.cont()
    # Unavoidable: nobody knew of the first, and nobody can find it by name.
    run.expect(stack, COMPLETE, makes={"r0": 2}, leaks=1)


@scenario("duplicated", liveness__ttl=30)
def paused_and_pinged(run: Run) -> None:
    """An engine stopped for less than its lease while a user's update comes: Heat's
    own ping takes its lock and makes the resource again."""
    first = chain(2, "Plain", create_secs=4)
    stack = run.create(first)
    worker = run.at(stack, "poll", "r0")
    worker.stop()
    try:
        with contextlib.suppress(RemoteError):
            second = changed(first, "r1", size=2)
            run.lab.update(stack, second, timeout_mins=2)
        time.sleep(12)
    finally:
        worker.cont()
    run.expect(stack, "UPDATE_COMPLETE")


# --- what a user does meanwhile -------------------------------------------------------


@scenario("right")
def update_while_the_holder_is_dead(run: Run) -> None:
    """A user updates a stack one of whose resources is held by a dead engine."""
    first = chain(2, create_secs=6)
    stack = run.create(first)
    run.kill_at(stack, "poll", "r0")
    run.lab.update(stack, changed(first, "r1", size=2), timeout_mins=2)
    run.expect(stack, "UPDATE_COMPLETE")


@scenario("right")
def delete_while_the_holder_is_dead(run: Run) -> None:
    """A user deletes a stack one of whose resources is held by a dead engine."""
    stack = run.create(chain(2, create_secs=6))
    run.kill_at(stack, "poll", "r0")
    run.lab.delete(stack)
    run.expect(stack, "DELETE_COMPLETE")


@scenario("right")
def cancel_while_the_holder_is_dead(run: Run) -> None:
    """A user cancels, with rollback, an update that a dead engine holds."""
    first = chain(2, update_secs=6)
    stack = run.created(first)
    run.lab.update(stack, changed(first, "r0", size=2), timeout_mins=2)
    run.kill_at(stack, "update", "r0")
    run.lab.cancel(stack)
    run.expect(stack, "ROLLBACK_COMPLETE", makes={"r0": 2, "r1": 2})


# --- what no row shows --------------------------------------------------------------


@scenario("stuck", **SCAN)
def killed_between_the_leaves(run: Run) -> None:
    """The engine that casts the first messages of a stack, one a second, is killed
    before the last."""
    stack = run.create(crowd(6, create_secs=3))
    line = run.journal.wait(stack, "create", n=3)
    run.kill_all_workers(stack, line.tag)
    run.expect(stack, COMPLETE)


@scenario("stuck", **SCAN)
def killed_before_the_sync_points(run: Run) -> None:
    """Engine killed after a create's resources were stored and before its sync points
    were."""
    with gate(run, "sync_point") as waiting:
        stack = run.create(chain(2))
        until(waiting, 30)
        run.kill_all_workers(stack, "r0")
    run.expect(stack, COMPLETE)


@scenario("stuck", **SCAN)
def killed_before_the_resources(run: Run) -> None:
    """Engine killed when the stack's row exists and not one of its resources."""
    with gate(run, "resource") as waiting:
        stack = run.create(chain(2))
        until(waiting, 30)
        run.kill_all_workers(stack, "r0")
    run.expect(stack, COMPLETE)


@scenario("stuck", **SCAN)
def killed_before_it_answered(run: Run) -> None:
    """Engine killed when it has stored the stack and not yet told the user so."""
    name = f"{run.lab.name}-unanswered"
    with gate(run, "event") as waiting:
        answer = run.lab.begin_create(chain(2), name, timeout_mins=2)
        until(waiting, 30)
        stack = run.lab.by_name(name)
        assert stack is not None
        run.kill_all_workers(stack, "r0")
    with contextlib.suppress(RemoteError):
        run.lab.client.answer(answer, 45)
    run.expect(stack, COMPLETE)


@scenario("stuck", **SCAN)
def update_killed_before_the_sync_points(run: Run) -> None:
    """Engine killed after an update was stored and before its sync points were: it
    cannot be begun again, so it fails cleanly."""
    first = chain(2)
    stack = run.created(first)
    with gate(run, "sync_point") as waiting:
        run.lab.update(stack, changed(first, "r0", size=2), timeout_mins=2)
        until(waiting, 30)
        run.kill_all_workers(stack, "r0")
    run.expect(stack, "UPDATE_FAILED", "UPDATE_COMPLETE")


@scenario("stuck", **SCAN)
def killed_before_it_told_the_next(run: Run) -> None:
    """Engine killed between a resource's completion and word of it to the next."""
    stack = run.create(chain(2, create_secs=4))
    worker = run.at(stack, "poll", "r0")
    with locked(run, "sync_point"):
        until(lambda: row_state(run, stack, "r0") == COMPLETE and blocked(run), 30)
        run.kill(stack, "r1", worker)
    run.expect(stack, COMPLETE)


@scenario("stuck", **SCAN)
def messages_lost_with_the_broker(run: Run) -> None:
    """RabbitMQ is killed with messages in it that nobody has run."""
    stack = run.create(crowd(8, create_secs=3))
    # Every second message goes to a stopped engine; the one that casts them, one a
    # second, must not be that one.
    for asleep in run.lab.workers:
        asleep.stop()
        made = len(run.journal.of(stack, "create"))
        if until(lambda n=made: len(run.journal.of(stack, "create")) > n + 1, 8):
            break
        asleep.cont()
    until(lambda: not working(run, stack), 30)
    run.lab.cloud.rabbit.kill()
    run.lab.cloud.rabbit.launch()
    run.lab.cloud.rabbit.wait_ready()
    asleep.cont()
    run.expect(stack, COMPLETE)


# --- the infrastructure -------------------------------------------------------------


@scenario("right")
def database_restarted(run: Run) -> None:
    """The database is restarted in the middle of a create; nothing ends meanwhile."""
    stack = run.create(chain(3, create_secs=8))
    run.journal.wait(stack, "poll", "r0")
    run.lab.restart_database()
    run.expect(stack, COMPLETE)


@scenario("right")
def database_away_at_the_end_of_an_action(run: Run) -> None:
    """The database is away for 15 s, and a create is ready just then."""
    stack = run.create(chain(2, create_secs=6))
    run.journal.wait(stack, "poll", "r0")
    run.lab.restart_database(down=15)
    run.expect(stack, COMPLETE)


@scenario("right", "stuck", **SCAN)
def rabbit_restarted(run: Run) -> None:
    """RabbitMQ is restarted while a create is under way; stock Heat is stuck in some
    runs and right in others."""
    stack = run.create(chain(3, create_secs=5))
    run.journal.wait(stack, "poll", "r0")
    run.lab.restart_rabbit()
    run.expect(stack, COMPLETE)


@scenario("stuck", **SCAN)
def already_stuck(run: Run) -> None:
    """Stacks that got stuck under a stock Heat; then the fleet is restarted, with
    this package if that is the mode."""
    run.lab.start_engines(stock=True)
    held = run.create(chain(2, create_secs=5))
    run.kill_at(held, "poll", "r0")
    updated = run.created(chain(2, update_secs=5))
    run.lab.update(
        updated, changed(chain(2, update_secs=5), "r1", size=2), timeout_mins=2
    )
    run.kill_at(updated, "update", "r1")
    run.forget_kills()
    run.lab.start_engines(**SCAN)
    run.expect(held, COMPLETE)
    run.expect(updated, "UPDATE_COMPLETE")


@scenario("stuck", masters=3)
def siege(run: Run) -> None:
    """30 stacks of 8 resources; an engine killed every 10 s for 3 minutes."""
    content = fan(6, create_secs=2)
    names = [f"{run.lab.name}-siege-{i}" for i in range(30)]
    asked: dict[str, Any] = {}
    kills, begin = 0, time.monotonic()
    while time.monotonic() - begin < 180:
        passed = time.monotonic() - begin
        if len(asked) < len(names) and passed > 4 * len(asked):
            name = names[len(asked)]
            asked[name] = run.lab.begin_create(content, name, timeout_mins=15)
        if passed > 10 * (kills + 1) and run.lab.workers:
            random.choice(run.lab.workers).kill()
            kills += 1
        time.sleep(0.2)
    run.note(f"{kills} engines killed")
    over = time.time()
    for name in names:
        run.expect(accepted(run, name, asked[name], content), COMPLETE, since=over)


def accepted(run: Run, name: str, answer: Any, content: dict) -> str:
    """A request may die with its engine: then nothing was promised, and the user
    asks again."""
    with contextlib.suppress(RemoteError):
        run.lab.client.answer(answer, 45)
    stack = run.lab.by_name(name)
    if stack is None:
        run.note(f"{name}: asked again")
        stack = run.lab.create_stack(content, name, timeout_mins=15)
    return stack


# --- helpers ------------------------------------------------------------------------


def assert_finished(run: Run, stack: str, tag: str) -> None:
    """What the class does when a create is ready was done, not skipped."""
    if run.lab.stack(stack).state == COMPLETE and not run.journal.of(
        stack, "created", tag
    ):
        run.outcome.wrong.append(f"{tag}: complete, but its create was never finished")


def expect_reason(run: Run, found, text: str) -> None:
    if found.ended and text not in (found.reason or ""):
        run.outcome.wrong.append(f"the reason is {found.reason!r}, not {text!r}")


def working(run: Run, stack: str) -> bool:
    """Whether anybody did anything for the stack in the last seconds."""
    return any(line.at > time.time() - 4 for line in run.journal.of(stack))


def held_by_others(run: Run, stack: str, pid: int) -> dict[str, Worker]:
    """Who polls what, of the living workers but that one."""
    living = {worker.pid: worker for worker in run.lab.workers if worker.pid != pid}
    return {
        line.tag: living[line.pid]
        for line in run.journal.of(stack, "poll")
        if line.pid in living
    }


def draining(run: Run) -> list[tuple]:
    """Engines that have begun to stop."""
    return run.lab.query("SELECT id FROM liveness_engine WHERE state = 'draining'")


def pollers(run: Run, stack: str, tag: str) -> set[int]:
    return {line.pid for line in run.journal.of(stack, "poll", tag)}


def polled(run: Run, stack: str) -> set[str | None]:
    return {line.physical for line in run.journal.of(stack, "poll")}


def replacements(run: Run, stack: str) -> list[Row]:
    """Rows that replace another and are held by an engine."""
    return [row for row in run.lab.rows(stack) if row.replaces and row.engine_id]


def row_state(run: Run, stack: str, name: str) -> str | None:
    for row in run.lab.rows(stack):
        if row.name == name:
            return row.state
    return None


def superuser(run: Run) -> pymysql.Connection:
    return pymysql.connect(
        unix_socket=run.lab.cloud.database._path("sock"),
        user="root",
        database=run.lab.name,
        autocommit=True,
    )


@contextlib.contextmanager
def locked(run: Run, table: str) -> Iterator[None]:
    """Nobody else reads or writes `table`, nor writes to one that it refers to:
    whoever comes to it waits there."""
    connection = superuser(run)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLES `{table}` WRITE")
            yield
            cursor.execute("UNLOCK TABLES")
    finally:
        connection.close()


@contextlib.contextmanager
def gate(
    run: Run, table: str, verb: str = "INSERT"
) -> Iterator[Callable[[], list[tuple]]]:
    """Whoever inserts into `table` (or does what `verb` says) waits, and is cut off
    when the gate opens: it has committed nothing. Gives a function that says who
    waits."""
    connection = superuser(run)
    name = f"gate_{table}"

    def waiting() -> list[tuple]:
        return run.lab.query(
            "SELECT id FROM information_schema.processlist WHERE state = 'User lock'"
        )

    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT GET_LOCK('{name}', 10)")
            cursor.execute(
                f"CREATE TRIGGER {name} BEFORE {verb} ON `{table}` FOR EACH ROW"
                f" SET @got = GET_LOCK('{name}', 120)"
            )
            yield waiting
            until(lambda: _opened(cursor, name, waiting()), 30)
    finally:
        connection.close()


def _opened(cursor: Any, name: str, waiting: list[tuple]) -> bool:
    """Whether the gate could be opened. Waiters for a lock by name count in MariaDB's
    search for deadlocks, and one may come after those that are cut off here."""
    for (session,) in waiting:
        with contextlib.suppress(pymysql.Error):  # it may be gone already
            cursor.execute(f"KILL {session}")
    try:
        cursor.execute(f"DROP TRIGGER {name}")
    except pymysql.OperationalError as error:
        if error.args[0] != 1213:
            raise
        return False
    return True


def blocked(run: Run) -> list[tuple]:
    """Who waits for a table of Heat's that is locked."""
    return run.lab.query(
        "SELECT id FROM information_schema.processlist"
        " WHERE state LIKE 'Waiting for table%'"
    )


__all__ = ["SCENARIOS", "Scenario", "template"]
