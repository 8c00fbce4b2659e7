"""Three Galera nodes under chaos, the engines spread over them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from tests.chaos.database import Database
from tests.chaos.faults import DATABASE, Do, Fault, Kind
from tests.chaos.link import Link
from tests.galera import Galera, Node
from tests.servers import ServerError
from tests.store.proxy import Proxy

NAME = "chaos"
SKEW = 2.0
"""Seconds by which a node's clock is set forward or back."""


class OneClock(Database):
    """Nodes die, freeze and are cut from each other; all of them tell the same time."""

    label = "Galera"

    def start(self) -> None:
        reason = Galera.available()
        if reason is not None:
            raise ServerError(reason)
        self.galera = Galera()
        self.galera.start()
        self.galera.create_database(NAME)
        self._doors = [Proxy(node.socket, 0) for node in self.galera]
        self._lock = threading.Lock()
        self.links = [
            Link("127.0.0.1", self._doors[slot % len(self._doors)].port)
            for slot in range(self.slots)
        ]

    def close(self) -> None:
        super().close()
        for door in getattr(self, "_doors", ()):
            door.close()
        if hasattr(self, "galera"):
            self.galera.close()

    def urls(self) -> list[str]:
        url = make_url(self.galera[0].url(NAME))
        plain = url.difference_update_query(["unix_socket"])
        return [
            plain.set(port=link.port).render_as_string(hide_password=False)
            for link in self.links
        ]

    def direct_url(self) -> str:
        return self.galera[0].url(NAME)

    def connect(self) -> sa.Connection:
        """To whichever node is in step, and only what all of them know by now."""
        errors = []
        for node in self.galera:
            engine = sa.create_engine(
                node.url(NAME),
                poolclass=sa.NullPool,
                isolation_level="AUTOCOMMIT",
                skip_autocommit_rollback=True,
            )
            connection = None
            try:
                connection = engine.connect()
                connection.exec_driver_sql("SET SESSION wsrep_sync_wait = 7")
                connection.exec_driver_sql("SELECT 1")
                return connection
            except sa.exc.DBAPIError as error:
                errors.append(error)
                if connection is not None:
                    connection.close()
        raise errors[0]

    def versions(self) -> dict[str, str]:
        node = self.galera[0]
        return {
            "MariaDB": str(node.admin("SELECT VERSION()")[0][0]),
            "Galera": node.status("wsrep_provider_version"),
        }

    def prepare(self) -> None:
        for node in self.galera:  # a replicated node counts as one with a binary log
            node.admin("SET GLOBAL log_bin_trust_function_creators = ON")
        super().prepare()

    def heal(self) -> None:
        self.galera.restore()
        super().heal()

    def server_times(self) -> dict[str, datetime]:
        return {
            str(node): node.admin("SELECT UTC_TIMESTAMP(6)")[0][0].replace(tzinfo=UTC)
            for node in self.galera
        }

    def faults(self) -> dict[str, Kind]:
        return {
            **super().faults(),
            "node kill -9": Kind(DATABASE, 1, 0.0, 1.5, self._kill),
            "node stop": Kind(DATABASE, 0.5, 0.0, 1.0, self._stop),
            "node paused": Kind(DATABASE, 1.5, 0.2, 2.0, self._pause),
            "node cut off": Kind(DATABASE, 1.5, 0.2, 2.0, self._cut_off),
            "two nodes apart": Kind(DATABASE, 1, 0.2, 2.0, self._apart),
            "no quorum": Kind(DATABASE, 1, 0.5, 2.0, self._no_quorum),
            "all paused": Kind(DATABASE, 0.5, 0.2, 2.0, self._all_paused),
        }

    def _one_at_a_time(
        self, begin: Callable[[], object], heal: Callable[[], object]
    ) -> Do:
        """Bringing it back may take longer than the schedule gives it."""
        return Do(begin, heal).under(self._lock)

    def _node(self, rng: random.Random) -> Node:
        return rng.choice(self.galera.nodes)

    def _kill(self, fault: Fault, rng: random.Random) -> Do:
        return self._one_at_a_time(self._node(rng).kill, self.galera.restore)

    def _stop(self, fault: Fault, rng: random.Random) -> Do:
        return self._one_at_a_time(self._node(rng).stop, self.galera.restore)

    def _pause(self, fault: Fault, rng: random.Random) -> Do:
        return self._one_at_a_time(self._node(rng).pause, self.galera.restore)

    def _cut_off(self, fault: Fault, rng: random.Random) -> Do:
        node = self._node(rng)
        return self._one_at_a_time(
            lambda: self.galera.partition(node), self.galera.restore
        )

    def _apart(self, fault: Fault, rng: random.Random) -> Do:
        one, other = rng.sample(self.galera.nodes, 2)
        return self._one_at_a_time(
            lambda: self.galera.cut(one, other), self.galera.restore
        )

    def _no_quorum(self, fault: Fault, rng: random.Random) -> Do:
        def begin() -> None:
            one, two, three = self.galera.nodes
            self.galera.partition(one)
            self.galera.cut(two, three)

        return self._one_at_a_time(begin, self.galera.restore)

    def _all_paused(self, fault: Fault, rng: random.Random) -> Do:
        def begin() -> None:
            for node in self.galera:
                node.pause()

        return self._one_at_a_time(begin, self.galera.restore)


class Clusters(OneClock):
    """The same, and clocks of nodes that are set. Every restoration sets them right."""

    spread = SKEW * 2 + 1.0

    def faults(self) -> dict[str, Kind]:
        kinds = super().faults()
        if self.galera.clock_library:
            kinds["node clock set"] = Kind(DATABASE, 1.5, 0.5, 2.0, self._set_clock)
        return kinds

    def unavailable(self) -> dict[str, str]:
        if self.galera.clock_library:
            return {}
        return {"node clock set": "apt-get install libfaketime"}

    def _set_clock(self, fault: Fault, rng: random.Random) -> Do:
        node, seconds = self._node(rng), rng.choice([-SKEW, SKEW])
        return self._one_at_a_time(lambda: node.set_clock(seconds), self.galera.restore)


CLUSTERS: dict[str, type[Database]] = {
    "galera": Clusters,
    "galera-one-clock": OneClock,
}
