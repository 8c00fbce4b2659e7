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


def application(url: str) -> procrastinate.App:
    connector = procrastinate.PsycopgConnector(conninfo=plain(url))
    app = procrastinate.App(connector=connector)

    @app.task(name="noop")
    async def noop(payload: dict[str, Any]) -> None:
        reporter.called(payload)

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


async def _work(url: str) -> None:
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    async with application(url).open_async() as app:
        reporter.serve()
        await app.run_worker_async(
            concurrency=50,
            fetch_job_polling_interval=0.05,
            delete_jobs="always",
            install_signal_handlers=False,
        )


def work(url: str) -> None:
    asyncio.run(_work(url))


if __name__ == "__main__":
    reporter.main(prepare, fill, work)
