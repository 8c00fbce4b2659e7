"""The end of deadlines that are done: their rows go, if nobody took them over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from liveness.db import tables
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import (
    among,
    looked_at,
    numbers_of,
    one_unchanged,
    unchanged,
    written_token,
)
from liveness.model import Deadline

D = tables.deadline

DONE = "done_"
"""Before the names of the parameters."""


class Completion:
    """Deletes rows of one owner, alone or in a statement with more."""

    def __init__(self) -> None:
        self._statements = Statements()

    def run(
        self, connection: sa.Connection, deadlines: Sequence[Deadline], again: bool
    ) -> set[int]:
        """See :meth:`liveness.db.deadlines.Deadlines.complete`."""
        dialect = connection.dialect
        if len(deadlines) == 1:
            (one,) = deadlines
            statement = self._statements.get(
                "one", dialect, lambda: Prepared(_deletion_of_one(), dialect)
            )
            sent = {"id": one.id, "token": one.token, "owner": one.owner_id}
            values: dict[str, Any] = {DONE + name: sent[name] for name in sent}
        else:
            values = parameters(deadlines)
            alike = are_alike(values)
            statement = self._statements.get(
                alike, dialect, lambda: Prepared(deletion(connection, alike), dialect)
            )
        gone = statement.execute(connection, values).rowcount
        return stale(connection, deadlines, gone, again)


def _deletion_of_one() -> sa.Delete:
    return sa.delete(D).where(one_unchanged(DONE), _owned())


def deletion(connection: sa.Connection, alike: bool) -> sa.Delete:
    """Of the rows of which :func:`parameters`, which :func:`are_alike` or not, has the
    newest values."""
    if not alike:
        return sa.delete(D).where(unchanged(connection, DONE), _owned())
    ids = among(connection, D.c.id, f"{DONE}ids")
    token = written_token(sa.bindparam(f"{DONE}written", type_=sa.BigInteger))
    return sa.delete(D).where(ids, D.c.token == token, _owned())


def _owned() -> sa.ColumnElement[bool]:
    return looked_at(D.c.owner_id) == sa.bindparam(f"{DONE}owner")


def parameters(deadlines: Sequence[Deadline]) -> dict[str, Any]:
    """What :func:`deletion` needs; all ``deadlines`` have one owner. Of those that one
    statement claimed, what their tokens are made of stands for all of them."""
    owner = {f"{DONE}owner": deadlines[0].owner_id}
    written = {deadline.token - deadline.id for deadline in deadlines}
    if len(written) > 1:
        return owner | numbers_of(deadlines, DONE)
    ids = [deadline.id for deadline in deadlines]
    return {**owner, f"{DONE}ids": ids, f"{DONE}written": written.pop()}


def are_alike(sent: dict[str, Any]) -> bool:
    """Whether these :func:`parameters` are of deadlines that one statement claimed."""
    return f"{DONE}written" in sent


def stale(
    connection: sa.Connection, deadlines: Sequence[Deadline], gone: int, again: bool
) -> set[int]:
    """The ids of those that were not deleted, of which ``gone`` rows were."""
    ids = [deadline.id for deadline in deadlines]
    if gone == len(ids):
        return set()
    if len(ids) == 1 and not again:
        return set(ids)
    left = sa.select(D.c.id).where(among(connection, D.c.id, "ids"))
    return set(connection.execute(left, {"ids": ids}).scalars())
