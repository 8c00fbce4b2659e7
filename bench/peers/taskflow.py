"""TaskFlow: conductors that claim jobs from a board in Redis; the flow of each job is a
logbook in PostgreSQL."""

from __future__ import annotations

import contextlib
import logging
import os
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
        reporter.called(payload)


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
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    saver = store(urls)
    conductor = conductors.fetch(
        "nonblocking",
        f"worker-{os.getpid()}",
        board(urls, saver),
        persistence=saver,
        engine="serial",
        wait_timeout=0.05,
        max_simultaneous_jobs=8,
    )
    reporter.serve()
    conductor.run()


if __name__ == "__main__":
    reporter.main(prepare, fill, work)
