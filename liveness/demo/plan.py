"""What the demo is about to do: its stacks, and its timetable.

All of it follows from the seed, so that every engine process, and each successor of
one, knows the stacks that it is to create without being told.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

TIMER = "stack_timer"
ACTION = "resource_action"
PREFIX = "liveness-demo-"
"""Engine ids and keys of every demo begin like this."""

# Seconds after the first stack is created.
CREATING = 11.0
MOST_A_SECOND = 100
"""Deadlines; with more of them, it takes longer to create the stacks."""
KILL = 3.5
FREEZE = 5.0

ACTION_TIMEOUT = 30.0
"""Promise of a resource action, longer than the demo: it runs again if it is
orphaned, or not at all."""
REDO = 0.3
"""Seconds that a resource action takes at most when it is triggered again."""
STUCK = 3600.0
"""Seconds that an action takes which never ends: its stack times out."""

OPTIONS = {
    "ttl": 5.0,
    "beat_interval": 0.5,
    "sweep_interval": 0.5,
    "lease_margin": 0.5,
    "database_timeout": 1.5,
    "expired_grace": 2.0,
    "max_clock_skew": 1.0,
    "drain_timeout": 5.0,
}
"""Small numbers, so that a lease is over before the audience leaves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """One resource action. ``guarded``: run inside ``guard()``; else armed and
    disarmed by hand."""

    key: str
    seconds: float
    guarded: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
    """A stack: which engine creates it and when, its timeout, and its actions, which
    all start at once."""

    key: str
    slot: int
    starts: float
    timeout: float
    actions: tuple[Action, ...]

    def busy_at(self, moment: float) -> bool:
        """True when it should be in the middle of things then."""
        lasts = max((action.seconds for action in self.actions), default=0.0)
        return self.starts + 0.3 < moment < self.starts + min(lasts, self.timeout)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The whole demo. ``run`` is new each time and part of every id and key."""

    run: str
    seed: int
    engines: int
    deadlines: int

    @property
    def prefix(self) -> str:
        """How the engine ids and the keys of this run begin."""
        return f"{PREFIX}{self.run}-"

    @property
    def creating(self) -> float:
        """Seconds in which stacks are created."""
        return max(CREATING, self.deadlines / MOST_A_SECOND)

    def stacks(self) -> list[Stack]:
        """Every stack, by start; with their actions, as many as ``deadlines``."""
        dice = random.Random(self.seed)
        sizes = self._sizes(dice)
        starts = sorted(dice.uniform(0, self.creating) for _ in sizes)
        return [
            self._stack(dice, number, start, size)
            for number, (start, size) in enumerate(zip(starts, sizes, strict=True), 1)
        ]

    def victims(self) -> tuple[int, int]:
        """The slots whose engines are killed and frozen: those that have the most in
        flight at that moment, if all goes by the plan."""

        def most(moment: float, slots: list[int]) -> int:
            busy = Counter(slots)
            for stack in self.stacks():
                if stack.slot in busy and stack.busy_at(moment):
                    busy[stack.slot] += 1 + len(stack.actions)
            return busy.most_common(1)[0][0]

        slots = list(range(1, self.engines + 1))
        killed = most(KILL, slots)
        return killed, most(FREEZE, [slot for slot in slots if slot != killed])

    def _sizes(self, dice: random.Random) -> list[int]:
        """Numbers of actions. A stack is one deadline more than it has actions."""
        sizes: list[int] = []
        left = self.deadlines
        while left:
            size = min(dice.randint(1, 5), left - 1)
            sizes.append(size)
            left -= size + 1
        return sizes

    def _stack(
        self, dice: random.Random, number: int, start: float, size: int
    ) -> Stack:
        key = f"{self.prefix}stack-{number:03d}"
        stuck = dice.random() < 0.15
        actions = [
            Action(
                key=f"{key}/resource-{position}",
                seconds=STUCK if stuck and position == 1 else dice.uniform(0.8, 3.5),
                guarded=dice.random() < 0.7,
            )
            for position in range(1, size + 1)
        ]
        timeout = dice.uniform(4.0, 6.0)
        slot = number % self.engines + 1
        return Stack(key, slot, start, timeout, tuple(actions))

    def save(self, path: Path) -> None:
        """Write it down for the engine processes."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """What :meth:`save` wrote."""
        return cls(**json.loads(path.read_text()))
