"""Engines, and what there is to do for one of them, in one statement.

A row of it is an engine's, or a deadline's, or says which server answered, and when.
What a deadline has is put where an engine has something of that type, so that few
columns of a row are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from liveness.db import tables
from liveness.db.finding import Why
from liveness.db.rows import COLUMNS

E = tables.engine
D = tables.deadline

ENGINE, FACTS = "engine", "facts"
WORK = frozenset(Why)
"""Why there is a row: what it is, or, if it is a deadline, why it was found."""

PLACES = {
    E.c.id: D.c.kind,
    E.c.token: D.c.token,
    E.c.host: D.c.key,
    E.c.pid: D.c.attempts,
    E.c.process_start: D.c.arm_token,
    E.c.boot_id: D.c.owner_id,
    E.c.binary: D.c.payload,
    E.c.version: D.c.last_error,
    E.c.state: D.c.state,
    E.c.started_at: D.c.due_at,
    E.c.beat_seq: D.c.epoch,
    E.c.beat_at: D.c.expires_at,
}
"""What a deadline has in the place of an engine's column; the others are empty."""

# In the first SELECT, which gives the columns their types, nothing may be NULL.
BEHIND = {
    "id": sa.literal_column("0", sa.BigInteger),
    "max_attempts": sa.literal_column("0", sa.Integer),
    "expired": sa.false(),
    "due": sa.false(),
    "why": sa.literal_column(f"'{ENGINE}'", sa.String),
}
"""What only a deadline has, behind all that; and what an engine has there."""

WIDTH, WHY = len(E.columns), -1

_LAYOUT = [PLACES[c].name if c in PLACES else "" for c in E.columns] + [*BEHIND]
_ALONE = [*(c.name for c in COLUMNS), "why", "expired", "due"]

alone: Callable[[Any], tuple[Any, ...]] = itemgetter(*map(_LAYOUT.index, _ALONE))
"""A row of a deadline as it is found alone."""


def of_engine(part: Any) -> Any:
    """The same SELECT, of engines."""
    return part.add_columns(*BEHIND.values())


def of_facts(server: Any, now: Any, took: Any) -> Any:
    """SELECT of a row that says which server answers, its UTC, and for how many
    microseconds it has been at it; the last row."""
    row = {"kind": server, "due_at": now, "epoch": took}
    return sa.select(
        *_placed(row | {"why": sa.literal_column(f"'{FACTS}'", sa.String)})
    )


def facts_in(row: Any) -> tuple[str, datetime, float]:
    """What such a row says; in seconds."""
    server, now, took = (row[_LAYOUT.index(n)] for n in ("kind", "due_at", "epoch"))
    return server, now, took / 1e6


def of_deadlines(part: Any) -> Any:
    """The same SELECT, of deadlines, in the places of this statement."""
    found = dict(part.selected_columns.items())
    return part.with_only_columns(*_placed(found))


def _placed(row: Mapping[str, Any]) -> list[Any]:
    return [row.get(name, sa.null()) for name in _LAYOUT]
