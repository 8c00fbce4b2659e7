"""The database's clock against this host's monotonic one: what is due when here, and
whether that clock has jumped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from liveness import log
from liveness.clock import Clock

LOG = log.get(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Skew:
    """Follows the difference of the two clocks, reading by reading."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None
        self._vague = 0.0  # seconds by which the last reading may be off
        self._held_until = float("-inf")
        self.jumps = 0

    def reading(
        self, now: datetime, asked: float, answered: float, limit: float, hold: float
    ) -> None:
        """The database said ``now`` between ``asked`` and ``answered``. If its clock
        jumped by more than ``limit`` seconds, claims of other engines' expired
        deadlines are held back for ``hold`` seconds."""
        offset = _epoch_seconds(now) - (asked + answered) / 2
        known, self._offset = self._offset, offset
        vague, self._vague = self._vague, (answered - asked) / 2
        if known is None:
            return
        jump = offset - known
        if abs(jump) > limit + vague + self._vague:
            self.jumps += 1
            self._held_until = answered + hold
            LOG.warning(
                "The database's clock jumped by %+.1f s; this engine claims no other"
                " engine's expired deadlines for %g s.",
                jump,
                hold,
                event="clock-jumped",
            )

    def moment(self, monotonic: float) -> datetime:
        """The database's UTC at ``monotonic``, about; the epoch before a reading."""
        offset = -monotonic if self._offset is None else self._offset
        return EPOCH + timedelta(seconds=monotonic + offset)

    @property
    def now(self) -> datetime | None:
        """The database's UTC, about; None before a reading."""
        known = self._offset is not None
        return self.moment(self._clock.monotonic()) if known else None

    @property
    def steady(self) -> bool:
        """False while claims by due time are held back after a jump."""
        return self._clock.monotonic() >= self._held_until

    def monotonic(self, moment: datetime) -> float:
        """When ``moment`` of the database's clock is, on the monotonic clock; infinity
        before the first reading."""
        if self._offset is None:
            return float("inf")
        return _epoch_seconds(moment) - self._offset


def _epoch_seconds(moment: datetime) -> float:
    return (moment - EPOCH) / timedelta(seconds=1)
