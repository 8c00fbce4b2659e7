"""Many rows at once, written by the server itself, as the program would have left
them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import raw
from bench.servers import Place

CHUNK = 100_000

FEW, PURGED = 100, 20.0
"""Transactions whose leavings may stay, and seconds to wait for the others'."""

COLUMNS = (
    "kind, {key}, owner_id, token, arm_token, epoch, state, due_at, expires_at,"
    " attempts, max_attempts, created_at, updated_at"
)

INSERT = {
    "mariadb": (
        "INSERT INTO liveness_deadline (" + COLUMNS.format(key="`key`") + ")"
        " SELECT '{kind}', CONCAT('{prefix}-', seq), {owner}, {base} + seq,"
        " {base} + seq, 1, '{state}', {due}, {due}, 0, 5, {now}, {now}"
        " FROM seq_{first}_to_{last}"
    ),
    "postgresql": (
        "INSERT INTO liveness_deadline (" + COLUMNS.format(key="key") + ")"
        " SELECT '{kind}', '{prefix}-' || seq, {owner}, {base} + seq, {base} + seq, 1,"
        " '{state}', {due}, {due}, 0, 5, {now}, {now}"
        " FROM generate_series({first}, {last}) AS seq"
    ),
    "sqlite": (
        "INSERT INTO liveness_deadline (" + COLUMNS.format(key="key") + ")"
        " WITH RECURSIVE numbers(seq) AS (SELECT {first} UNION ALL"
        " SELECT seq + 1 FROM numbers WHERE seq < {last})"
        " SELECT '{kind}', '{prefix}-' || seq, {owner}, {base} + seq, {base} + seq, 1,"
        " '{state}', {due}, {due}, 0, 5, {now}, {now} FROM numbers"
    ),
}

NOW = {
    "mariadb": "(UTC_TIMESTAMP(6) + INTERVAL {0} MICROSECOND)",
    "postgresql": "(timezone('utc', statement_timestamp())"
    " + {0} * INTERVAL '1 microsecond')",
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f', 'now', ({0} / 1000000.0) || ' seconds')"
    " || '000')",
}


def now(place: Place, seconds: float = 0.0) -> str:
    """SQL for the database's UTC, ``seconds`` from now."""
    return NOW[place.database].format(round(seconds * 1e6))


def _owner(place: Place, owners: Sequence[str]) -> str:
    if not owners:
        return "NULL"
    quoted = ", ".join(f"'{owner}'" for owner in owners)
    number = f"1 + seq % {len(owners)}"
    if place.database == "mariadb":
        return f"ELT({number}, {quoted})"
    if place.database == "postgresql":
        return f"(ARRAY[{quoted}])[{number}]"
    cases = " ".join(f"WHEN {n} THEN '{o}'" for n, o in enumerate(owners, 1))
    return f"CASE {number} {cases} END"


def load(
    place: Place,
    count: int,
    owners: Sequence[str] = (),
    due_in: float = 86400.0,
    kind: str = "noop",
    state: str = "armed",
    prefix: str = "row",
    spread: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Afterwards there are ``count`` more rows, owned in turn by ``owners`` (by nobody
    without them), due in so many seconds, or (``spread``) at a random time within so
    many seconds from then."""
    connection: Any = raw.connect(place.url)
    cursor = connection.cursor()
    chance = {"mariadb": "RAND()", "postgresql": "random()"}.get(
        place.database, "(abs(random() % 1000000) / 1000000.0)"
    )
    micros = f"({round(due_in * 1e6)} + {round(spread * 1e6)} * {chance})"
    due = NOW[place.database].format(micros if spread else round(due_in * 1e6))
    for first in range(1, count + 1, CHUNK):
        last = min(first + CHUNK - 1, count)
        tell(f"{place}: loading row {first} to {last} of {count}")
        cursor.execute(
            INSERT[place.database].format(
                kind=kind,
                prefix=prefix,
                owner=_owner(place, owners),
                base=random.randrange(1 << 60),
                state=state,
                due=due,
                now=now(place),
                first=first,
                last=last,
            )
        )
    if count >= CHUNK / 10:
        analyze(place, cursor)
    connection.close()


def analyze(place: Place, cursor: Any) -> None:
    """As the servers do by themselves, some time after rows came or went."""
    if place.database == "mariadb":
        cursor.execute("ANALYZE TABLE liveness_deadline")
        cursor.fetchall()
    else:
        cursor.execute("ANALYZE liveness_deadline")


def sweep_up(place: Place) -> None:
    """Wait until the server has done away with what was deleted: who measures next must
    not step over it."""
    if place.database == "postgresql":
        raw.execute(place.url, "VACUUM liveness_deadline, liveness_event")
    elif place.database == "mariadb":
        until = time.monotonic() + PURGED
        left = "SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'"
        while int(raw.execute(place.url, left)[0][1]) > FEW:
            if time.monotonic() > until:
                break
            time.sleep(0.1)


def clear(place: Place) -> None:
    """Remove every row of the program's tables."""
    if place.database == "sqlite":
        statements = [f"DELETE FROM liveness_{t}" for t in ("deadline", "engine")]
    else:
        statements = [f"TRUNCATE TABLE liveness_{t}" for t in ("deadline", "engine")]
    raw.execute(place.url, *statements)


def clear_deadlines(place: Place) -> None:
    """Remove every deadline; the engines stay."""
    raw.execute(place.url, "DELETE FROM liveness_deadline")


def left(place: Place, kind: str = "noop") -> bool:
    """True while there is an unparked row of that kind."""
    found = raw.execute(
        place.url,
        f"SELECT 1 FROM liveness_deadline WHERE kind = '{kind}'"
        " AND state <> 'parked' LIMIT 1",
    )
    return bool(found)
