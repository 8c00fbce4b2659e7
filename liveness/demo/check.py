"""Judges a run by the journals of its processes and the rows that are left; by
nothing that the store says of itself. All times are on the journals' clock.

*lost*: armed, and in the end its row is neither there (parked, or waiting for a time
that is still to come or has only just passed) nor gone for a reason: some process
noted ``disarming`` or ``settling`` before.

*early*: a handler was started before the promise (the moment before the arming, plus
``due_in``), and not because it had to be: a timer never has to, an action when every
earlier owner was fenced, stopped or resigned by then.

*double held*: a holder is who armed a deadline, was seen in its row as owner, or
started its handler. (a) A handler was started while an earlier holder stood: whoever
had started it and not failed, and before the promise every other holder, unless fenced
or stopped by then. (b) An effect was allowed to a holder after another one had started
a newer epoch. (c) Two settled: disarmed and handled, disarmed twice, or run again by
one who had handled it. (Who has ``left`` a guard has not settled yet: that may have to
wait for the database, and somebody else may be quicker.) An effect is dated to the
moment when leave was asked for it: what a process does that is frozen between leave
and act, no lease can prevent.

*moved*: somebody's promise was not the one that was armed.

Effects are at least once: a handler may run again when its holder was fenced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from liveness.demo.journal import Note
from liveness.demo.life import Facts, Life, Name, Takeover
from liveness.demo.plan import TIMER


@dataclasses.dataclass(slots=True)
class Verdict:
    """What came of the run. The lists of wrongs have one sentence each."""

    armed: int = 0
    disarmed: int = 0
    handled: int = 0
    parked: int = 0
    waiting: int = 0
    restarted: int = 0
    retriggered: int = 0
    refused: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)
    early: list[str] = dataclasses.field(default_factory=list)
    double_held: list[str] = dataclasses.field(default_factory=list)
    moved: list[str] = dataclasses.field(default_factory=list)
    takeovers: list[Takeover] = dataclasses.field(default_factory=list)

    @property
    def completed(self) -> int:
        """Disarmed by their owner, or handled to the end."""
        return self.disarmed + self.handled

    @property
    def wrongs(self) -> list[str]:
        """Every sentence about something that is wrong."""
        return [*self.lost, *self.early, *self.double_held, *self.moved]

    def delays(self, victim: str, since: float) -> list[float]:
        """Seconds from ``since`` to each takeover from that engine."""
        return sorted(t.at - since for t in self.takeovers if t.victim == victim)


def judge(notes: Iterable[Note], facts: Facts) -> Verdict:
    """Look at every deadline that the journals know."""
    verdict = Verdict()
    ended = dict(facts.ended)
    lives: dict[Name, list[Note]] = {}
    for note in sorted(notes, key=lambda note: float(note["at"])):
        if note["event"] == "stopping":
            ended[note["engine"]] = min(note["at"], ended.get(note["engine"], 1e99))
        if "key" in note:
            lives.setdefault((note["kind"], note["key"]), []).append(note)
            verdict.refused += note["event"] == "refused"
    facts = dataclasses.replace(facts, ended=ended)
    for name, about in lives.items():
        life = Life(name, about)
        if life.exists:
            _count(life, facts, verdict)
            _judge(life, facts, verdict)
    return verdict


def _count(life: Life, facts: Facts, verdict: Verdict) -> None:
    verdict.armed += 1
    row = facts.rows.get(life.name)
    if _lost(life, facts):
        pass
    elif row is not None:
        verdict.parked += row.state == "parked"
        verdict.waiting += row.state != "parked"
    elif life.any("settling"):
        verdict.handled += 1
    else:
        verdict.disarmed += 1
    takeovers = list(_takeovers(life, facts))
    verdict.takeovers += takeovers
    if takeovers and life.name[0] == TIMER:
        verdict.restarted += 1
    elif takeovers:
        verdict.retriggered += 1


def _judge(life: Life, facts: Facts, verdict: Verdict) -> None:
    rules: list[tuple[list[str], Callable[[Life, Facts], str | None]]] = [
        (verdict.lost, _lost),
        (verdict.early, _early),
        (verdict.double_held, _double_held),
        (verdict.moved, _moved),
    ]
    for wrongs, rule in rules:
        if wrong := rule(life, facts):
            wrongs.append(f"{'/'.join(life.name)}: {wrong}")


def _lost(life: Life, facts: Facts) -> str | None:
    row = facts.rows.get(life.name)
    if row is None:
        if not life.any("disarming", "settling"):
            return "lost: its row is gone, and nobody disarmed or handled it"
    elif row.state != "parked" and facts.now > row.due + facts.patience:
        return f"lost: due for {facts.now - row.due:.1f} s, and nobody looks at it"
    return None


def _early(life: Life, facts: Facts) -> str | None:
    for run in life.all("started"):
        if not _before_promise(life, run, facts):
            continue
        others = [h for h in life.holders(run) if h[0] != run["engine"]]
        standing = [engine for engine, _ in others if _stood(engine, run, facts)]
        if life.name[0] == TIMER or standing or not others:
            early = (life.promise or 0) - run["at"]
            return f"early: handled {early:.3f} s before its time by {run['engine']}"
    return None


def _double_held(life: Life, facts: Facts) -> str | None:
    runs = list(life.all("started"))
    if life.any("disarmed") and runs or len(list(life.all("disarmed"))) > 1:
        return "settled twice: disarmed, and disarmed or handled again"
    for run in runs:
        before = _before_promise(life, run, facts)
        for engine, running in life.holders(run):
            if engine == run["engine"]:
                if any(s["at"] < run["at"] for s in _settled_by(life, engine)):
                    return f"settled twice: handled again by {engine}"
            elif (running or before) and _stood(engine, run, facts):
                return f"two holders: {run['engine']} started while {engine} stood"
        for act in life.all("effect"):
            newer = act["epoch"] <= run["epoch"] and act["at"] > run["at"]
            if newer and act["engine"] != run["engine"]:
                return f"two holders: {act['engine']} acted after {run['engine']} began"
    return None


def _moved(life: Life, facts: Facts) -> str | None:
    if life.armed is None:
        return None
    for run in life.all("started"):
        if run["promise"] != life.armed["promise"]:
            return f"moved: armed for {life.armed['promise']}, now {run['promise']}"
    return None


def _takeovers(life: Life, facts: Facts) -> Iterator[Takeover]:
    owner: str | None = None
    for note in life.all("arming", "owned", "started"):
        by = note["engine"]
        if owner is not None and by != owner and not _stood(owner, note, facts):
            yield Takeover(life.name, owner, by, note["at"])
        owner = by


def _settled_by(life: Life, engine: str) -> Iterator[Note]:
    return (note for note in life.all("settling") if note["engine"] == engine)


def _before_promise(life: Life, run: Note, facts: Facts) -> bool:
    return life.promise is not None and bool(run["at"] < life.promise - facts.error)


def _stood(engine: str, at: Note, facts: Facts) -> bool:
    """True when the engine had been neither fenced nor stopped by then."""
    return bool(facts.ended.get(engine, float("inf")) > at["at"] + facts.error)
