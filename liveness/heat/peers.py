"""Who of Heat's engines is alive, as the engine table has it."""

from __future__ import annotations

import enum
import logging

from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db.connection import Database, is_database_error, one_line, retrying
from liveness.db.engines import Engines
from liveness.model import Engine

LOG = logging.getLogger(__name__)


class Life(enum.Enum):
    """What the table says of an engine."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    UNKNOWN = enum.auto()
    """It has no row (a stock Heat, or long gone), or the table cannot be read."""


class Peers:
    """Reads rows of engines on a connection of its own, for Heat's threads."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings.connection, settings.database_timeout)
        self._pool = self._database.pool(1)
        self._engines = Engines(Clock())
        self._dead: set[str] = set()  # for good

    def find(self, engine_id: str) -> Engine | None:
        """The row of an engine; None when there is none, or none can be read."""
        try:
            return retrying(lambda: self._read(engine_id))
        except Exception as error:
            if not is_database_error(error):
                raise
            LOG.warning("Engine %s cannot be looked up: %s", engine_id, one_line(error))
            return None

    def life(self, engine_id: str) -> Life:
        """Whether the engine lives. Draining is alive; fenced and stopped are dead."""
        if engine_id in self._dead:
            return Life.DEAD
        row = self.find(engine_id)
        if row is None:
            return Life.UNKNOWN
        if row.alive:
            return Life.ALIVE
        self._dead.add(engine_id)
        return Life.DEAD

    def close(self) -> None:
        """Give the connection back."""
        self._database.close()

    def _read(self, engine_id: str) -> Engine | None:
        with self._pool.connect() as connection:
            return self._engines.get(connection, engine_id)
