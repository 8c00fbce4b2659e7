"""A psycopg connection that does not wait for ever.

PostgreSQL's own timeouts run in the server. When the server is stopped, or a COMMIT
waits for a synchronous standby that is gone, none of them fires: the client has to
stop waiting by itself.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator
from typing import Any

import psycopg


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time; whether it did the work is unknown."""


def _limited(gen: Generator[Any, Any, Any], seconds: float) -> Any:
    """``gen``, which psycopg resumes at least every tenth of a second, with an end."""
    end = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if time.monotonic() > end:
                raise NoAnswer(f"connection is lost: no answer in {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as stop:
        return stop.value


@functools.cache
def connection_class(seconds: float) -> type[psycopg.Connection[Any]]:
    """A Connection whose every operation ends within ``seconds``, or is given up:
    then the connection is closed and OperationalError raised."""

    class LimitedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            limited = _limited(gen, seconds + 0.5)
            try:
                return super().wait(limited, *args, **kwargs)
            except NoAnswer:
                self.pgconn.finish()
                raise

    return LimitedConnection
