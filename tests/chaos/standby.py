"""A PostgreSQL primary and its standby under chaos: promoted in the middle.

Asynchronous, so what was acknowledged while the stream stood still is lost by the
promotion. The judge is told so (``keeps_commits``): what depends on an acknowledged
commit being there is not asked of it; everything else is.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from sqlalchemy.engine import make_url

from tests.chaos.database import Database
from tests.chaos.faults import DATABASE, Do, Fault, Kind
from tests.chaos.link import Link
from tests.servers import ServerError
from tests.standby import Pair

NAME = "chaos"


class Asynchronous(Database):
    """Failovers that lose the last moments, and some that lose nothing."""

    label = "PostgreSQL with a standby"
    keeps_commits = False

    def start(self) -> None:
        reason = Pair.available()
        if reason is not None:
            raise ServerError(reason)
        self.pair = Pair()
        self.pair.start()
        self.pair.create_database(NAME)
        self._lock = threading.Lock()
        self.links = [
            Link("127.0.0.1", self.pair.address.port) for _ in range(self.slots)
        ]

    def close(self) -> None:
        super().close()
        if hasattr(self, "pair"):
            self.pair.close()

    def urls(self) -> list[str]:
        url = make_url(self.pair.url(NAME))
        return [
            url.set(port=link.port).render_as_string(hide_password=False)
            for link in self.links
        ]

    def direct_url(self) -> str:
        return self.pair.primary.url(NAME)

    def versions(self) -> dict[str, str]:
        return {"PostgreSQL": str(self.pair.primary.admin("SHOW server_version")[0][0])}

    def heal(self) -> None:
        self.pair.restore()
        super().heal()

    def faults(self) -> dict[str, Kind]:
        return {
            **super().faults(),
            "failover": Kind(DATABASE, 2, 0.0, 0.5, self._fail_over),
            "primary kill -9": Kind(DATABASE, 1, 0.0, 1.0, self._kill),
            "primary paused": Kind(DATABASE, 1, 0.2, 2.0, self._pause),
            "stream stalls": Kind(DATABASE, 0.5, 0.5, 2.0, self._stall),
        }

    def _one_at_a_time(
        self, begin: Callable[[], object], heal: Callable[[], object]
    ) -> Do:
        """Bringing it back may take longer than the schedule gives it."""
        return Do(begin, heal).under(self._lock)

    def _fail_over(self, fault: Fault, rng: random.Random) -> Do:
        lost = rng.choice([0.3, 1.0, 3.0])

        def begin() -> None:
            self.pair.stop_stream()
            time.sleep(lost)
            self.pair.fail_over()

        return self._one_at_a_time(begin, self.pair.restore)

    def _kill(self, fault: Fault, rng: random.Random) -> Do:
        return self._one_at_a_time(lambda: self.pair.primary.kill(), self.pair.restore)

    def _pause(self, fault: Fault, rng: random.Random) -> Do:
        return self._one_at_a_time(lambda: self.pair.primary.pause(), self.pair.restore)

    def _stall(self, fault: Fault, rng: random.Random) -> Do:
        return self._one_at_a_time(self.pair.stop_stream, self.pair.restore)


class Synchronous(Asynchronous):
    """The primary acknowledges what the standby has: a failover loses nothing."""

    label = "PostgreSQL with a synchronous standby"
    keeps_commits = True

    def prepare(self) -> None:
        super().prepare()
        self.pair.always_synchronous()


PAIRS: dict[str, type[Database]] = {
    "standby": Asynchronous,
    "standby-synchronous": Synchronous,
}
