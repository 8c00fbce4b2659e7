"""A database-polling engine liveness monitor.

Engines beat in a shared SQL table and write down, as deadlines, what must not be
forgotten; when one dies, the others take over. Importing this opens nothing.
"""

from liveness.conf import Settings
from liveness.engine import Liveness, start
from liveness.handlers import Handler, WhenOrphaned
from liveness.model import Deadline, Done, Outcome, Park, Rearm, Release, Retry
from liveness.owner import Arm
from liveness.version import __version__

__all__ = [
    "Arm",
    "Deadline",
    "Done",
    "Handler",
    "Liveness",
    "Outcome",
    "Park",
    "Rearm",
    "Release",
    "Retry",
    "Settings",
    "WhenOrphaned",
    "__version__",
    "start",
]
