"""What can happen to an engine's process, and to what it sees of the time of day."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from tests.chaos import wallclock
from tests.chaos.faults import ENGINE, Do, Fault, Kind
from tests.chaos.slots import Slot

CLOCKS = ("clock ahead", "clock behind", "clock fast", "clock slow")

STEPS = (2.0, 60.0, 3600.0)
"""Seconds by which a clock is ahead or behind."""

BURST = (0.15, 0.05)
"""Seconds for which a starved engine stands still, and runs."""

Make = Callable[[Slot, Fault, random.Random], Do]


def kinds(slots: Sequence[Slot]) -> dict[str, Kind]:
    """Every kind, of the engines in these slots."""

    def kind(weight: float, shortest: float, longest: float, make: Make) -> Kind:
        def of(fault: Fault, rng: random.Random) -> Do:
            assert fault.slot is not None
            return make(slots[fault.slot], fault, rng)

        return Kind(ENGINE, weight, shortest, longest, of)

    found = {
        "kill": kind(4, 0.0, 0.0, lambda slot, *_: Do(slot.kill)),
        "stop short": kind(3, 0.1, 0.9, _stop),
        "stop long": kind(3, 1.1, 3.0, _stop),
        "drain": kind(2, 0.0, 0.0, lambda slot, *_: Do(slot.drain)),
        "pool exhausted": kind(1, 0.3, 2.0, _exhaust),
        "starved": kind(1, 0.5, 2.0, lambda slot, *_: _Starve(slot).action),
        "clock ahead": kind(0.5, 0.5, 4.0, _step(1)),
        "clock behind": kind(0.5, 0.5, 4.0, _step(-1)),
        "clock fast": kind(0.5, 0.5, 4.0, _drift(1)),
        "clock slow": kind(0.5, 0.5, 4.0, _drift(-1)),
    }
    return {name: found[name] for name in found if name not in unavailable()}


def unavailable() -> dict[str, str]:
    """Kinds that cannot be had here, and why."""
    reason = wallclock.unavailable()
    return dict.fromkeys(CLOCKS, reason) if reason else {}


def _stop(slot: Slot, fault: Fault, rng: random.Random) -> Do:
    return Do(slot.stop, slot.go_on)


def _exhaust(slot: Slot, fault: Fault, rng: random.Random) -> Do:
    return Do(lambda: slot.tell("exhaust", seconds=fault.seconds))


def _step(sign: int) -> Make:
    def make(slot: Slot, fault: Fault, rng: random.Random) -> Do:
        offset = sign * rng.choice(STEPS)
        return Do(lambda: slot.set_clock(offset), lambda: slot.set_clock(0.0))

    return make


def _drift(sign: int) -> Make:
    def make(slot: Slot, fault: Fault, rng: random.Random) -> Do:
        return _Drift(slot, sign * rng.uniform(0.1, 3.0)).action

    return make


class _Repeated:
    """An action that is done again and again, in a thread, until it is healed."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.action = Do(self._thread.start, self._heal)

    def _run(self) -> None:
        while not self._over.is_set():
            self.once()
        self.end()

    def _heal(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def pause(self, seconds: float) -> None:
        self._over.wait(seconds)

    def once(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class _Starve(_Repeated):
    def once(self) -> None:
        self.slot.stop()
        self.pause(BURST[0])
        self.slot.go_on()
        self.pause(BURST[1])

    def end(self) -> None:
        self.slot.go_on()


class _Drift(_Repeated):
    """The time of day runs faster, or slower, or backwards."""

    def __init__(self, slot: Slot, rate: float) -> None:
        super().__init__(slot)
        self._rate = rate
        self._begun = time.monotonic()

    def once(self) -> None:
        self.slot.set_clock(self._rate * (time.monotonic() - self._begun))
        self.pause(0.5)

    def end(self) -> None:
        self.slot.set_clock(0.0)
