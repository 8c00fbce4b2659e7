"""Simulated stacks, inside an engine process: the host program of the demo.

Each stack has a timer, and actions that take a while. Before each effect the workload
asks whether it may still act, dates the effect to the moment when it asked, and notes
it. It knows :class:`~liveness.Liveness` as any program does, and nothing beneath.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from liveness import Deadline, Liveness, exceptions
from liveness.demo import plan
from liveness.demo.journal import Journal, now

PACE = 0.2
"""Seconds between two effects of an action."""


class Workload:
    """The stacks of one engine process. ``over`` is set when the engine is fenced."""

    def __init__(self, live: Liveness, journal: Journal) -> None:
        self.over = threading.Event()
        self.note = journal.note
        self._live = live
        self._timed_out: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def create(self, stacks: Iterable[plan.Stack], start: float) -> None:
        """Create each stack at its time, counted from ``start``; in a thread."""
        self._spawn(self._create, stacks, start)

    def end(self, seconds: float) -> None:
        """Stop everything; wait so long for it at most."""
        self.over.set()
        until = now() + seconds
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(until - now(), 0.0))

    def time_out(self, key: str) -> None:
        """A stack's timer expired; if the stack is created here, that stops."""
        if key in self._timed_out:
            self._timed_out[key].set()

    # --- handlers ---------------------------------------------------------------

    @contextlib.contextmanager
    def handling(self, deadline: Deadline) -> Iterator[Callable[[], None]]:
        """Note a handler's run; the block is given what does one effect."""
        about = _about(deadline)
        self.note(
            "started",
            **about,
            orphaned=deadline.orphaned,
            expired=deadline.expired,
            promise=deadline.expires_at.isoformat(),
        )
        try:
            yield lambda: self._effect(about, lambda: self._live.check(deadline))
        except BaseException as error:
            self.note("failed", **about, reason=str(error))
            raise
        self.note("settling", **about)

    # --- stacks -----------------------------------------------------------------

    def _create(self, stacks: Iterable[plan.Stack], start: float) -> None:
        running = []
        for stack in stacks:
            if self.over.wait(max(start + stack.starts - now(), 0.0)):
                return
            running.append(self._spawn(self._run, stack))
        for thread in running:
            thread.join()
        self.note("finished")

    def _run(self, stack: plan.Stack) -> None:
        """One stack, from its timer's arming to its disarming."""
        self._timed_out[stack.key] = threading.Event()
        timer = self._arm(plan.TIMER, stack.key, stack.timeout)
        if timer is None:
            return
        actions = [self._spawn(self._act, stack, action) for action in stack.actions]
        for action in actions:
            action.join()
        if not self._timed_out[stack.key].is_set():
            with self._refusals(_about(timer)):
                self._disarm(timer)

    def _act(self, stack: plan.Stack, action: plan.Action) -> None:
        """One action of a stack."""
        with self._refusals({"kind": plan.ACTION, "key": action.key}):
            if action.guarded:
                self._act_guarded(stack, action)
            else:
                self._act_armed(stack, action)

    def _act_guarded(self, stack: plan.Stack, action: plan.Action) -> None:
        payload = {"seconds": min(action.seconds, plan.REDO)}
        self.note(
            "arming", kind=plan.ACTION, key=action.key, due_in=plan.ACTION_TIMEOUT
        )
        with self._live.guard(
            plan.ACTION, action.key, due_in=plan.ACTION_TIMEOUT, payload=payload
        ) as guard:
            about = _about(guard.deadline)
            self.note("armed", **about, promise=guard.deadline.expires_at.isoformat())
            self._work(stack, action.seconds, about, guard.check)
            self.note("disarming", **about)
        # Not yet "disarmed": if the database was away, that comes when it is back.
        self.note("left", **about)

    def _act_armed(self, stack: plan.Stack, action: plan.Action) -> None:
        payload = {"seconds": min(action.seconds, plan.REDO)}
        armed = self._arm(plan.ACTION, action.key, plan.ACTION_TIMEOUT, payload)
        if armed is None:
            return
        self._work(stack, action.seconds, _about(armed), self._live.check)
        self._disarm(armed)

    def _work(
        self,
        stack: plan.Stack,
        seconds: float,
        about: dict[str, Any],
        check: Callable[[], None],
    ) -> None:
        """Effects for so many seconds, or until the stack has timed out.

        :raises Fenced: :raises StaleDeadline: it is not ours to finish."""
        timed_out = self._timed_out[stack.key]
        until = now() + seconds
        while now() < until and not timed_out.is_set():
            self._effect(about, check)
            timed_out.wait(PACE)
        self._effect(about, check)

    def _effect(self, about: dict[str, Any], check: Callable[[], None]) -> None:
        """One effect, once it is allowed. A suspended engine waits.

        :raises Fenced: :raises StaleDeadline: it never will be."""
        while True:
            asked = now()
            try:
                check()
            except exceptions.Suspended as error:
                self.note("refused", **about, reason=str(error))
                self.over.wait(PACE)
            else:
                self.note("effect", at=asked, **about)
                return

    # --- deadlines --------------------------------------------------------------

    def _arm(
        self, kind: str, key: str, due_in: float, payload: object = None
    ) -> Deadline | None:
        """Arm, as soon as this engine may; None if it never may."""
        while not self.over.is_set():
            self.note("arming", kind=kind, key=key, due_in=due_in)
            try:
                value = self._live.arm(kind, key, due_in=due_in, payload=payload)
            except exceptions.NotTrusted as error:
                self.note("unarmed", kind=kind, key=key, reason=str(error))
                self.over.wait(PACE)
            except exceptions.AlreadyArmed:
                return None  # an earlier try was committed: it will come due
            except Exception as error:
                self.note("trouble", kind=kind, key=key, reason=str(error))
                self.over.wait(PACE)
            else:
                promise = value.expires_at.isoformat()
                self.note("armed", **_about(value), promise=promise)
                return value
        return None

    def _disarm(self, deadline: Deadline) -> None:
        about = _about(deadline)
        while not self.over.is_set():
            self.note("disarming", **about)
            try:
                self._live.disarm(deadline)
            except exceptions.LivenessError:
                raise
            except Exception as error:
                self.note("trouble", **about, reason=str(error))
                self.over.wait(PACE)
            else:
                self.note("disarmed", **about)
                return

    @contextlib.contextmanager
    def _refusals(self, about: dict[str, Any]) -> Iterator[None]:
        """Note how the block was stopped, if it was; it goes no further up."""
        try:
            yield
        except exceptions.StaleDeadline as error:
            self.note("stale", **about, reason=str(error))
        except exceptions.EngineError as error:
            self.note("refused", **about, reason=str(error))
        except Exception as error:
            self.note("trouble", **about, reason=f"{type(error).__name__}: {error}")

    def _spawn(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread


def _about(deadline: Deadline) -> dict[str, Any]:
    return {
        "kind": deadline.kind,
        "key": deadline.key,
        "epoch": deadline.epoch,
        "token": deadline.token,
    }
