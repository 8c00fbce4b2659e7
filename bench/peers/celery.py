"""Celery on Redis: ETA, ``acks_late``, a prefetch that does not starve it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import celery
from celery.signals import worker_ready

from bench.peers import reporter

ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")

app = celery.Celery("bench", broker=sys.argv[2] if len(sys.argv) > 2 else "memory://")
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=0,  # ETA tasks wait in the worker
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    worker_redirect_stdouts=False,  # the answers go there
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(payload: dict[str, Any]) -> None:
    reporter.ran(payload)


def prepare(url: str) -> None:
    """Redis needs nothing."""


def fill(url: str, payloads: list[dict[str, Any]]) -> None:
    for payload in payloads:
        noop.apply_async([payload], eta=datetime.fromtimestamp(payload["due"], UTC))


def work(url: str) -> None:
    # Threads: so that what ran is noted in this process.
    _work("--pool=threads", "--concurrency=8", *ALONE)


def rest(url: str) -> None:
    app.conf.update(worker_prefetch_multiplier=4)
    _work()


def recover(url: str, lease: float) -> None:
    often = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    app.conf.update(broker_transport_options={"visibility_timeout": lease, **often})
    _work("--pool=threads", "--concurrency=1000", *ALONE)


def _work(*options: str) -> None:
    @worker_ready.connect(weak=False)
    def ready(**_: Any) -> None:
        reporter.serve()

    app.worker_main(["--quiet", "worker", "--loglevel=ERROR", *options])


if __name__ == "__main__":
    reporter.main(prepare, fill, work, rest, recover)
