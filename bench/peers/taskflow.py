"""TaskFlow: conductors that claim jobs from a board in Redis; the flow of each job is a
logbook in PostgreSQL."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from taskflow import engines, task
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as boards
from taskflow.patterns import linear_flow
from taskflow.persistence import backends as stores
from taskflow.persistence import models

from bench.peers import reporter


class Noop(task.Task):
    def execute(self, payload: dict[str, Any]) -> None:
        reporter.ran(payload)


def flow() -> linear_flow.Flow:
    """What a conductor runs; it finds it by its name."""
    return linear_flow.Flow("noop").add(Noop())


def store(urls: str) -> Any:
    return stores.fetch({"connection": urls.split()[1], "max_pool_size": 20})


def board(urls: str, saver: Any) -> Any:
    found = urlsplit(urls.split()[0])
    conf = {"board": "redis", "host": found.hostname, "port": found.port}
    made = boards.fetch(f"bench-{os.getpid()}", conf, persistence=saver)
    made.connect()
    return made


def prepare(urls: str) -> None:
    with contextlib.closing(store(urls).get_connection()) as connection:
        connection.upgrade()


def fill(urls: str, payloads: list[dict[str, Any]]) -> None:
    saver = store(urls)
    made = board(urls, saver)
    for payload in payloads:
        book = models.LogBook(payload["key"])
        detail = models.FlowDetail(payload["key"], book.uuid)
        book.add(detail)
        engines.save_factory_details(detail, "bench.peers.taskflow.flow", [], {})
        with contextlib.closing(saver.get_connection()) as connection:
            connection.save_logbook(book)
        made.post(payload["key"], book=book, details={"store": {"payload": payload}})


def work(urls: str) -> None:
    saver = store(urls)
    options = {"wait_timeout": 0.05, "max_simultaneous_jobs": 8}
    _work(saver, board(urls, saver), engine="serial", **options)


def rest(urls: str) -> None:
    saver = store(urls)
    _work(saver, board(urls, saver))


def recover(urls: str, lease: float) -> None:
    """A conductor's claims do not expire. These do, and are extended, as the board
    lets one do by hand."""
    saver = store(urls)
    made = board(urls, saver)
    claim = made.claim
    held: dict[str, Any] = {}

    def claimed(job: Any, who: str, expiry: float | None = None) -> Any:
        answer = claim(job, who, expiry=lease)
        held[job.uuid] = job
        return answer

    def extend() -> None:
        while True:
            time.sleep(lease / 3)
            for job in list(held.values()):
                if not job.extend_expiry(lease):
                    del held[job.uuid]  # it is done

    made.claim = claimed
    threading.Thread(target=extend, daemon=True).start()
    _work(saver, made, wait_timeout=0.05, max_simultaneous_jobs=1000)


def _work(saver: Any, made: Any, **options: Any) -> None:
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    name = f"worker-{os.getpid()}"
    conductor = conductors.fetch(
        "nonblocking", name, made, persistence=saver, **options
    )
    reporter.serve()
    conductor.run()


if __name__ == "__main__":
    reporter.main(prepare, fill, work, rest, recover)
