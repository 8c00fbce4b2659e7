"""procrastinate: jobs deleted when done, many at a time, polling every 50 ms beside its
NOTIFY."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import procrastinate

from bench.peers import reporter
from bench.peers.urls import plain

EAGER = {"fetch_job_polling_interval": 0.05, "delete_jobs": "always"}


def application(url: str) -> procrastinate.App:
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    connector = procrastinate.PsycopgConnector(conninfo=plain(url))
    app = procrastinate.App(connector=connector)

    @app.task(name="noop")
    async def noop(payload: dict[str, Any]) -> None:
        await reporter.ran_async(payload)

    return app


def prepare(url: str) -> None:
    async def run() -> None:
        async with application(url).open_async() as app:
            await app.schema_manager.apply_schema_async()

    asyncio.run(run())


def fill(url: str, payloads: list[dict[str, Any]]) -> None:
    async def run() -> None:
        async with application(url).open_async() as app:
            for payload in payloads:
                when = datetime.fromtimestamp(payload["due"], UTC)
                task = app.configure_task("noop", schedule_at=when)
                await task.defer_async(payload=payload)

    asyncio.run(run())


async def _work(app: procrastinate.App, **options: Any) -> None:
    async with app.open_async():
        reporter.serve()
        await app.run_worker_async(install_signal_handlers=False, **options)


def work(url: str) -> None:
    asyncio.run(_work(application(url), concurrency=50, **EAGER))


def rest(url: str) -> None:
    asyncio.run(_work(application(url)))


def recover(url: str, lease: float) -> None:
    """With the task that its documentation has for stalled jobs, once a second."""
    app = application(url)

    @app.periodic(cron="* * * * * */1")
    @app.task(name="recovery", queueing_lock="recovery")
    async def recovery(timestamp: int) -> None:
        manager = app.job_manager
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=lease):
            await manager.retry_job(job)

    beats = {"update_heartbeat_interval": lease / 3, "stalled_worker_timeout": lease}
    asyncio.run(_work(app, concurrency=1000, **beats, **EAGER))


if __name__ == "__main__":
    reporter.main(prepare, fill, work, rest, recover)
