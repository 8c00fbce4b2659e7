"""pgqueuer: batches of 1,000; woken by NOTIFY for what is due now, polling for what is
due later."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.peers import reporter
from bench.peers.urls import plain

BATCH = 1000


async def _queries(url: str) -> Queries:
    return Queries(AsyncpgDriver(await asyncpg.connect(plain(url))))


def prepare(url: str) -> None:
    async def run() -> None:
        await (await _queries(url)).install()

    asyncio.run(run())


def fill(url: str, payloads: list[dict[str, Any]]) -> None:
    async def run() -> None:
        queries = await _queries(url)
        for start in range(0, len(payloads), BATCH):
            some = payloads[start : start + BATCH]
            waits = [max(0.0, p["due"] - time.time()) for p in some]
            await queries.enqueue(
                ["noop"] * len(some),
                [json.dumps(payload).encode() for payload in some],
                [0] * len(some),
                execute_after=[timedelta(seconds=wait) for wait in waits],
            )

    asyncio.run(run())


async def _work(url: str, **options: Any) -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(plain(url))))

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        await reporter.ran_async(json.loads(job.payload or b"{}"))

    reporter.serve()
    await queuer.run(**options)


def work(url: str) -> None:
    poll = timedelta(seconds=0.1)
    asyncio.run(_work(url, dequeue_timeout=poll, batch_size=BATCH))


def rest(url: str) -> None:
    asyncio.run(_work(url))


def recover(url: str, lease: float) -> None:
    asyncio.run(
        _work(
            url,
            dequeue_timeout=timedelta(seconds=0.1),
            batch_size=BATCH,
            heartbeat_timeout=timedelta(seconds=lease),
        )
    )


if __name__ == "__main__":
    reporter.main(prepare, fill, work, rest, recover)
