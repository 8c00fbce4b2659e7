"""What can happen between an engine and the database."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from tests.chaos.faults import LINK, Do, Fault, Kind
from tests.chaos.link import ANSWERS, QUESTIONS, Link

ASKED = {
    "commit": b"COMMIT",
    "beat": b"SET beat_seq",
    "fence": b"fenced_by=",
    "claim": b"epoch + ",
    "change": b"UPDATE liveness_deadline",
    "arm": b"INSERT INTO liveness_deadline",
    "end": b"DELETE FROM liveness_deadline",
    "anything": b"liveness_",
}
"""How to know what an engine asks by what is in the question."""

DELAYS = (0.02, 0.1, 0.3, 0.7)
BOTH = (QUESTIONS, ANSWERS)

Begin = Callable[[Link, Fault, random.Random], object]


def kinds(links: Sequence[Link]) -> dict[str, Kind]:
    """Every kind, of these links: one for each engine. None if there are none."""

    def kind(weight: float, shortest: float, longest: float, begin: Begin) -> Kind:
        def make(fault: Fault, rng: random.Random) -> Do:
            assert fault.slot is not None
            link = links[fault.slot]
            return Do(lambda: begin(link, fault, rng), link.heal)

        return Kind(LINK, weight, shortest, longest, make)

    if not links:
        return {}
    return {
        "cut": kind(2, 0.0, 0.0, lambda link, *_: link.cut()),
        "delay": kind(2, 0.3, 2.0, _delay),
        "stall": kind(1, 0.3, 2.5, _stall(*BOTH)),
        "slow, then stalled": kind(1, 1.5, 3.0, _fade),
        "half-open: no questions": kind(1, 0.3, 2.5, _stall(QUESTIONS)),
        "half-open: no answers": kind(1, 0.3, 2.5, _stall(ANSWERS)),
        "lost answers": kind(3, 0.1, 1.0, _lose(*ASKED)),
        "lost answers: beats": kind(0.5, 0.5, 2.5, _lose("beat")),
        "late statements": kind(2, 0.2, 2.0, _hold(*ASKED)),
        "late fences": kind(0.5, 0.5, 2.5, _hold("fence")),
    }


def _delay(link: Link, fault: Fault, rng: random.Random) -> None:
    link.delay(rng.choice(DELAYS), *rng.choice([(QUESTIONS,), (ANSWERS,), BOTH]))


def _stall(*directions: str) -> Begin:
    return lambda link, fault, rng: link.stall(*directions)


def _lose(*asked: str) -> Begin:
    return lambda link, fault, rng: link.lose_answers(ASKED[rng.choice(asked)])


def _hold(*asked: str) -> Begin:
    return lambda link, fault, rng: link.hold(ASKED[rng.choice(asked)])


def _fade(link: Link, fault: Fault, rng: random.Random) -> None:
    """Answers are late for a third of the time; then there are none."""
    link.delay(0.6, ANSWERS)
    timer = threading.Timer(fault.seconds / 3, link.stall, BOTH)
    timer.daemon = True
    timer.start()
