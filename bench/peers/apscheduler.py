"""APScheduler 3: an in-process timer with a job store; one process only."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from bench.peers import reporter


def scheduler(url: str, threads: int = 20) -> BackgroundScheduler:
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    return BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=url)},
        executors={"default": ThreadPoolExecutor(threads)},
        job_defaults={"misfire_grace_time": None, "max_instances": 1000},
        timezone=UTC,
    )


def prepare(url: str) -> None:
    made = scheduler(url)
    made.start(paused=True)
    made.shutdown()


def fill(url: str, payloads: list[dict[str, Any]]) -> None:
    made = scheduler(url)
    made.start(paused=True)
    for payload in payloads:
        made.add_job(
            "bench.peers.reporter:ran",
            "date",
            run_date=datetime.fromtimestamp(payload["due"], UTC),
            args=[payload],
        )
    made.shutdown()


def work(url: str) -> None:
    _work(scheduler(url))


def rest(url: str) -> None:
    _work(BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(url=url)}))


def recover(url: str, lease: float) -> None:
    _work(scheduler(url, threads=1000))


def _work(made: BackgroundScheduler) -> None:
    made.start()
    reporter.serve()
    time.sleep(86400)


if __name__ == "__main__":
    reporter.main(prepare, fill, work, rest, recover)
