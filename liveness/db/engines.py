"""Every statement on ``liveness_engine``.

Beat and fence are single autocommit statements by primary key, each guarded by
``beat_seq``: a late beat cannot undo a fence, and a fence decided on an old reading
cannot hit an engine that has beaten since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from liveness import exceptions
from liveness.clock import Clock
from liveness.db import reading, tables
from liveness.db.finding import Found, Question, found_of, in_union
from liveness.db.stepping import values_of
from liveness.model import ALIVE, Engine, EngineState

E = tables.engine
D = tables.deadline

DEAD = (EngineState.FENCED, EngineState.STOPPED)
DEAD_SHOWN = 100
"""Rows of dead engines that one observation brings along, the latest ones. Older
ones that still own something come by :meth:`Engines.owners_not_alive`."""

IDENTITY = {
    "mysql": "CONCAT_WS('/', @@server_id, @@hostname, @@port)",
    "postgresql": "CONCAT_WS('/', pg_postmaster_start_time(), inet_server_addr())",
    "sqlite": "'sqlite'",
}


# Since the statement's time, which on MySQL is when it came. On PostgreSQL that is when
# it has been planned, which takes as long as what follows.
TOOK = {
    "mysql": "TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6))",
    "postgresql": "0",
    "sqlite": "0",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One reading of the engine table: which server answered, its UTC, the engines; and
    what was ``found`` in the same statement, if that was asked. It ``took`` so many
    seconds from that UTC on, at least."""

    server: str
    now: datetime
    engines: tuple[Engine, ...]
    found: Found | None = None
    took: float = 0.0


def engine_of(row: sa.Row[tuple[object, ...]]) -> Engine:
    """The value of a row that has every column of the table."""
    return Engine(*(row._mapping[c.name] for c in E.columns))


class Engines:
    """The engine table, through a connection that each call is given."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.database_now
        # The statements of an engine at rest are built once.
        self._beat = self._beat_statement()
        self._observe: dict[Hashable, Any] = {}
        self._around = True  # the ring's first ones are read as well as the next

    def register(self, connection: sa.Connection, engine: Engine) -> None:
        """Afterwards ``engine`` has a row, live, with ``beat_seq`` as given; its times
        are the database's. The same value may be registered again when the answer
        was lost.

        :raises EngineIdTaken: when another incarnation has the id.
        """
        values = dataclasses.asdict(engine)
        values.update(started_at=self._now(), beat_at=self._now())
        try:
            connection.execute(sa.insert(E).values(values))
        except Exception:
            if connection.invalidated:
                raise
            found = self.get(connection, engine.id)
            if found is None:
                raise
            if found.token != engine.token:
                raise exceptions.EngineIdTaken(
                    engine_id=engine.id, host=found.host, pid=found.pid
                ) from None

    def beat(
        self,
        connection: sa.Connection,
        engine_id: str,
        token: int,
        sent: int,
        seq: int,
        ttl: float,
    ) -> bool:
        """Write beat ``seq``. True: it is committed. False: the engine was fenced, or
        its row is gone, or a copy of its process is ahead of it; final.

        ``sent`` is the last beat that was sent before: none later may be in the row,
        and a late one cannot undo this one. Earlier ones may be: answers get lost, and
        so do commits in a failover; numbers are never repeated.
        """
        values = {
            "me": engine_id,
            "mine": token,
            "sent": sent,
            "seq": seq,
            "lease": ttl,
        }
        return connection.execute(self._beat, values).rowcount == 1

    def fence(
        self,
        connection: sa.Connection,
        victim: Engine,
        by: str | None,
        evidence: str,
    ) -> bool:
        """Declare ``victim`` dead, for good, if it has not beaten since it was read.

        True: it is fenced. False: it has beaten, or somebody else was first.
        """
        statement = (
            sa.update(E)
            .where(E.c.id == victim.id, E.c.state.in_(ALIVE))
            .where(E.c.beat_seq == victim.beat_seq, E.c.token == victim.token)
            .values(
                state=EngineState.FENCED,
                ended_at=self._now(),
                fenced_by=by,
                fence_evidence=evidence[:255],
            )
        )
        return connection.execute(statement).rowcount == 1

    def set_draining(self, connection: sa.Connection, engine_id: str) -> None:
        """Afterwards a live engine's row says draining; a fenced one's is unchanged."""
        connection.execute(
            sa.update(E)
            .where(E.c.id == engine_id, E.c.state == EngineState.LIVE)
            .values(state=EngineState.DRAINING)
        )

    def resign(self, connection: sa.Connection, engine_id: str) -> bool:
        """Afterwards the engine's row says stopped, and others own what it still has.

        False when it had been fenced before."""
        statement = (
            sa.update(E)
            .where(E.c.id == engine_id, E.c.state.in_(ALIVE))
            .values(state=EngineState.STOPPED, ended_at=self._now())
        )
        return connection.execute(statement).rowcount == 1

    def get(self, connection: sa.Connection, engine_id: str) -> Engine | None:
        """The engine of that id, or None."""
        row = connection.execute(sa.select(E).where(E.c.id == engine_id)).one_or_none()
        return None if row is None else engine_of(row)

    def observe(
        self,
        connection: sa.Connection,
        me: str,
        window: int,
        question: Question | None = None,
    ) -> Observation:
        """Read, in one statement, the ``window`` living engines that follow ``me`` in
        the ring of ids (all of them in a smaller fleet), and the latest dead ones; and
        what the ``question``, of the same engine, finds.

        In a ring every engine is read by some, however many there are, and no clock
        decides who is read.
        """
        seen, living = self._read(connection, me, window, question)
        if not self._around and living <= window:
            self._around = True
            seen, living = self._read(connection, me, window, question)
        elif living > 2 * window:
            self._around = False  # as many follow as are wanted
        return seen

    def _read(
        self,
        connection: sa.Connection,
        me: str,
        window: int,
        question: Question | None,
    ) -> tuple[Observation, int]:
        """One reading, and how many living engines were in it."""
        asked = question and question.name
        name = (connection.dialect.name, window, self._around, asked)
        statement = self._observe.get(name)
        if statement is None:
            if len(self._observe) > 16:
                self._observe.clear()
            statement = self._observe_statement(name[0], window, question)
            self._observe[name] = statement
        values = {"me": me} | (question.values if question else {})
        rows = connection.execute(statement, values).all()
        (facts,) = (row for row in rows if row[reading.WHY] == reading.FACTS)
        shown = [row for row in rows if row[reading.WHY] == reading.ENGINE]
        others = [row for row in rows if row[reading.WHY] in reading.WORK]
        engines = [Engine(*row[: reading.WIDTH]) for row in shown]
        living = [e for e in engines if e.alive]
        server, now, took = reading.facts_in(facts)
        seen = Observation(
            server,
            now,
            tuple(living[: window + 1] + [e for e in engines if not e.alive]),
            found_of(map(reading.alone, others), me) if question else None,
            took,
        )
        return seen, len(living)

    def count_alive(self, connection: sa.Connection) -> int:
        """How many engines are alive."""
        statement = sa.select(sa.func.count()).select_from(E)
        return connection.execute(statement.where(E.c.state.in_(ALIVE))).scalar_one()

    def server_start(self, connection: sa.Connection) -> float:
        """When the server of ``connection`` started, in seconds of its own clock, to a
        second or two; 0 where a restart would show otherwise."""
        if connection.dialect.name != "mysql":
            return 0.0
        statement = (
            "SELECT UNIX_TIMESTAMP() - VARIABLE_VALUE FROM"
            " information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'"
            if getattr(connection.dialect, "is_mariadb", False)
            else "SELECT UNIX_TIMESTAMP() - VARIABLE_VALUE FROM"
            " performance_schema.global_status WHERE VARIABLE_NAME = 'UPTIME'"
        )
        return float(connection.exec_driver_sql(statement).scalar_one())

    def not_alive(
        self, connection: sa.Connection, engine_ids: Iterable[str]
    ) -> set[str]:
        """Those of ``engine_ids`` that are fenced, stopped, or have no row."""
        wanted = set(engine_ids)
        if not wanted:
            return wanted
        statement = sa.select(E.c.id).where(
            E.c.id.in_(sorted(wanted)), E.c.state.in_(ALIVE)
        )
        return wanted - set(connection.execute(statement).scalars())

    def owners_not_alive(
        self, connection: sa.Connection, limit: int
    ) -> dict[str, bool]:
        """Owners of deadlines that are fenced, stopped or missing, at most ``limit``;
        True for those that have a row, False for the missing.

        It costs as many steps through the index as there are owners.
        """
        owners = values_of(connection.dialect.name, D.c.owner_id)
        statement = (
            sa.select(owners.c.value, E.c.id.label("row"))
            .select_from(owners.outerjoin(E, E.c.id == owners.c.value))
            .where(owners.c.value.is_not(None))
            .where(sa.or_(E.c.id.is_(None), E.c.ended_at.is_not(None)))
            .limit(limit)
        )
        rows = connection.execute(statement)
        return {row.value: row.row is not None for row in rows}

    def purge(self, connection: sa.Connection, older_than: float, limit: int) -> int:
        """Delete rows of engines that ended ``older_than`` seconds ago and own no
        deadline; at most ``limit``. Return how many went."""
        owns = sa.exists().where(D.c.owner_id == E.c.id)
        old = sa.select(E.c.id).where(
            E.c.ended_at < self._now(-older_than), sa.not_(owns)
        )
        ids = list(connection.execute(old.limit(limit)).scalars())
        if not ids:
            return 0
        # Not looked at again in the DELETE: InnoDB would wait there for an arm that is
        # not committed. A row that came in between has a missing owner, and is found.
        statement = sa.delete(E).where(E.c.id.in_(ids), E.c.ended_at.is_not(None))
        return connection.execute(statement).rowcount

    def _beat_statement(self) -> Any:
        return (
            sa.update(E)
            .where(E.c.id == sa.bindparam("me"), E.c.state.in_(ALIVE))
            .where(E.c.token == sa.bindparam("mine"))
            .where(E.c.beat_seq <= sa.bindparam("sent"))
            .values(
                beat_seq=sa.bindparam("seq"),
                beat_at=self._now(),
                ttl=sa.bindparam("lease"),
            )
        )

    def _observe_statement(
        self, dialect: str, window: int, question: Question | None
    ) -> Any:
        me: sa.BindParameter[str] = sa.bindparam("me")
        living = sa.select(E).where(E.c.state.in_(ALIVE)).order_by(E.c.id)
        dead = sa.select(E).where(E.c.ended_at.is_not(None))
        engines = [
            living.where(E.c.id >= me).limit(window + 1),
            *([living.where(E.c.id < me).limit(window)] if self._around else []),
            dead.order_by(E.c.ended_at.desc()).limit(DEAD_SHOWN),
        ]
        server = sa.literal_column(IDENTITY[dialect], sa.String)
        took = sa.literal_column(TOOK[dialect], sa.BigInteger)
        work = question.parts(dialect) if question else []
        return sa.union_all(
            *(reading.of_engine(in_union(part, dialect)) for part in engines),
            *(reading.of_deadlines(part) for part in work),
            reading.of_facts(server, self._now(), took),
        )

    def all(self, connection: sa.Connection) -> Sequence[Engine]:
        """Every engine, the living ones first, by start."""
        rows = connection.execute(
            sa.select(E).order_by(E.c.ended_at.is_not(None), E.c.started_at, E.c.id)
        )
        return [engine_of(row) for row in rows]
