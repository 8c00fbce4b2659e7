"""What the program's statements cost a real server: its CPU, not the clock on the wall.
(On a busy machine a statement costs more CPU as well: caches are cold.)"""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench import counters, idle, raw, rows
from bench.context import Context
from bench.driven import Herd
from bench.scaling.costs import Cost, Costs
from bench.servers import Place, Servers
from liveness.db import tables
from liveness.db.finding import Finder, Scope
from liveness.db.rows import COLUMNS, deadline_of
from liveness.model import Deadline

D = tables.deadline

ENGINES, ARMED, OWNERS = 120, 200_000, 1000
CONNECTIONS = 300
FEW, MANY = 1, 100
IDLE = (10, 100)
"""Engines at rest that are measured as ``bench idle`` does, to compare with."""

Calls = Iterator[Callable[[], Any]]
Batches = Iterable[Sequence[Deadline]]


def measure(tell: Callable[[str], None]) -> tuple[Costs, dict[str, Any]]:
    """Start a MariaDB server and ask it everything: the costs, and what so many engines
    at rest are seen to cost it."""
    servers = Servers()
    try:
        with servers.place("mariadb") as place:
            costs = _Calibration(place, tell).costs()
        with servers.place("mariadb") as place:
            return costs, {str(n): _idle(servers, place, n, tell) for n in IDLE}
    finally:
        servers.close()


def _idle(
    servers: Servers, place: Place, engines: int, tell: Callable[[str], None]
) -> dict[str, float]:
    size = idle.Size((engines,), (10_000,), 40, {1: 1.0}, {})
    context = Context(servers, ["mariadb"], size, tell, [])
    return dataclasses.asdict(idle.measure(context, place, engines, 10_000))


class _Calibration:
    def __init__(self, place: Place, tell: Callable[[str], None]) -> None:
        self._place = place
        self._tell = tell
        ids = [str(uuid.uuid4()) for _ in range(ENGINES)]
        owners = [*ids, *(str(uuid.uuid4()) for _ in range(OWNERS - ENGINES))]
        tell(f"{ARMED:,} armed deadlines of {OWNERS} engines")
        rows.load(place, ARMED, owners, spread=3600.0, tell=tell)
        self._herd = Herd(place, ids)
        ring = sorted(owners)
        # One with more of them on either side than a window has.
        me = min(self._herd.engines, key=lambda e: abs(ring.index(e.id) - OWNERS // 2))
        self._parts, self._me = me.parts, me.id
        self._register(owners[ENGINES:])

    def _register(self, ids: Sequence[str]) -> None:
        """Rows of engines that are only there to be walked past."""
        engines = self._parts.engines
        with self._parts._pool.connect() as connection:
            model = engines.get(connection, self._me)
            assert model is not None
            for number in ids:
                engines.register(connection, dataclasses.replace(model, id=number))

    def costs(self) -> Costs:
        try:
            with self._parts._pool.connect() as connection:
                return self._costs(connection)
        finally:
            self._herd.close()

    def _costs(self, connection: sa.Connection) -> Costs:
        engines = self._parts.engines
        cost = self._cost
        owners = _always(lambda: engines.owners_not_alive(connection, 100))
        count = _always(lambda: engines.count_alive(connection))
        parts = {
            "beat": cost("beat", 2000, self._beats(connection)),
            "look": cost(
                "look up", 1000, _always(lambda: engines.get(connection, self._me))
            ),
        }
        parts["fence"] = parts["beat"]
        parts["owners_row"] = _each(cost("owners", 60, owners), parts["look"], OWNERS)
        parts["count_row"] = _each(cost("count", 300, count), parts["look"], OWNERS)
        parts |= self._of_rows(connection)
        return Costs(
            **{name: part.seconds for name, part in parts.items()},
            connection=self._memory(),
            sizes={name: part.bytes for name, part in parts.items()},
        )

    def _of_rows(self, connection: sa.Connection) -> dict[str, Cost]:
        """What depends on how many rows there are."""
        few, many = (
            self._with_rows(connection, size, count)
            for size, count in ((FEW, 600), (MANY, 40))
        )
        parts = {}
        for name in few:
            least, most = (
                (2 * FEW + 1, 2 * MANY + 1) if name == "observe" else (FEW, MANY)
            )
            parts[f"{name}_row"] = each = _each(many[name], few[name], most - least)
            parts[name] = _less(few[name], each, least)
        return parts

    def _with_rows(
        self, connection: sa.Connection, size: int, count: int
    ) -> dict[str, Cost]:
        cost = self._cost
        claimed: list[Sequence[Deadline]] = []
        own = self._armed(connection, size, count, self._me)
        others = self._armed(connection, size, count, str(uuid.uuid4()))
        return {
            "observe": cost("observe", 500, self._observe(connection, size)),
            "find": cost("find", 400, self._find(connection, size)),
            "claim": cost("claim", count, self._claims(connection, own, claimed)),
            "complete": cost("complete", count, self._completions(connection, claimed)),
            "adopt": cost("adopt", count, self._adoptions(connection, others)),
        }

    def _cost(self, what: str, count: int, calls: Calls) -> Cost:
        """Of the server, for one of ``count`` calls."""
        self._tell(f"what it costs: {what}")
        before = counters.counted(self._place)
        for call, _ in zip(calls, range(count), strict=False):
            call()
        used = counters.measured(before, self._place)
        return Cost(used.cpu / count, (used.received + used.sent) / count)

    def _memory(self) -> float:
        """Bytes of the server's memory for each connection that has been used."""
        pid = self._place.server.process.pid
        before = _resident(pid)
        many = [raw.connect(self._place.url) for _ in range(CONNECTIONS)]
        for connection in many:
            connection.cursor().execute("SELECT * FROM liveness_engine LIMIT 1")
        used = _resident(pid) - before
        for connection in many:
            connection.close()
        return used / CONNECTIONS

    # --- what is asked ----------------------------------------------------------

    def _beats(self, connection: sa.Connection) -> Calls:
        engines = self._parts.engines
        row = engines.get(connection, self._me)
        assert row is not None
        for seq in range(row.beat_seq + 1, 1 << 31):
            yield lambda: engines.beat(connection, row.id, row.token, seq, seq, 30.0)  # noqa: B023

    def _observe(self, connection: sa.Connection, window: int) -> Calls:
        engines = self._parts.engines
        return _always(lambda: engines.observe(connection, self._me, window))

    def _find(self, connection: sa.Connection, limit: int) -> Calls:
        finder = Finder(self._parts._clock, self._me)
        scope = Scope(
            horizon=3600.0 if limit > FEW else 0.0,
            grace=6.0,
            kinds=("noop",),
            unknown_grace=60.0,
            limit=200,
            own_limit=limit,
            held=False,
        )
        return _always(lambda: finder.find(connection, finder.question(scope)))

    def _claims(
        self,
        connection: sa.Connection,
        batches: Batches,
        claimed: list[Sequence[Deadline]],
    ) -> Calls:
        claim = self._parts._claims.claim_own
        for batch in batches:
            yield lambda: claimed.append(claim(connection, self._me, batch))  # noqa: B023

    def _completions(self, connection: sa.Connection, batches: Batches) -> Calls:
        complete = self._parts.deadlines.complete
        for batch in batches:
            yield lambda: complete(connection, batch, again=False)  # noqa: B023

    def _adoptions(self, connection: sa.Connection, batches: Batches) -> Calls:
        adopt = self._parts._claims.adopt_orphans
        for batch in batches:
            yield lambda: adopt(connection, self._me, batch)  # noqa: B023

    def _armed(
        self, connection: sa.Connection, size: int, count: int, owner: str
    ) -> list[list[Deadline]]:
        """So many batches of due deadlines, as a sweep finds them."""
        prefix = uuid.uuid4().hex[:8]
        rows.load(self._place, size * count, [owner], due_in=-1.0, prefix=prefix)
        mine = sa.select(*COLUMNS).where(D.c.key.startswith(prefix)).order_by(D.c.id)
        values = [
            deadline_of(row, False, True, True) for row in connection.execute(mine)
        ]
        return [values[n : n + size] for n in range(0, len(values), size)]


def _always(call: Callable[[], Any]) -> Calls:
    while True:
        yield call


def _each(many: Cost, few: Cost, rows: int) -> Cost:
    """What each of the rows costs that the one has more than the other."""
    return Cost(
        max(0.0, (many.seconds - few.seconds) / rows),
        max(0.0, (many.bytes - few.bytes) / rows),
    )


def _less(cost: Cost, each: Cost, rows: int) -> Cost:
    return Cost(
        max(0.0, cost.seconds - each.seconds * rows),
        max(0.0, cost.bytes - each.bytes * rows),
    )


def _resident(pid: int) -> float:
    """Bytes of a process's memory."""
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))
