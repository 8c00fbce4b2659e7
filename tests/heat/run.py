"""One scenario at work: what it does to the lab, and what came of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.heat.fleet import Worker
from tests.heat.journal import Line
from tests.heat.lab import Lab, Stack
from tests.proc import until

# While anybody works on a stack, its journal has a line a second; but a delete first
# waits 15 s for a dead engine to let go, and then 2 s for its answer.
QUIET_SECONDS = 25
LIMIT_SECONDS = 150


@dataclass
class Outcome:
    """What a scenario left behind, summed over its stacks."""

    ends: dict[str, str] = field(default_factory=dict)
    rescued: int = 0
    stuck: int = 0
    wrong: list[str] = field(default_factory=list)
    duplicated_resources: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    leaked_resources: int = 0
    recovery_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def word(self) -> str:
        """What happened, in the words that a scenario declares for stock Heat."""
        if self.error:
            return "error"
        if self.stuck:
            return "stuck"
        if self.wrong:
            return "wrong end"
        if self.duplicated_resources:
            return "duplicated"
        if self.leaked_resources:
            return "leaked"
        return "right"


@dataclass
class Expectation:
    stack: str
    states: tuple[str, ...]
    makes: dict[str, int]
    leaks: int


@dataclass
class Kill:
    at: float
    pids: set[int]
    root: str
    tag: str


@dataclass
class Stuck:
    scenario: str
    lab: Lab
    stack: str
    since: float
    timeout: float | None


class Run:
    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.journal = lab.journal
        self.outcome = Outcome()
        self.stuck: list[Stuck] = []
        self._expected: list[Expectation] = []
        self._kills: list[Kill] = []
        self._asked: dict[str, tuple[float, float | None]] = {}
        self._started = time.monotonic()

    @property
    def liveness(self) -> bool:
        return self.lab.mode == "liveness"

    # Doing.

    def create(self, template: dict, files=None, **args: Any) -> str:
        minutes = args.setdefault("timeout_mins", 2)
        if minutes is None:  # then it is in seconds, and the configuration's
            del args["timeout_mins"]
            options = self.lab.options[1] if self.lab.options else {}
            timeout = options.get("stack_action_timeout")
        else:
            timeout = minutes * 60
        stack = self.lab.create_stack(template, files=files, **args)
        self._asked[stack] = (time.time(), timeout)
        return stack

    def created(self, template: dict, files=None, **args: Any) -> str:
        """A stack that is complete before anything happens to it."""
        stack = self.create(template, files, **args)
        self.lab.wait_stack(stack, "CREATE_COMPLETE")
        return stack

    def at(self, stack: str, event: str, tag: str | None = None, n: int = 1) -> Worker:
        """The worker that does `event`, as soon as it does."""
        line = self.journal.wait(stack, event, tag, n=n)
        return self.worker(line)

    def worker(self, line: Line) -> Worker:
        for worker in self.lab.workers:
            if worker.pid == line.pid:
                return worker
        raise AssertionError(f"no living worker {line.pid} for {line}")

    def kill(self, stack: str, tag: str, *workers: Worker) -> None:
        """SIGKILL; recovered when somebody else is at `tag` again."""
        pids = {worker.pid for worker in workers}
        at = time.time()
        for worker in workers:
            worker.kill()
        self.mark(stack, tag, pids, at)

    def kill_at(
        self, stack: str, event: str, tag: str | None = None, n: int = 1
    ) -> Worker:
        line = self.journal.wait(stack, event, tag, n=n)
        worker = self.worker(line)
        self.kill(stack, line.tag, worker)
        return worker

    def kill_all_workers(self, stack: str, tag: str) -> None:
        self.kill(stack, tag, *self.lab.workers)

    def mark(
        self, stack: str, tag: str, pids: set[int] = frozenset(), at: float = 0
    ) -> None:
        """From now on the recovery of `tag` is being waited for."""
        self._kills.append(Kill(at or time.time(), set(pids), stack, tag))

    def forget_kills(self) -> None:
        """What was done only to prepare is not to be recovered from."""
        self._kills.clear()

    def note(self, text: str) -> None:
        self.outcome.notes.append(text)

    # Judging.

    def expect(
        self,
        stack: str,
        *states: str,
        makes: dict[str, int] | None = None,
        leaks: int = 0,
        since: float = 0,
    ) -> Stack:
        """The stack must end in one of `states`, each resource made once, or as often
        as `makes` says, and at most `leaks` things left over that no row knows."""
        self._expected.append(Expectation(stack, states, makes or {}, leaks))
        return self._settle(stack, states, since or time.time())

    def _settle(self, stack: str, states: tuple[str, ...], since: float) -> Stack:
        """Until it has ended, or nothing has moved for long enough since then."""
        patience = QUIET_SECONDS * (2 if self.liveness else 1)
        ended: list[float] = []

        def over() -> bool:
            found = self.lab.stack(stack)
            if found.state in states and gone_if_deleted(found):
                return True
            if found.ended and not ended:
                ended.append(time.time())
            lines = self.journal.of(stack)
            last = max([since, *(line.at for line in lines), *ended])
            if not gone_if_deleted(found):
                return time.time() - last > patience
            # What has ended otherwise may go on: a rollback, or a delete.
            return time.time() - last > (8 if found.ended else patience)

        until(over, LIMIT_SECONDS, 0.25)
        return self.lab.stack(stack)

    def finish(self) -> Outcome:
        outcome = self.outcome
        for expected in self._expected:
            self._judge(expected)
        outcome.recovery_seconds = [
            round(seconds, 2)
            for kill in self._kills
            for seconds in self._recovery(kill)
        ]
        outcome.seconds = round(time.monotonic() - self._started, 1)
        return outcome

    def _judge(self, expected: Expectation) -> None:
        outcome, stack = self.outcome, expected.stack
        found = self.lab.stack(stack)
        outcome.ends[found.name] = found.state
        if not found.ended:
            outcome.stuck += 1
            asked, timeout = self._asked.get(stack, (time.time(), None))
            self.stuck.append(Stuck(self.name, self.lab, stack, asked, timeout))
        elif not gone_if_deleted(found):
            outcome.wrong.append(f"{found.state}, but its row was never deleted")
        elif found.state in expected.states:
            outcome.rescued += 1
        else:
            outcome.wrong.append(
                f"{found.state} ({found.reason}), not {' or '.join(expected.states)}"
            )
        for tag, made in self.journal.creates(stack).items():
            extra = made - expected.makes.get(tag, 1)
            if extra > 0:
                outcome.duplicates[tag] = outcome.duplicates.get(tag, 0) + extra
                outcome.duplicated_resources += extra
        outcome.leaked_resources += max(0, self.leaked(found) - expected.leaks)

    def leaked(self, stack: Stack) -> int:
        """What the stack made, still exists, and no row of it knows."""
        known = {
            row.physical for member in self.lab.tree(stack.id) for row in member.rows
        }
        return len(set(self.journal.existing_of(stack.id)) - known)

    def _recovery(self, kill: Kill) -> list[float]:
        for line in self.journal.of(kill.root):
            if line.tag == kill.tag and line.at > kill.at and line.pid not in kill.pids:
                return [round(line.at - kill.at, 2)]
        return []

    def counts(self, stack: str, event: str) -> Counter[str]:
        return Counter(line.tag for line in self.journal.of(stack, event))


def gone_if_deleted(stack: Stack) -> bool:
    """A stack is COMPLETE before its trust and its project are deleted, and FAILED if
    they cannot be; its row goes last."""
    return stack.deleted or stack.state != "DELETE_COMPLETE"
