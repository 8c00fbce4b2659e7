"""The account of an endurance run: every promise that was armed, and what came of it.

It is kept while the run goes on, and forgets what has ended: its size is that of the
table. What it finds wrong it names.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable

from tests.endure.journal import Fact

ENDS = ("stopping", "fenced", "abandoned", "killed", "paused")
"""Facts after which an engine's deadlines may be somebody else's."""

STRUCK = ("abandoned", "killed", "paused")
"""Facts after which an engine may be fenced."""

PATIENCE = 10.0
"""Seconds that a process may take to write down what it has done."""

KEPT = 200
"""Violations that are named; more are counted."""


@dataclasses.dataclass(slots=True)
class Run:
    """One call of a handler, until its engine said that it returned."""

    who: str
    begun: float
    wall: float
    method: str
    done: float | None = None


@dataclasses.dataclass(slots=True)
class Promise:
    """What is known of one."""

    owner: str = ""
    armed: bool = False
    released: bool = False
    dues: tuple[tuple[float, float], ...] = ()
    runs: list[Run] | None = None
    ends: list[str] | None = None
    letting: str = ""


class Ledger:
    """Feed it facts by :meth:`read`; :attr:`violations` are what must not be."""

    def __init__(self) -> None:
        self.promises: dict[str, Promise] = {}
        self.gone: dict[str, float] = {}
        self.struck: set[str] = set()
        self.dead: set[str] = set()
        self.fenced: set[str] = set()
        self.engines: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.lateness: list[float] = []
        self.violations: list[str] = []
        self._over: deque[tuple[float, str]] = deque()
        self._latest = 0.0
        self._unsure: set[str] = set()
        # Of a process that was stopped in between, a line may come minutes late.
        self._judged: set[str] = set()

    def read(self, facts: Iterable[Fact]) -> None:
        """Take those facts in, and judge what ended long before them: lines of other
        processes may come a moment later."""
        for fact in sorted(facts, key=lambda fact: fact.at):
            self._latest = max(self._latest, fact.at)
            self._take(fact)
        self._judge_until(self._latest - PATIENCE)

    def _judge_until(self, at: float) -> None:
        while self._over and self._over[0][0] <= at:
            self._judge(self._over.popleft()[1])

    def close(self, rows: Iterable[str]) -> None:
        """The run is over, and these promises are in the table."""
        self._judge_until(float("inf"))
        left = set(rows)
        for name in left - self.promises.keys():
            self._expect(self._untold(name), f"{name} was never armed, and is there")
        for name, promise in self.promises.items():
            if name not in left and not promise.ends:
                self._expect(self._ended_untold(promise), f"{name} is lost")
            self._judge_runs(name, promise)

    def _expect(self, fine: bool, violation: str) -> None:
        if not fine:
            self.counts["violations"] += 1
            if len(self.violations) < KEPT:
                self.violations.append(violation)

    # --- facts ----------------------------------------------------------------

    def _take(self, fact: Fact) -> None:
        self.counts[fact.what] += 1
        if fact.what in ENDS:
            self.gone[fact.who] = min(fact.at, self.gone.get(fact.who, fact.at))
        if fact.what in STRUCK:
            self.struck.add(fact.who)
        if fact.what == "fenced":
            self.fenced.add(fact.who)
        if fact.what in ("abandoned", "killed"):
            self.dead.add(fact.who)
        if fact.what == "started":
            self.engines[fact.who] = fact.text
        if fact.what == "unsure":
            self._unsure.add(fact.promise.partition("/")[0])
        elif fact.promise in self._judged:
            self._expect(
                fact.what not in ("begin", "ended") or fact.who in self.gone,
                f"{fact.promise}: {fact.what} by {fact.who} long after its end",
            )
        elif fact.promise:
            promise = self.promises.setdefault(fact.promise, Promise())
            getattr(self, f"_{fact.what}", self._nothing)(fact, promise)

    def _nothing(self, fact: Fact, promise: Promise) -> None:
        pass

    def _armed(self, fact: Fact, promise: Promise) -> None:
        promise.armed = True
        promise.owner = fact.who
        promise.dues += ((fact.at, fact.number),)

    _extended = _armed

    def _moved(self, fact: Fact, promise: Promise) -> None:
        promise.released = False
        promise.dues += ((fact.at, fact.number),)

    def _released(self, fact: Fact, promise: Promise) -> None:
        promise.released = True

    _parked = _released

    def _letting(self, fact: Fact, promise: Promise) -> None:
        promise.letting = fact.who

    def _begin(self, fact: Fact, promise: Promise) -> None:
        run = Run(fact.who, fact.at, fact.number, fact.text)
        promise.runs = [*(promise.runs or []), run]

    def _finish(self, fact: Fact, promise: Promise) -> None:
        for run in promise.runs or []:
            if run.who == fact.who and run.done is None:
                run.done = fact.at

    def _ended(self, fact: Fact, promise: Promise) -> None:
        promise.ends = [*(promise.ends or []), fact.who]
        self._over.append((fact.at, fact.promise))

    # --- judgement --------------------------------------------------------------

    def _judge(self, name: str) -> None:
        promise = self.promises.pop(name, None)
        if promise is None:
            return  # it has ended twice at once, and was judged
        self._judged.add(name)
        armed = promise.armed or self._untold(name)
        self._expect(armed, f"{name} has ended and was never armed")
        ends = [who for who in promise.ends or [] if who not in self.gone]
        self._expect(len(ends) <= 1, f"{name} was settled {len(ends)} times")
        self._judge_runs(name, promise)

    def _judge_runs(self, name: str, promise: Promise) -> None:
        runs = sorted(promise.runs or [], key=lambda run: run.begun)
        for one, two in zip(runs, runs[1:], strict=False):
            over = one.done is not None and one.done <= two.begun
            self._expect(
                over or self._was_gone(one.who, two.begun),
                f"{name} was held by {one.who} and {two.who}",
            )
        before = promise.owner
        for run in runs:
            if run.method == "orphaned":
                self._expect(
                    run.who == before
                    or promise.released
                    or self._was_gone(before, run.begun)
                    or (not promise.armed and self._untold(name)),
                    f"{name} of {before} was taken for orphaned by {run.who}",
                )
            else:
                self._judge_time(name, promise, run)
            before = run.who

    def _judge_time(self, name: str, promise: Promise, run: Run) -> None:
        """By the promise that stood then. (It may have fired before the line was
        written that arms it.)"""
        dues = [due for at, due in sorted(promise.dues) if at <= run.begun]
        if dues:
            late = run.wall - dues[-1]
            self._expect(late >= 0, f"{name} is early by {-late:.6f} s")
            if run.method == "expired":
                self.lateness.append(late)

    def _untold(self, name: str) -> bool:
        """Armed by one who could not tell: killed after the commit, or the answer was
        lost."""
        return bool(self.gone) or name.partition("/")[0] in self._unsure

    def _was_gone(self, who: str, at: float) -> bool:
        return self.gone.get(who, at + 1) <= at

    def _ended_untold(self, promise: Promise) -> bool:
        last = {run.who for run in promise.runs or []} | {promise.letting}
        return bool(last & self.gone.keys())
