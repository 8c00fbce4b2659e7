"""DBOS: workflows on a queue, a hundred at a time, polled every 50 ms."""

from __future__ import annotations

import time
import uuid
from typing import Any

from dbos import DBOS, DBOSConfig, SetEnqueueOptions

from bench.peers import reporter

QUEUE = "bench"


@DBOS.workflow(name="noop")
def noop(payload: dict[str, Any]) -> None:
    reporter.ran(payload)


def launch(url: str, executor: str, listen: bool = True) -> None:
    """A process that is told apart by ``executor``, as its documentation asks for."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "executor_id": executor,
        "console_log_level": "CRITICAL",
        "log_level": "CRITICAL",
    }
    DBOS(config=config)
    if not listen:
        DBOS.listen_queues([])
    DBOS.launch()


def prepare(url: str) -> None:
    launch(url, "prepare", listen=False)


def fill(url: str, payloads: list[dict[str, Any]]) -> None:
    launch(url, "fill", listen=False)
    for payload in payloads:
        wait = payload["due"] - time.time()
        with SetEnqueueOptions(delay_seconds=wait if wait > 0 else None):
            DBOS.enqueue_workflow(QUEUE, noop, payload)


def work(url: str) -> None:
    _work(url, str(uuid.uuid4()), worker_concurrency=100, polling_interval_sec=0.05)


def rest(url: str) -> None:
    _work(url, str(uuid.uuid4()))


def recover(url: str, lease: float) -> None:
    """It knows no lease: an executor of the same name takes up what it had."""
    _work(url, reporter.NAME, polling_interval_sec=0.05)


def _work(url: str, executor: str, **options: Any) -> None:
    launch(url, executor)
    DBOS.register_queue(QUEUE, **options)
    reporter.serve()
    time.sleep(86400)


if __name__ == "__main__":
    reporter.main(prepare, fill, work, rest, recover)
