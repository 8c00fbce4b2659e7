"""Every statement on ``liveness_event``, which is only ever added to and purged.

It has no index but its primary key, so that writing it costs little. Ids grow with
time, near enough: a range of time is a range of ids, give or take a minute.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import operator
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from liveness.clock import Clock
from liveness.db import tables
from liveness.db.prepared import (
    ManyRows,
    Prepared,
    Statements,
    kind_of,
    rows_of_json,
)
from liveness.db.rows import among
from liveness.events import Event, What

D = tables.deadline
V = tables.event

WRITTEN = [name for name in V.columns.keys() if name not in ("id", "at")]

_facts = operator.attrgetter(*WRITTEN)

ALIKE = ("what", "engine_id", "about_id", "detail")
"""What may be the same for many deadlines."""

COPIED = ("kind", "key", "epoch", "attempts")
"""What the event of a deadline has of its row."""

WINDOW = 2000
"""Rows looked at in one statement."""

QUIET = (What.LATENESS,)
"""Shown only to whom asks for it by name: numbers, and nothing that befell anyone."""

SLACK = timedelta(minutes=5)
"""How far ids and times may be out of step: transactions commit late, clocks of nodes
differ."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which events: all of what is given holds. ``engine``: done by or to one whose id
    begins so. ``what``: these; else all but :data:`QUIET`."""

    engine: str | None = None
    kind: str | None = None
    what: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None


class EventLog:
    """The history, through a connection that each call is given."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.database_now
        self._insert = sa.insert(V).values(at=clock.database_now())
        self._insert_sqlite = self._from_json("sqlite")
        self._insert_postgresql = self._from_json("postgresql")
        self._many: dict[object, ManyRows] = {}
        self._statements = Statements()

    def add(self, connection: sa.Connection, events: Sequence[Event]) -> None:
        """Append all of ``events``, in one statement."""
        if not events:
            return
        rows = [_row(event) for event in events]
        dialect = connection.dialect
        if dialect.name == "sqlite":
            text = json.dumps([list(row.values()) for row in rows])
            connection.execute(self._insert_sqlite, {"rows": text})
        elif len(rows) == 1:
            connection.execute(self._insert, rows)
        elif dialect.name == "postgresql":
            connection.execute(self._insert_postgresql, {"rows": json.dumps(rows)})
        else:
            if (many := self._many.get(kind_of(dialect))) is None:
                many = ManyRows(self._insert, dialect, WRITTEN)
                self._many[kind_of(dialect)] = many
            many.execute(connection, rows)

    def add_alike(
        self, connection: sa.Connection, event: Event, rows: Sequence[int]
    ) -> None:
        """Append an ``event`` for each of these deadlines, by their row ids, which this
        transaction has changed. The server copies from their rows which they are."""

        def make() -> Prepared:
            some = sa.select(*(D.c[name] for name in COPIED))
            some = some.where(among(connection, D.c.id, "ids"))
            return Prepared(self.copied(some.subquery()), connection.dialect)

        statement = self._statements.get("alike", connection.dialect, make)
        statement.execute(connection, alike(event) | {"ids": rows})

    def copied(self, rows: Any) -> Any:
        """The statement that appends an event for each of the ``rows``, which have
        :data:`COPIED` of a deadline. Its parameters are :func:`alike`."""
        facts: dict[str, Any] = {
            name: sa.bindparam(name, type_=V.c[name].type) for name in ALIKE
        }
        facts["at"] = self._now()
        select = sa.select(*facts.values(), *(rows.c[name] for name in COPIED))
        return sa.insert(V).from_select(
            [*facts, *COPIED], select, include_defaults=False
        )

    def _from_json(self, dialect: str) -> Any:
        """Where an INSERT of many rows is sent, or committed, one by one."""
        rows = rows_of_json(dialect, [V.c[name] for name in WRITTEN])
        return sa.insert(V).from_select(
            ["at", *WRITTEN], sa.select(self._now(), *rows), include_defaults=False
        )

    def newest_first(
        self, connection: sa.Connection, sought: Sought, windows: int | None = None
    ) -> Iterator[Event]:
        """The events that are sought, from the newest id down; of the newest
        ``windows`` of the table, or of all of it."""
        last = None
        for _ in itertools.count() if windows is None else range(windows):
            page = sa.select(V).order_by(V.c.id.desc()).limit(WINDOW)
            if last is not None:
                page = page.where(V.c.id < last)
            rows = connection.execute(page).all()
            for row in rows:
                event = Event(**row._mapping)
                if _matches(event, sought):
                    yield event
            if len(rows) < WINDOW:
                return
            if sought.since and max(row.at for row in rows) < sought.since - SLACK:
                return
            last = rows[-1].id

    def purge(self, connection: sa.Connection, older_than: float, limit: int) -> int:
        """Delete the oldest events, at most ``limit``, that are older than so many
        seconds; return how many went."""
        oldest = sa.select(V.c.id, V.c.at).order_by(V.c.id).limit(limit).subquery()
        old = oldest.c.at < self._now(-older_than)
        last = connection.execute(
            sa.select(sa.func.max(oldest.c.id)).where(old)
        ).scalar()
        if last is None:
            return 0
        return connection.execute(sa.delete(V).where(V.c.id <= last)).rowcount


def alike(event: Event) -> dict[str, Any]:
    """The parameters of :meth:`EventLog.copied`."""
    row = _row(event)
    return {name: row[name] for name in ALIKE}


def _row(event: Event) -> dict[str, Any]:
    row = dict(zip(WRITTEN, _facts(event), strict=True))
    if event.detail is not None:
        kept = event.detail[: tables.DETAIL_LENGTH]
        kept = kept.encode("utf-8", "backslashreplace").decode()
        row["detail"] = kept.replace("\0", "\\0")[: tables.DETAIL_LENGTH]
    return row


def _matches(event: Event, sought: Sought) -> bool:
    engines = (event.engine_id or "", event.about_id or "")
    assert event.at is not None
    return (
        (sought.engine is None or any(e.startswith(sought.engine) for e in engines))
        and (sought.kind is None or event.kind == sought.kind)
        and (event.what in sought.what if sought.what else event.what not in QUIET)
        and (sought.since is None or event.at >= sought.since)
        and (sought.until is None or event.at < sought.until)
    )
