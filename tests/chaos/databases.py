"""Every database that chaos can be had on, by its name on the command line."""

from __future__ import annotations

from tests.chaos.database import Database
from tests.chaos.galera import CLUSTERS
from tests.chaos.singles import SINGLES
from tests.chaos.standby import PAIRS

DATABASES: dict[str, type[Database]] = {**SINGLES, **CLUSTERS, **PAIRS}
