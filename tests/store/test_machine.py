"""The real store, on real databases, against a reference of fifty lines: engines,
connections and transactions in whatever order hypothesis thinks of. A failure shrinks
to a script. ``LIVENESS_MACHINE=1000`` runs so many of them instead of a few."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from oslo_db import exception as db_exc

from liveness import exceptions
from liveness.db import tables
from liveness.db.rows import new_token
from liveness.model import Deadline, Engine
from tests.store.conftest import Store, engine_value
from tests.store.reference import Reference, Row

D, E = tables.deadline, tables.engine

KEYS = st.sampled_from(["a", "b", "c", "d"])
WHO = st.integers(0, 3)
PICK = st.sampled_from([0, 0, 1, 1, 2, 3, 5, 8, 13, 21])
PICKS = st.lists(PICK, min_size=1, max_size=6)
HOW = st.sampled_from(["rearm", "retry", "release", "park"])
WRONG = st.sampled_from([None, None, 0, 1, 2])
MAYBE = st.sampled_from([None, None, 0, 1, 2, 3])
DUE = st.sampled_from([-20.0, -1.0, 0.0, 2.0, 10.0])


@dataclasses.dataclass(frozen=True)
class Value:
    """A value that somebody was given, and which version of the row it was."""

    deadline: Deadline
    version: int
    sort: str = ""
    finder: str = ""


class Machine(RuleBasedStateMachine):
    store: Store
    sightings = Bundle("sightings")

    def __init__(self) -> None:
        super().__init__()
        self.store.clear()
        self.store.clock.__init__()
        self.ref = Reference()
        self.names: list[str] = []
        self.ended: dict[str, Any] = {}
        self.host: Any = None
        self.values: list[Value] = []
        self.found: list[Value] = []
        self.seen: dict[str, tuple[int, int, int]] = {}
        self.stack = contextlib.ExitStack()

    def teardown(self) -> None:
        self.stack.close()

    # --- helpers ----------------------------------------------------------------

    @property
    def now(self) -> Any:
        return self.store.clock.utc

    def who(self, number: int) -> str:
        return self.names[number % len(self.names)]

    def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with self.store.connect() as connection:
                return method(connection, *args, **kwargs)
        except db_exc.DBDeadlock:
            # MariaDB reads all of a small table now and then, and waits for the row of
            # the host's transaction. Such a conflict changes nothing; the next try is
            # the same.
            if self.host is None:
                raise
            self.host[0].rollback()
            with self.store.connect() as connection:
                answer = method(connection, *args, **kwargs)
            self.begin_a_transaction(*self.host[-1])
            return answer

    def give(self, *deadlines: Deadline) -> None:
        for value in deadlines:
            self.values.append(Value(value, self.ref.rows[value.key].version))

    @staticmethod
    def some(of: list[Value], picks: list[int]) -> list[Value]:
        """Different rows, the latest values more often; as a list of one is sent."""
        chosen = (of[-1 - pick % len(of)] for pick in picks)
        return list({value.deadline.id: value for value in chosen}.values())

    def current(self, value: Value) -> Row | None:
        """The row, if a write by ``value`` has to count."""
        row = self.ref.current(value.deadline.key, value.version)
        return row if value.deadline.owner_id is not None else None

    # --- engines ----------------------------------------------------------------

    @initialize(dues=st.lists(DUE, min_size=2, max_size=4))
    def two_engines_and_some_rows(self, dues: list[float]) -> None:
        self.start()
        self.start()
        for number, due in enumerate(dues):
            self.arm(number, "abcd"[number], due, 2)

    @precondition(lambda self: len(self.names) < 4)
    @rule()
    def start(self) -> None:
        name = f"e{len(self.names)}"
        self.call(self.store.engines.register, engine_value(name))
        self.names.append(name)
        self.ref.engines[name], self.ref.beats[name] = "live", 1

    @rule(number=WHO)
    def beat(self, number: int) -> None:
        me = self.who(number)
        sent, beat = self.ref.beats[me], self.store.engines.beat
        counted = self.call(beat, me, 7, sent, sent + 1, 30.0)
        assert counted == self.ref.alive(me)
        self.ref.beats[me] += 1

    @rule(target=sightings, number=WHO)
    def look_at_one(self, number: int) -> Any:
        engine = self.call(self.store.engines.get, self.who(number))
        return multiple() if engine is None else engine

    @rule(engine=sightings)
    def fence(self, engine: Engine) -> None:
        fenced = self.call(self.store.engines.fence, engine, "by", "silent")
        unmoved = engine.beat_seq == self.ref.beats[engine.id]
        assert fenced == (self.ref.alive(engine.id) and unmoved)
        if fenced:
            self.end(engine.id, "fenced")

    @rule(number=WHO)
    def drain(self, number: int) -> None:
        me = self.who(number)
        self.call(self.store.engines.set_draining, me)
        if self.ref.engines.get(me) == "live":
            self.ref.engines[me] = "draining"

    @rule(number=WHO)
    def resign(self, number: int) -> None:
        me = self.who(number)
        assert self.call(self.store.engines.resign, me) == self.ref.alive(me)
        if self.ref.alive(me):
            self.end(me, "stopped")

    def end(self, me: str, state: str) -> None:
        self.ref.engines[me], self.ended[me] = state, self.now

    @rule(age=st.sampled_from([0.0, 5.0]))
    def purge(self, age: float) -> None:
        before = self.now - timedelta(seconds=age)
        owners = {row.owner for row in self.ref.rows.values()}
        old = {me for me, when in self.ended.items() if when < before}
        gone = old - owners
        assert self.call(self.store.engines.purge, age, 100) == len(gone)
        for me in gone:
            del self.ref.engines[me], self.ended[me]

    # --- deadlines: their owners ------------------------------------------------

    def new_row(self, me: str, due: float, most: int) -> Row:
        when = self.now + timedelta(seconds=due)
        return Row(me, when, when, most)

    @rule(number=WHO, key=KEYS, due=DUE, most=st.integers(1, 3))
    def arm(self, number: int, key: str, due: float, most: int) -> None:
        me = self.who(number)
        new = self.store.new(key, owner=me, due=due, max_attempts=most)
        if self.host is not None and self.host[1] == key:
            return  # it would wait for that transaction's end
        try:
            value = self.call(self.store.deadlines.arm, new)
        except exceptions.AlreadyArmed:
            assert key in self.ref.rows
            return
        assert key not in self.ref.rows
        self.ref.arm(key, self.new_row(me, due, most))
        # Its answer was lost: it is sent again.
        assert self.call(self.store.deadlines.arm, new) == value
        self.give(value)

    @precondition(lambda self: self.host is None and self.store.backend != "sqlite")
    @rule(number=WHO, key=KEYS, due=DUE)
    def arm_in_a_transaction(self, number: int, key: str, due: float) -> None:
        if key in self.ref.rows:
            return
        self.begin_a_transaction(self.who(number), key, due)

    def begin_a_transaction(self, me: str, key: str, due: float) -> None:
        host = self.stack.enter_context(self.store.host())
        new = self.store.new(key, owner=me, due=due)
        value = self.store.deadlines.arm(host, new, hosted=True)
        self.host = (host, key, self.new_row(me, due, 5), value, (me, key, due))

    @precondition(lambda self: self.host is not None)
    @rule(commit=st.booleans())
    def end_the_transaction(self, commit: bool) -> None:
        (host, key, row, value, _), self.host = self.host, None
        if not commit:
            return host.rollback()
        host.commit()
        self.ref.arm(key, row)
        self.give(value)

    @precondition(lambda self: self.values)
    @rule(pick=PICK, due=DUE)
    def extend(self, pick: int, due: float) -> None:
        (value,) = self.some(self.values, [pick])
        row, token = self.current(value), new_token()
        try:
            new = self.call(self.store.deadlines.extend, value.deadline, due, token)
        except exceptions.StaleDeadline:
            assert row is None or row.state != "armed"
            return
        assert row is not None and row.state == "armed"
        when = self.now + timedelta(seconds=due)
        self.ref.change(value.deadline.key, due=when, expires=when)
        again = self.call(self.store.deadlines.extend, value.deadline, due, token)
        assert again == new
        self.give(new)

    @precondition(lambda self: self.values)
    @rule(picks=PICKS)
    def complete(self, picks: list[int]) -> None:
        some = self.some(self.values, picks)
        mine = [v for v in some if v.deadline.owner_id == some[0].deadline.owner_id]
        batch = [value.deadline for value in mine]
        good = {value.deadline.key for value in mine if self.current(value)}
        ids = {row_id for _, row_id, _ in self.seen.values()}
        stale = self.call(self.store.deadlines.complete, batch)
        left = {d.id for d in batch if d.key not in good and d.id in ids}
        assert stale - {d.id for d in batch if d.id not in ids} == left
        for key in good:
            del self.ref.rows[key]

    @precondition(lambda self: self.values)
    @rule(
        pick=PICK,
        how=HOW,
        seconds=st.sampled_from([0.0, 4.0]),
    )
    def settle(self, pick: int, how: str, seconds: float) -> None:
        (value,) = self.some(self.values, [pick])
        row, token, key = self.current(value), new_token(), value.deadline.key
        write = getattr(self.store.deadlines, how)
        args = {"rearm": (seconds,), "retry": (seconds, "why")}.get(how, ("why",))
        for _ in range(2):  # the second for a lost answer
            assert self.call(write, value.deadline, token, *args) == (row is not None)
        if row is None:
            return
        when = self.now + timedelta(seconds=seconds)
        changes: dict[str, dict[str, Any]] = {
            "rearm": {"state": "armed", "due": when, "expires": when, "attempts": 0},
            "retry": {"state": "armed", "due": when},
            "release": {"state": "armed", "owner": None},
            "park": {"state": "parked", "owner": None},
        }
        self.ref.change(key, **changes[how])
        self.give(self.store.row(key))

    @rule(key=KEYS)
    def unpark(self, key: str) -> None:
        found, row = self.store.find(key), self.ref.rows.get(key)
        if found is None or row is None:
            return
        done = self.call(self.store.deadlines.unpark, found, new_token())
        assert done == (row.state == "parked")
        if done:
            self.ref.change(key, state="armed", attempts=0, due=self.now)

    @rule(number=WHO)
    def hand_back(self, number: int) -> None:
        me = self.who(number)
        mine = [
            key
            for key, row in self.ref.rows.items()
            if row.owner == me and row.state in ("armed", "claimed")
        ]
        assert self.call(self.store.deadlines.hand_back, me, 100) == len(mine)
        for key in mine:
            self.ref.change(key, owner=None, state="armed")

    # --- deadlines: whoever finds them ------------------------------------------

    @rule(number=WHO, mistaken=WRONG)
    def look_for_work(self, number: int, mistaken: int | None) -> None:
        """``mistaken``: who is taken for dead and may be alive, as by a failover."""
        me = self.who(number)
        gone = {name for name in self.names if not self.ref.alive(name)}
        gone |= set() if mistaken is None else {self.who(mistaken)}
        gone -= {me}
        found = self.store.find_work(sorted(gone), me=me)
        wanted = self.ref.work(me, self.now, gone)
        parts = {name: getattr(found, name) for name in wanted}
        assert {name: {v.key for v in part} for name, part in parts.items()} == wanted
        rows = self.ref.rows
        for sort, part in parts.items():
            for value in part:
                self.found.append(Value(value, rows[value.key].version, sort, me))

    @precondition(lambda self: self.found)
    @rule(number=MAYBE, picks=PICKS)
    def claim(self, number: int | None, picks: list[int]) -> None:
        """Whatever was found before, by whomever, and has changed since or not."""
        some = self.some(self.found, picks)
        me = some[0].finder if number is None else self.who(number)
        claims = self.store.claims
        taken: list[Deadline] = []
        for sort in ("own", "orphans", "overdue"):
            batch = [value for value in some if value.sort == sort]
            wins = [v for v in batch if self.wins(me, v, sort)]
            found = [value.deadline for value in batch]
            if sort == "own":
                won = self.call(claims.claim_own, me, found)
            elif sort == "overdue":
                won = self.call(claims.claim_overdue, me, found, 6.0)
            else:
                won = self.call(claims.claim_orphans, me, found)
            assert {v.key for v in won} == {v.deadline.key for v in wins}
            for value in won:
                self.ref.claim(value.key, me)
            taken += won
        for value in taken:
            row = self.store.row(value.key)
            assert (row.token, row.epoch) == (value.token, value.epoch)
        self.give(*taken)

    @precondition(lambda self: self.found)
    @rule(number=MAYBE, picks=PICKS)
    def adopt(self, number: int | None, picks: list[int]) -> None:
        some = self.some(self.found, picks)
        me = some[0].finder if number is None else self.who(number)
        orphans = [value for value in some if value.sort == "orphans"]
        wins = {
            v.deadline.key: row.expires
            for v in orphans
            if self.wins(me, v, "orphans")
            and (row := self.ref.rows[v.deadline.key]).state == "armed"
        }
        found = [value.deadline for value in orphans]
        won = self.call(self.store.claims.adopt_orphans, me, found)
        assert {value.key for value in won} == set(wins)
        for key, expires in wins.items():
            self.ref.change(key, owner=me, attempts=0, due=expires)
        self.give(*won)

    def wins(self, me: str, value: Value, sort: str) -> bool:
        row = self.ref.current(value.deadline.key, value.version)
        if row is None:
            return False
        if sort == "orphans":
            return not self.ref.alive(row.owner)
        grace = timedelta(seconds=6.0 if sort == "overdue" else 0.0)
        due = row.state == "armed" and row.due <= self.now - grace
        return due and (sort == "overdue" or row.owner == me)

    @rule(number=WHO, adopt=st.booleans(), mistaken=WRONG, end=HOW | st.none())
    def work(
        self, number: int, adopt: bool, mistaken: int | None, end: str | None
    ) -> None:
        """What an engine does all day, and that it dies of it (``end`` is None), in one
        step; else it would be rare."""
        self.look_for_work(number, mistaken)
        if self.found:
            (self.adopt if adopt else self.claim)(number, [0, 1, 2, 3])
        if end is None:
            self.resign(number)
        elif self.values:
            self.settle(0, end, 0.0)

    @rule(seconds=st.sampled_from([0.000001, 1.0, 3.0, 6.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.store.clock.advance(seconds)

    # --- always -----------------------------------------------------------------

    @invariant()
    def the_tables_are_as_the_reference_says(self) -> None:
        with self.store.connect() as connection:
            rows = connection.execute(sa.select(D)).all()
            engines = connection.execute(sa.select(E.c.id, E.c.state)).all()
        assert {e.id: e.state for e in engines} == self.ref.engines
        assert {row.key: self.facts(row) for row in rows} == {
            key: (r.owner, r.state, r.due, r.expires, r.attempts, r.most)
            for key, r in self.ref.rows.items()
        }
        assert len({row.token for row in rows}) == len(rows)
        seen = {}
        for row in rows:
            version = self.ref.rows[row.key].version
            seen[row.key] = (version, row.id, row.token)
            before = self.seen.get(row.key)
            if before is not None and before[1] == row.id:
                # A change, and nothing else, changes the token.
                assert (before[0] == version) == (before[2] == row.token)
        self.seen = seen

    @staticmethod
    def facts(row: Any) -> tuple[Any, ...]:
        return (
            row.owner_id,
            row.state,
            row.due_at,
            row.expires_at,
            row.attempts,
            row.max_attempts,
        )


MANY = os.environ.get("LIVENESS_MACHINE")


@pytest.mark.timeout(0 if MANY else 120)
def test_whatever_the_order_the_store_does_as_the_reference(store):
    machine = type("MachineOnOneStore", (Machine,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(MANY or 60),
            stateful_step_count=50,
            deadline=None,
            derandomize=MANY is None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
