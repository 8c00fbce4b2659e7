"""A database under chaos: where engines connect, what can go wrong, what it holds.

A cluster, or a pair with a standby, is a class like the ones in ``singles``: it says
where each engine connects (:meth:`Database.urls`), which faults of its own there are
(:meth:`Database.faults`), and how to bring it back (:meth:`Database.heal`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from liveness.db import migration
from tests.chaos import journal, link_faults
from tests.chaos.faults import Kind
from tests.chaos.link import Link


class Database:
    """One database, for so many engines. What is not overridden is that of a database
    which has no server: nothing to connect to, nothing to break."""

    label = ""

    spread = 0.0
    """Seconds by which the clocks of those who tell the time may differ. Zero: there
    is one clock, which nobody sets, and times in the journal can be compared."""

    keeps_commits = True
    """What was acknowledged stays. (Not after a failover to a standby that lags.)"""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.links: list[Link] = []

    def start(self) -> None:
        """Afterwards :meth:`urls` can be connected to; no table is there yet."""

    def close(self) -> None:
        """Everything of it is gone. May be called twice, and after a failed start."""
        for link in self.links:
            link.close()

    def urls(self) -> list[str]:
        """For each engine's slot, what it connects to: its node, by way of its link."""
        raise NotImplementedError

    def direct_url(self) -> str:
        """What the harness itself connects to, by way of no link. Where a read may be
        stale, :meth:`connect` has to see to it."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Name and version of every program that is the database."""
        raise NotImplementedError

    def faults(self) -> dict[str, Kind]:
        """Every kind of fault that there is, by name."""
        return link_faults.kinds(self.links)

    def unavailable(self) -> dict[str, str]:
        """Kinds of faults that cannot be had here, and why."""
        return {}

    def heal(self) -> None:
        """Whatever was done to it: have it up, reachable and answering."""
        for link in self.links:
            link.heal()

    def corrupt(self) -> list[str]:
        """What the database itself says is corrupt, and its reasons: a line each."""
        return []

    def connect(self) -> sa.Connection:
        """A connection of the harness' own; what it reads is all that was committed."""
        return sa.create_engine(self.direct_url(), poolclass=sa.NullPool).connect()

    def prepare(self) -> None:
        """Make the tables, and follow their changes."""
        migration.sync(self.direct_url())
        engine = sa.create_engine(self.direct_url(), poolclass=sa.NullPool)
        journal.install(engine)
        engine.dispose()

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        """The rows of a query of the harness' own."""
        with self.connect() as connection:
            result = connection.execute(sa.text(sql), values)
            return [dict(row._mapping) for row in result]

    def dump(self) -> dict[str, Any]:
        """What the judge is given: see :func:`tests.chaos.journal.dump`."""
        with self.connect() as connection:
            return journal.dump(connection)

    def server_times(self) -> dict[str, datetime]:
        """The UTC of each node, by its name."""
        with self.connect() as connection:
            now = sa.select(journal._now(connection))
            return {self.label: connection.execute(now).scalar_one()}
