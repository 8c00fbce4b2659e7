"""What the tests of recoveries have in common."""

from __future__ import annotations

from typing import Any

from liveness.heat.conf import HeatSettings
from liveness.heat.recover import Recovery

ME, DEAD = "me", "dead-engine"


class Threads:
    """Does at once what a thread of Heat's would."""

    def start(self, stack_id: str, work: Any, *args: Any, **kwargs: Any) -> None:
        work(*args, **kwargs)


class Attempts:
    """As many attempts as a test wants: ``number`` None, enough."""

    most = 5
    number: int | None = 2

    def count(self, case: Any) -> int | None:
        return self.number

    def count_node(self, stack: Any, entity: Any, is_update: bool) -> int | None:
        return self.number


def recovery_with(**options: Any) -> Recovery:
    """The recoveries of engine :data:`ME`, for which :data:`DEAD` is."""
    settings = HeatSettings(retriggers_per_second=1000.0, **options)
    made = Recovery(ME, Threads(), settings, lambda engine: engine == DEAD)
    made.attempts = Attempts()  # type: ignore[assignment]
    return made
