"""What operators do: the real commands, each in the process that dies."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from liveness import Park
from liveness.cmd import manage
from tests.crash.operations import OPERATIONS, Doomed, Tell, operation

__all__ = ["OPERATIONS"]


def command(doomed: Doomed, *argv: str) -> bool:
    """True when it said that it was done."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(None):
        return manage.main([*argv, "--yes", "--connection", doomed.url]) == 0


@operation
def fence_by_an_operator(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim = doomed.victim()
    yield
    if command(doomed, "engine", "fence", victim.id, "--force"):
        tell(f"fenced {victim.id}")


@operation
def drain_by_an_operator(doomed: Doomed, tell: Tell) -> Iterator[None]:
    victim = doomed.victim()
    yield
    command(doomed, "engine", "drain", victim.id)


@operation
def park_by_an_operator(doomed: Doomed, tell: Tell) -> Iterator[None]:
    doomed.victim()
    yield
    if command(doomed, "deadline", "park", "timer", "k"):
        tell("parked k")


@operation
def retry_by_an_operator(doomed: Doomed, tell: Tell) -> Iterator[None]:
    engine = doomed.engine()
    doomed.timer.answer = Park("why")
    doomed.arm(engine, "k", due=0)
    doomed.turns(engine)
    yield
    if command(doomed, "deadline", "retry", "timer", "k"):
        tell("unparked k")


@operation
def disarm_by_an_operator(doomed: Doomed, tell: Tell) -> Iterator[None]:
    doomed.victim()
    yield
    tell("done k")
    if command(doomed, "deadline", "disarm", "timer", "k"):
        tell("over k")


@operation
def purge_by_an_operator(doomed: Doomed, tell: Tell) -> Iterator[None]:
    old = doomed.engine(machine="elsewhere")
    doomed.bury(old)
    doomed.victim()
    yield
    command(doomed, "purge")
