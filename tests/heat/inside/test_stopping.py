"""A worker that stops: it takes nothing over, and hands over what it cannot finish."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from liveness.heat import conf, engine, names
from liveness.heat.engine import HeatEngine


def until(there: Callable[[], Any], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"not so within {seconds:g} s"
        time.sleep(0.02)


class Worker:
    def __init__(self, stacks: Any) -> None:
        self._stacks = stacks
        self.engine = HeatEngine(str(uuid.uuid4()), None, cfg.CONF)
        self.action = names.Action(7, "t", True, engine=self.engine.engine_id)

    def working(self) -> Any:
        return self.engine.guards.guard(names.ACTION, self.action)

    def query(self, text: str) -> Any:
        with self._stacks.writing() as session:
            return session.execute(
                sa.text(text), {"me": self.engine.engine_id}
            ).scalar()

    @property
    def state(self) -> str | None:
        found = self.query("SELECT state FROM liveness_engine WHERE id = :me")
        return None if found is None else str(found)

    @property
    def owns(self) -> int:
        return int(
            self.query(
                "SELECT COUNT(*) FROM liveness_deadline"
                " WHERE kind = 'resource_action' AND owner_id = :me"
            )
        )


@pytest.fixture
def worker(stacks: Any) -> Iterator[Worker]:
    conf.register_opts(cfg.CONF)
    made = Worker(stacks)
    yield made
    made.engine.end()
    engine._current = None


def test_from_the_first_moment_it_drains_and_what_runs_is_written_down(
    worker: Worker,
) -> None:
    worker.engine.begin()
    assert worker.state == "live"
    with worker.working():
        worker.engine.begin_stop(0.0)
        until(lambda: worker.state == "draining")
        with worker.working():  # a message that had come before
            assert worker.owns == 2
    assert worker.owns == 0
    assert worker.state == "draining"
    worker.engine.end()
    assert worker.state == "stopped"


def test_what_outlasts_the_patience_is_handed_over_before_the_end(
    worker: Worker,
) -> None:
    worker.engine.begin()
    ended = threading.Event()
    with (
        mock.patch.object(engine.os, "_exit", lambda code: ended.set()),
        worker.working(),
    ):
        worker.engine.begin_stop(2.0)
        until(lambda: worker.state == "draining")
        assert worker.owns == 1
        assert ended.wait(15)
        assert worker.state == "stopped"
        assert worker.owns == 0
        orphans = "SELECT COUNT(*) FROM liveness_deadline WHERE kind = :kind"
        with worker._stacks.writing() as session:
            row = session.execute(sa.text(orphans), {"kind": names.ACTION})
            assert row.scalar() == 1


def test_asked_by_an_operator_it_stops_as_at_a_sigterm(worker: Worker) -> None:
    signals: list[tuple[int, int]] = []
    worker.engine.begin()
    with mock.patch.object(engine.os, "kill", lambda *sent: signals.append(sent)):
        with worker._stacks.writing() as session:
            text = "UPDATE liveness_engine SET state = 'draining' WHERE id = :me"
            session.execute(sa.text(text), {"me": worker.engine.engine_id})
        until(lambda: signals)
    assert signals == [(os.getpid(), signal.SIGTERM)]
    with worker.working():  # Heat goes on until it has stopped
        assert worker.owns == 1


def test_who_could_not_start_before_does_not_start_while_it_stops(
    worker: Worker, stacks: Any
) -> None:
    version = "liveness_alembic_version"
    with mock.patch.object(engine, "RETRY_SECONDS", 0.1):
        with stacks.writing() as session:
            session.execute(sa.text(f"RENAME TABLE {version} TO hidden"))
        try:
            worker.engine.begin()
            worker.engine.begin_stop(0.0)
        finally:
            with stacks.writing() as session:
                session.execute(sa.text(f"RENAME TABLE hidden TO {version}"))
        time.sleep(0.5)
        assert worker.state is None
