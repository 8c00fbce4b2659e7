"""A pause of all recoveries, for maintenance: a deadline that ends it by itself.

Engines go on beating and writing down what they do. What comes to be recovered waits.
"""

from __future__ import annotations

from oslo_config import cfg

import liveness
from liveness import Deadline, Done, Handler, Liveness, exceptions

PAUSE = "heat_pause"
"""While its one deadline lives, nothing is recovered or timed out."""

KEY = "fleet"
LOOK_SECONDS = 10.0
"""Between two looks of what waits."""


class Pause(Handler):
    """The pause is over when it is due."""

    kind = PAUSE

    def expired(self, deadline: Deadline) -> Done:
        return Done()


def paused(live: Liveness) -> bool:
    """Whether the fleet is paused now."""
    return live.find(PAUSE, KEY) is not None


def pause(conf: cfg.ConfigOpts, seconds: float) -> None:
    """Pause the fleet for so long, or for so long from now if it is paused.

    :raises LivenessError: it could not be; nothing changed, or the pause was lifted.
    """
    with liveness.start(conf, handlers=[Pause]) as live:
        _lift(live)
        live.arm(PAUSE, KEY, due_in=seconds)
        # Handed over on the way out: it is the fleet's.


def resume(conf: cfg.ConfigOpts) -> bool:
    """End the pause; False when there was none.

    :raises LivenessError: it could not be.
    """
    with liveness.start(conf, handlers=[Pause]) as live:
        return _lift(live)


def _lift(live: Liveness) -> bool:
    while found := live.find(PAUSE, KEY):
        try:
            live.disarm(found)
            return True
        except exceptions.StaleDeadline:
            continue  # an engine adopted it just now
    return False
