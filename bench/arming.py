"""Arming: what a host program pays for each deadline that it writes down.

One at a time, in a transaction of the caller's, many at once, and ``guard()`` around
nothing; the floor is the bare INSERT (and DELETE) of the same row.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

import liveness
from bench import machine
from bench.context import Context
from bench.floor import floor_on
from bench.floor.base import Floor
from bench.rounds import Row, interleave, row
from bench.servers import Place


@dataclasses.dataclass(frozen=True)
class Size:
    """Of each round: ``single`` arms, ``bulk`` statements of ``many`` rows."""

    rounds: int
    single: int
    bulk: int
    many: int = 1000
    of_a_transaction: int = 10


SIZES = {"quick": Size(3, 50, 2), "full": Size(15, 300, 10)}

DUE = 86400.0

Work = Callable[[int], None]


class Noop(liveness.Handler):
    kind = "noop"

    def expired(self, deadline: liveness.Deadline) -> None:
        """Done."""


def run(context: Context) -> Iterator[Row]:
    for database in context.databases:
        with context.servers.place(database) as place:
            yield from _measure(context, place)


def _measure(context: Context, place: Place) -> Iterator[Row]:
    size: Size = context.size
    floor = floor_on(place)
    host = sa.create_engine(place.url)
    with liveness.start(handlers=[Noop], connection=place.url) as live:
        ways = Ways(live, host, floor, size).all()
        for name, (count, ours, bare) in ways.items():
            load = machine.load()
            used: dict[str, list[float]] = {"ours": [], "bare": []}
            rates = interleave(
                size.rounds,
                {
                    "ours": _rate(ours, count, used["ours"]),
                    "bare": _rate(bare, count, used["bare"]),
                },
                lambda text, name=name: context.tell(
                    f"arming, {place}: {name}, {text}"
                ),
            )
            yield row(
                name,
                place,
                "/s",
                rates["ours"],
                rates["bare"],
                goal="ratio >= 0.8",
                load=load,
            )
            yield row(
                f"{name}: own CPU", place, "ms", used["ours"], used["bare"], load=load
            )
            floor.cursor.execute("DELETE FROM liveness_deadline")
    host.dispose()
    floor.close()


def _rate(
    work: Callable[[int], None], count: int, used: list[float]
) -> Callable[[], float]:
    """Deadlines per second of ``work`` of so many; notes the CPU of each, in ms."""

    def measure() -> float:
        cpu, began = time.process_time(), time.perf_counter()
        work(count)
        taken = time.perf_counter() - began
        used.append((time.process_time() - cpu) * 1000 / count)
        return count / taken

    return measure


class Ways:
    """Each way to arm, and its floor; all are given how many."""

    def __init__(
        self, live: liveness.Liveness, host: sa.Engine, floor: Floor, size: Size
    ) -> None:
        self._live = live
        self._host = host
        self._floor = floor
        self._size = size
        self._numbers = itertools.count()

    def all(self) -> dict[str, tuple[int, Work, Work]]:
        size = self._size
        inside = f"in a transaction of {size.of_a_transaction}"
        return {
            "single": (size.single, self.single, self.bare_single),
            inside: (size.single, self.hosted, self.bare_hosted),
            f"{size.many:,} at once": (
                size.bulk * size.many,
                self.bulk,
                self.bare_bulk,
            ),
            "guard around nothing": (size.single, self.guard, self.bare_guard),
        }

    def single(self, count: int) -> None:
        for key in self._keys(count):
            self._live.arm("noop", key, due_in=DUE)

    def bare_single(self, count: int) -> None:
        for key in self._keys(count):
            self._floor.arm(key)

    def hosted(self, count: int) -> None:
        for batch in self._batches(count, self._size.of_a_transaction):
            with self._host.begin() as connection:
                for key in batch:
                    self._live.arm("noop", key, due_in=DUE, connection=connection)

    def bare_hosted(self, count: int) -> None:
        for batch in self._batches(count, self._size.of_a_transaction):
            self._floor.begin()
            for key in batch:
                self._floor.arm(key)
            self._floor.commit()

    def bulk(self, count: int) -> None:
        for batch in self._batches(count, self._size.many):
            self._live.arm_many(
                [liveness.Arm("noop", key, due_in=DUE) for key in batch]
            )

    def bare_bulk(self, count: int) -> None:
        for batch in self._batches(count, self._size.many):
            self._floor.arm_many(batch)

    def guard(self, count: int) -> None:
        for key in self._keys(count):
            with self._live.guard("noop", key, due_in=DUE):
                pass

    def bare_guard(self, count: int) -> None:
        for key in self._keys(count):
            self._floor.disarm(self._floor.arm(key))

    def _keys(self, count: int) -> list[str]:
        return [f"key-{next(self._numbers)}" for _ in range(count)]

    def _batches(self, count: int, size: int) -> Iterator[list[str]]:
        keys = self._keys(count)
        for start in range(0, len(keys), size):
            yield keys[start : start + size]
