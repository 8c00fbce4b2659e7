"""One run: engines, a nemesis, a quiet end, and what is left for the judge."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.chaos import engine_faults, history, slots
from tests.chaos.database import Database
from tests.chaos.faults import Fault, Kind
from tests.chaos.nemesis import Nemesis, schedule
from tests.chaos.profile import PAGE, TIMES, USUAL, WINDOW, Profile

SETTLED = 90.0
"""Seconds that a quiet end may last before what is left over counts as lost."""

UNSETTLED = (
    "SELECT COUNT(*) AS n FROM liveness_deadline WHERE state IN ('armed', 'claimed')"
)
ALIVE = "SELECT COUNT(*) AS n FROM liveness_engine WHERE state = 'live'"


@dataclasses.dataclass(frozen=True)
class Orders:
    """What a run is asked to be."""

    seconds: float
    seed: int
    engines: int = 4
    profile: Profile = USUAL
    mutant: str | None = None
    settled: float = SETTLED
    slow: float = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """Of each engine; ``slow`` times as long for everything, on a machine that is
        so slow."""
        options = self.profile.settings()
        return {**options, **{name: options[name] * self.slow for name in TIMES}}

    @property
    def duration(self) -> float:
        """Seconds of faults."""
        return self.seconds * self.slow

    def at_rate(self, rate: float) -> Orders:
        """The same with so many operations per second in each engine's host."""
        profile = dataclasses.replace(self.profile, rate=rate)
        return dataclasses.replace(self, profile=profile)


class NotPossible(Exception):
    """The run cannot be made here."""


class Broken(NotPossible):
    """The database says itself that it is corrupt: what was done on it shows
    nothing."""


class Run:
    """Real engines on ``database``; histories go to ``folder``."""

    def __init__(
        self,
        orders: Orders,
        database: Database,
        folder: Path,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.orders = orders
        self.database = database
        self.folder = folder
        self._tell = tell
        self.slots: list[slots.Slot] = []
        self.faults: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.codes: list[int | None] = []
        self.versions: dict[str, str] = {}
        self.unavailable: dict[str, str] = {}

    def __call__(self) -> dict[str, Any]:
        """Do it all; return the dump of the database at the end."""
        history.begin(str(self.folder / "nemesis.jsonl"))
        try:
            self._begin()
            kinds = self._kinds()
            faults = self._schedule(kinds)
            self._tell(f"{len(faults)} faults, {len(self.slots)} engines")
            nemesis = Nemesis(self.orders.seed, kinds, self._tell)
            nemesis.run(faults, self.orders.duration)
            self.faults, self.failed = dict(nemesis.done), dict(nemesis.failed)
            return self._end()
        finally:
            self._close_slots()
            self.database.close()

    def _begin(self) -> None:
        try:
            self.database.start()
            self.database.prepare()
        except Exception as error:
            raise NotPossible(f"the database does not start: {error}") from error
        self.versions = {**self.database.versions()}
        self.unavailable = self.database.unavailable()
        profile = self.orders.profile
        for number, url in enumerate(self.database.urls()):
            machine = profile.machines[number % len(profile.machines)]
            options = {**self.orders.options, "connection": url}
            if number in self.remembering:
                state = self.folder / f"state-{number}"
                state.mkdir()
                options["state_directory"] = str(state)
            page = PAGE if number in self.with_small_pages else None
            if page:
                options["batch_size"] = page
            large = number in self.in_a_large_fleet
            todo = {
                "page": page,
                "window": WINDOW if large else None,
                "seed": self.orders.seed,
                "rate": profile.rate,
                "taste": dict(profile.taste),
                "machine": f"machine-{machine}",
                "mutant": self.orders.mutant,
                "options": options,
            }
            self.slots.append(slots.Slot(number, self.folder, todo))
        self._wait(
            lambda: self._count(ALIVE) >= len(self.slots),
            60 * self.orders.slow,
            "engines live",
        )

    @property
    def remembering(self) -> list[int]:
        """The slots in which each engine goes on from what the one before observed."""
        return list(range(0, self.orders.engines, 2))

    @property
    def with_small_pages(self) -> list[int]:
        """The slots in which a few deadlines are a long line."""
        return list(range(1, self.orders.engines, 2))

    @property
    def in_a_large_fleet(self) -> list[int]:
        """The slots in which an engine sees a part of the others, and has duty by
        turns."""
        return list(range(2, self.orders.engines, 3))

    def _kinds(self) -> dict[str, Kind]:
        every = {**engine_faults.kinds(self.slots), **self.database.faults()}
        had = {name: every[name] for name in every if name not in self.unavailable}
        return self.orders.profile.kinds(had)

    def _schedule(self, kinds: dict[str, Kind]) -> list[Fault]:
        orders = self.orders
        pace = orders.profile.pace * orders.slow
        many = len(self.slots)
        ttl = orders.options["ttl"]
        return schedule(orders.seed, orders.duration, many, kinds, ttl, pace)

    def _end(self) -> dict[str, Any]:
        """Everything is healed; wait until all that is due is settled, then stop."""
        self.database.heal()
        self._require_whole()
        for slot in self.slots:
            slot.go_on()
            slot.set_clock(0.0)
            slot.tell("calm")
        self._tell("quiet: waiting until nothing is left over")
        began = self._now()
        self._wait(lambda: self._count(UNSETTLED) == 0, self.orders.settled)
        quiet = (began, self._now())
        self._close_slots()
        self._require_whole()
        found = {
            **self.database.dump(),
            "quiet": quiet,
            "margin": self.orders.options["lease_margin"],
            "spread": self.database.spread,
            "remembering": self.remembering,
            "keeps_commits": self.database.keeps_commits,
        }
        with open(self.folder / "database.json", "w") as file:
            json.dump(found, file, separators=(",", ":"))
        return found

    def _require_whole(self) -> None:
        if corrupt := self.database.corrupt():
            lines = "\n   ".join(["the database has broken:", *corrupt])
            raise Broken(lines)

    def _now(self) -> float:
        """By the database's clock; the earliest, where there are several."""
        return min(now.timestamp() for now in self.database.server_times().values())

    def _close_slots(self) -> None:
        """All of them drain at the same time."""
        slots, self.slots = self.slots, []
        with ThreadPoolExecutor(len(slots) or 1) as pool:
            self.codes += pool.map(lambda slot: slot.close(), slots)

    def _count(self, sql: str) -> int:
        with contextlib.suppress(Exception):  # it is on its way up
            return int(self.database.rows(sql)[0]["n"])
        return -1

    def _wait(
        self, done: Callable[[], bool], seconds: float, what: str | None = None
    ) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                if what:
                    raise NotPossible(f"no {what} within {seconds:g} s")
                return
            time.sleep(0.1)
