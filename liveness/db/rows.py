"""From a row of ``liveness_deadline`` to a value, and back to one row's guard."""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from liveness.db import tables
from liveness.model import Deadline

D = tables.deadline


class Numbers(sa.types.TypeDecorator[Sequence[int]]):
    """Whole numbers that are sent as the text of an array: psycopg looks in each of
    them for what must be quoted. (The parameter itself is the array. A text that is
    cast would be read again for every row.)"""

    impl = sa.ARRAY(sa.BigInteger)
    cache_ok = True

    def bind_processor(
        self, dialect: sa.Dialect
    ) -> Callable[[Sequence[int] | None], str | None]:
        def text(value: Sequence[int] | None) -> str | None:
            if value is None:
                return None
            return "{" + ",".join([str(int(number)) for number in value]) + "}"

        return text


TOKENS = 128
"""Random numbers that are drawn at once."""

EPOCH_LIMIT = 1 << 62
"""No claim counts an epoch up to this; a row that is here was not written by us."""

REASON_LIMIT = 2000
"""Characters kept of why a deadline was retried, released or parked."""


def reason_text(text: str) -> str | None:
    """``text`` as every database can keep it; None for nothing."""
    kept = text[:REASON_LIMIT].encode("utf-8", "backslashreplace").decode()
    return kept.replace("\0", "\\0") or None


_drawn: list[int] = []

os.register_at_fork(after_in_child=_drawn.clear)  # or both would draw the same ones


def new_token() -> int:
    """A random number that no earlier holder of a row can know."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            # The kernel is asked for many: each time, another thread is let in.
            _drawn.extend(new_tokens(TOKENS))


def new_tokens(count: int) -> list[int]:
    """So many of them, for which the kernel is asked once."""
    drawn = struct.unpack(f"={count}Q", secrets.token_bytes(8 * count))
    return [number >> 2 for number in drawn]


def token_of(token: int, row_id: int) -> int:
    """What a row gets of a write of many with ``token``: a token of its own, so that no
    value of one row can pass for that of another. It still fits 63 bits."""
    return token + row_id


def written_token(token: Any) -> sa.ColumnElement[int]:
    """:func:`token_of` as SQL, of a parameter."""
    written: sa.ColumnElement[int] = token + D.c.id
    return written


def dump_payload(payload: Any) -> str | None:
    """The payload as JSON text; None stays NULL.

    :raises ValueError: when it is not JSON: another type, NaN, a key that is no text.
    """
    if payload is None:
        return None
    if not _has_text_keys(payload):
        raise ValueError("its payload is not JSON: keys must be text")
    try:
        text = json.dumps(
            payload, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its payload is not JSON: {error}") from None
    return text


def _has_text_keys(payload: Any, depth: int = 0) -> bool:
    """False when json would change a key into text (1 and "1" would become one)."""
    if depth > 100:
        return True  # dumps says what is wrong with it
    if isinstance(payload, dict):
        return all(
            isinstance(key, str) and _has_text_keys(value, depth + 1)
            for key, value in payload.items()
        )
    if isinstance(payload, (list, tuple)):
        return all(_has_text_keys(item, depth + 1) for item in payload)
    return True


def load_payload(text: str | None) -> tuple[Any, str | None]:
    """The payload, and what is wrong with it if it cannot be read."""
    try:
        return (None if text is None else json.loads(text)), None
    except (ValueError, RecursionError) as error:
        return None, f"its payload is not JSON: {error}"


COLUMNS = [c for c in D.columns if c.name not in ("created_at", "updated_at")]
"""What a value is made of, in the order of its fields."""

WIDTH, PAYLOAD = len(COLUMNS), COLUMNS.index(D.c.payload)


def deadline_of(
    row: Any, orphaned: bool = False, expired: bool = False, due: bool = False
) -> Deadline:
    """The value of a row that has :data:`COLUMNS`, whoever wrote it."""
    fields = row[:WIDTH]
    problem = None
    if fields[PAYLOAD] is not None:
        *plain, text, last_error = fields
        payload, problem = load_payload(text)
        fields = (*plain, payload, last_error)
    return Deadline._make((*fields, orphaned, expired, due, problem))


def among(
    connection: sa.Connection, column: sa.Column[int], name: str
) -> sa.ColumnElement[bool]:
    """WHERE that ``column`` is one of the numbers in the parameter ``name``; cheap to
    send a thousand of."""
    if connection.dialect.name == "postgresql":
        return column == sa.func.any(sa.bindparam(name, type_=Numbers))
    kept: sa.BindParameter[int] = sa.bindparam(
        name, type_=sa.BigInteger, expanding=True, literal_execute=True
    )
    return column.in_(kept)


def unchanged(
    connection: sa.Connection, one: bool, prefix: str = ""
) -> sa.ColumnElement[bool]:
    """WHERE that only rows pass of which the parameters have the newest value (see
    :func:`numbers_of`). No two rows have one token. ``one``: there is one row; then a
    database that keeps what it has parsed, or planned, need not do it again."""
    if one:
        row_id = sa.bindparam(f"{prefix}id", type_=sa.BigInteger)
        token = sa.bindparam(f"{prefix}token", type_=sa.BigInteger)
        return sa.and_(D.c.id == row_id, D.c.token == token)
    return sa.and_(
        among(connection, D.c.id, f"{prefix}ids"),
        among(connection, D.c.token, f"{prefix}tokens"),
    )


def numbers_of(deadlines: Sequence[Deadline], prefix: str = "") -> dict[str, Any]:
    """The parameters of :func:`unchanged`."""
    if len(deadlines) == 1:
        (one,) = deadlines
        return {f"{prefix}id": one.id, f"{prefix}token": one.token}
    return {
        f"{prefix}ids": [deadline.id for deadline in deadlines],
        f"{prefix}tokens": [deadline.token for deadline in deadlines],
    }


def looked_at(column: sa.Column[str]) -> sa.ColumnElement[str]:
    """``column``, of rows that are found by primary key: hidden from the planner, which
    may take an index that begins with it for better, and read all rows of an owner."""
    return sa.func.coalesce(column, "")


def held(deadline: Deadline) -> sa.ColumnElement[bool]:
    """WHERE that is true only while ``deadline`` is the newest value of its row."""
    return sa.and_(
        D.c.id == deadline.id,
        D.c.token == deadline.token,
        looked_at(D.c.owner_id) == deadline.owner_id,
    )
