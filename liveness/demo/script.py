"""What happens, in order. Each part yields once a frame, and says what comes next."""

from __future__ import annotations

from collections.abc import Iterator

from liveness.demo import journal
from liveness.demo.database import EngineRow
from liveness.demo.plan import FREEZE, KILL, OPTIONS
from liveness.demo.stage import Failed, Stage

START_LIMIT = 60.0
LIMIT = 75.0
"""Seconds for the engines to start, and for everything after that; a machine that
needs longer is told what was still waiting."""
FENCE_LIMIT = OPTIONS["ttl"] * 4
LEARN_LIMIT = 10.0
MOMENT = 0.8
"""Seconds between the fence and the thaw."""


def play(stage: Stage) -> Iterator[str]:
    """The whole demo, one frame at a time.

    :raises Failed: when a launcher ends, or engines do not come up."""
    for part in (_gather, _kill, _freeze, _thaw, _finish):
        for coming in part(stage):
            if problem := stage.fleet.failed():
                raise Failed(problem)
            yield coming


def _gather(stage: Stage) -> Iterator[str]:
    wanted = stage.plan.engines
    until = stage.started + START_LIMIT
    while missing := set(range(1, wanted + 1)) - {e.slot for e in stage.living}:
        if journal.now() > until:
            one = min(missing)
            words = stage.fleet.last_words(one)
            raise Failed(f"engine {one} has not started in {START_LIMIT:g} s. {words}")
        yield f"{wanted - len(missing)} of {wanted} engines have started"
    stage.begin()
    stage.tell(f"{wanted} engines beat; they create stacks from now on")


def _kill(stage: Stage) -> Iterator[str]:
    slot = stage.plan.victims()[0]
    while (left := KILL - stage.clock) > 0:
        yield f"in {left:.1f} s engine {slot} is killed"
    while (engine := stage.engine_in(slot)) is None or not stage.owned_by(engine.id):
        if stage.clock > stage.plan.creating:
            return
        yield f"engine {slot} is killed as soon as it has something to lose"
    stage.kill(engine)


def _freeze(stage: Stage) -> Iterator[str]:
    slot = stage.plan.victims()[1]
    while (left := FREEZE - stage.clock) > 0:
        yield f"in {left:.1f} s engine {slot} is frozen"
    while True:
        engine = stage.engine_in(slot)
        ready = engine is not None and stage.owned_by(engine.id)
        # Somebody must be there to notice: with two engines, the killed one's next.
        if ready and engine and len(stage.living) > 1 and stage.freeze(engine):
            return
        if stage.clock > stage.plan.creating:
            return
        yield f"engine {slot} is frozen as soon as it has something to lose"


def _thaw(stage: Stage) -> Iterator[str]:
    if stage.frozen is None:
        return
    name = stage.names[stage.frozen.engine]
    while (engine := stage.engine(stage.frozen.engine)) and engine.ended is None:
        if journal.now() > stage.frozen.at + FENCE_LIMIT:
            stage.tell(f"nobody has fenced {name} in {FENCE_LIMIT:g} s", "bold red")
            break
        if engine.left > 0:
            yield f"{name} cannot beat: its lease is over in {engine.left:.1f} s"
        else:
            yield f"the lease of {name} is over: the others fence it"
    while engine and engine.ended and journal.now() < engine.ended + MOMENT:
        left = engine.ended + MOMENT - journal.now()
        yield f"{name} goes on in {left:.1f} s, and does not know yet"
    if engine:
        stage.thaw(engine)
        yield from _learn(stage, engine)


def _learn(stage: Stage, engine: EngineRow) -> Iterator[str]:
    """A moment, so that every refusal is counted."""
    until = journal.now() + LEARN_LIMIT
    while journal.now() < until:
        yield f"{stage.names[engine.id]} finds out that it was fenced"
        if any(e.slot == engine.slot for e in stage.living) and stage.learned(engine):
            return


def _finish(stage: Stage) -> Iterator[str]:
    while not _all_done(stage):
        if stage.clock > LIMIT:
            stage.tell(f"still not done after {LIMIT:g} s", "bold red")
            return
        waiting = len(stage.snapshot.deadlines)
        if (left := stage.plan.creating - stage.clock) > 0:
            yield f"stacks are created for another {left:.1f} s"
        elif waiting:
            yield f"{waiting} deadlines are still to be disarmed or handled"
        else:
            yield "the last stacks are created"
    stage.tell("every stack is created or has timed out; the engines drain")


def _all_done(stage: Stage) -> bool:
    """No deadline is left, and the engine in each slot has finished its stacks."""
    if stage.clock < stage.plan.creating or stage.snapshot.deadlines:
        return False
    notes = journal.read(stage.directory, "engine-*.jsonl")
    stage.seen |= {(n["kind"], n["key"]) for n in notes if n["event"] == "armed"}
    finished = {note["engine"] for note in notes if note["event"] == "finished"}
    slots = {e.slot for e in stage.living if e.id in finished}
    return len(slots) == stage.plan.engines
