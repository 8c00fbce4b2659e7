"""tooz on Redis: a group whose members beat, and each of which watches the others. Its
drivers for PostgreSQL and MySQL have locks and no groups."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from tooz import coordination

from bench.peers import reporter

GROUP = b"bench"


def coordinator(url: str, **options: Any) -> Any:
    name = reporter.NAME or str(time.monotonic_ns())
    where = f"{url}?{urlencode(options)}" if options else url
    made = coordination.get_coordinator(where, name.encode())
    made.start(start_heart=True)
    return made


def prepare(url: str) -> None:
    coordinator(url).create_group(GROUP).get()


def left(event: Any) -> None:
    """To be seen to leave is what a member's death comes to."""
    reporter.called({"key": event.member_id.decode(), "due": 0.0})


def join(made: Any, every: float) -> None:
    """Be a member, and look who has left every so many seconds."""
    made.join_group(GROUP).get()
    made.watch_leave_group(GROUP, left)
    made.run_watchers()
    reporter.serve()
    while True:
        time.sleep(every)
        made.run_watchers()


def rest(url: str) -> None:
    """Watchers have no interval of their own: here they run as often as it beats."""
    made = coordinator(url, timeout=round(30 / reporter.HURRY))
    join(made, every=made.heartbeat() / 2)


def recover(url: str, lease: float) -> None:
    join(coordinator(url, membership_timeout=lease), every=0.1)


if __name__ == "__main__":
    reporter.main(prepare, None, None, rest, recover)
