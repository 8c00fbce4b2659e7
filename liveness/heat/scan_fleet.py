"""Who is alive in the fleet, and what its engines have written down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import oslo_messaging
import sqlalchemy as sa
from heat.common import context
from heat.rpc import listener_client

from liveness import Liveness
from liveness.clock import Clock
from liveness.db import report
from liveness.heat.names import ACTION, TIMER, Timer
from liveness.heat.scan_rows import Service
from liveness.model import ALIVE

MISSED = 3
"""Reports that a stock engine may miss before it is taken for dead; as Heat has it."""

SLOW = 5.0
"""Seconds for which a message may be on its way to oneself."""


def broker_delivers(engine_id: str, clock: Clock) -> bool:
    """Whether a message to this very engine comes back by way of the broker, in time.
    While none does, those that were sent before may wait there as well."""
    client = listener_client.EngineListenerClient(engine_id)
    sent = clock.monotonic()
    try:
        # Not is_alive(): in our engines that asks the table.
        answer = client._client.call(context.get_admin_context(), "listening")
    except oslo_messaging.MessagingException:
        return False
    return bool(answer) and clock.monotonic() - sent < SLOW


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """``ours``: engines that beat. ``stock``: engines of a Heat without this package,
    or in which it could not start. ``actions``: the keys of actions written down,
    whoever has them. ``full``: an engine of ours runs as many as it can, so that
    messages wait."""

    ours: frozenset[str]
    stock: tuple[Service, ...]
    actions: frozenset[str]
    timers: frozenset[str]
    full: bool

    def alive(self, engine_id: str) -> bool:
        """Work of that engine may be going on."""
        return engine_id in self.ours or any(
            service.engine_id == engine_id for service in self.stock
        )


class FleetReader:
    """Reads the tables of this package, through a connection of its own."""

    def __init__(self, live: Liveness, threads: int) -> None:
        """``threads``: actions that one engine can run at a time."""
        self._live = live
        self._threads = threads
        self._report = report.Report(live.clock)
        self._seen: dict[str, tuple[datetime | None, float]] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[sa.Connection]:
        """A connection for the other calls. :raises DatabaseError:"""
        settings = self._live.settings
        with report.opened(settings.connection, settings.database_timeout) as own:
            yield own

    def read(self, own: sa.Connection, services: Iterable[Service]) -> Fleet:
        """The fleet as it is now, by this package's tables and Heat's ``services``."""
        engines = [shown.engine for shown in self._report.engines(own)]
        ours = frozenset(engine.id for engine in engines if engine.alive)
        wanted = report.Filter(kinds=(ACTION, TIMER))
        rows = list(self._report.deadlines(own, wanted))
        running = Counter(
            row.owner_id
            for row in rows
            if row.kind == ACTION and row.owner_state in ALIVE
        )
        known = {engine.id for engine in engines}
        now = self._report.now(own)
        return Fleet(
            ours=ours,
            stock=tuple(
                service
                for service in services
                if service.engine_id not in known and self._reports(service, now)
            ),
            actions=frozenset(row.key for row in rows if row.kind == ACTION),
            timers=frozenset(row.key for row in rows if row.kind == TIMER),
            full=any(number >= self._threads for number in running.values()),
        )

    def timer(self, own: sa.Connection, key: str) -> Timer | None:
        """What was written down when that traversal began, if anything was."""
        found = self._report.deadline(own, TIMER, key)
        if found is None:
            return None
        try:
            return Timer.load(json.loads(found[1] or "null"))
        except ValueError:
            return None

    def _reports(self, service: Service, now: datetime) -> bool:
        """It has said so lately, by the database's clock or (its host's clock may be
        wrong) by ours since it last said something new."""
        patience = MISSED * service.report_interval
        mono = self._live.clock.monotonic()
        said, since = self._seen.get(service.engine_id, (service.updated_at, -1e9))
        if said != service.updated_at:
            since = mono
        self._seen[service.engine_id] = (service.updated_at, since)
        if mono - since <= patience:
            return True
        if service.updated_at is None:
            return False
        said_at = service.updated_at.replace(tzinfo=UTC)
        return now - said_at <= timedelta(seconds=patience)
