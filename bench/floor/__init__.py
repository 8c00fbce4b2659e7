"""The floor: the bare driver, on the program's own tables, doing what has to be done
and nothing more. No guard, no look again, no events, no threads.

Each database has the best statements known for it, not the easiest: a batch is
settled and the next one claimed in one transaction, or in one statement where the
database can; claims skip rows that others have locked; the index that serves the order
is named where the planner may miss it; bounds are inlined where a bound parameter
costs the plan.
"""

from __future__ import annotations

from typing import Any

from bench.servers import Place


def floor_on(place_or_database: Place | str, url: str | None = None) -> Any:
    """A floor with an open connection of its own."""
    if isinstance(place_or_database, Place):
        database, url = place_or_database.database, place_or_database.url
    else:
        database = place_or_database
    assert url is not None
    if database == "mariadb":
        from bench.floor.mariadb import MariaDBFloor

        return MariaDBFloor(url)
    if database == "postgresql":
        from bench.floor.postgresql import PostgreSQLFloor

        return PostgreSQLFloor(url)
    from bench.floor.sqlite import SQLiteFloor

    return SQLiteFloor(url)
