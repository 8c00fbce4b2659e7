"""What is going on: the latest snapshot, and what changed from one to the next.

The stage is what the script plays on and the view shows. It notes in a journal of its
own whom it saw owning what, and what was done to which engine.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from liveness.demo import journal
from liveness.demo.database import DeadlineRow, EngineRow, Observer, Snapshot
from liveness.demo.fleet import Fleet
from liveness.demo.plan import ACTION, TIMER, Plan

LETTERS = "_bcdefgh"
"""Of the incarnations after the first; two are expected."""


TAKEN = {
    TIMER: ("stack timer", "stack timers, due times kept"),
    ACTION: ("resource action", "resource actions, to be run again"),
}
"""What one taken over is called, and several."""

TOGETHER = 3.0
"""Seconds in which takeovers of one sort are told together."""


class Failed(Exception):
    """The demo could not be shown; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Happening:
    """One line of the story; ``at`` in seconds since the first stack."""

    at: float
    text: str
    style: str = ""


@dataclasses.dataclass(slots=True)
class Blow:
    """What was done to an engine, and when: killed or frozen."""

    engine: str
    at: float


class Stage:
    """The demo as it runs."""

    def __init__(
        self, plan: Plan, fleet: Fleet, observer: Observer, directory: Path
    ) -> None:
        self.plan = plan
        self.fleet = fleet
        self.directory = directory
        self.started = journal.now()
        self.begun: float | None = None
        self.snapshot = Snapshot(self.started, [], [])
        self.happenings: list[Happening] = []
        self.killed: Blow | None = None
        self.frozen: Blow | None = None
        self.thawed: float | None = None
        self.taken: Counter[str] = Counter()
        self.seen: set[tuple[str, str]] = set()
        self.names: dict[str, str] = {}
        self._observer = observer
        self._owners: dict[tuple[str, str], str] = {}
        self._states: dict[str, str] = {}
        self._untold: dict[tuple[str, str, str], list[float]] = {}
        self._told: dict[tuple[str, str, str], float] = {}
        self._journal = journal.Journal(directory / "stage.jsonl")

    # --- time and names ---------------------------------------------------------

    @property
    def clock(self) -> float:
        """Seconds since the first stack could be created; negative before."""
        now = journal.now()
        return now - (self.begun if self.begun is not None else now)

    @property
    def living(self) -> list[EngineRow]:
        """The engines that are live by their rows."""
        return [e for e in self.snapshot.engines if e.state == "live"]

    def engine_in(self, slot: int) -> EngineRow | None:
        """The living engine in that slot."""
        return next((e for e in self.living if e.slot == slot), None)

    def engine(self, engine_id: str) -> EngineRow | None:
        """The engine with that id."""
        return next((e for e in self.snapshot.engines if e.id == engine_id), None)

    def short(self, engine_id: str) -> str:
        """Its number alone, such as "2b"."""
        return self.names.get(engine_id, "?").removeprefix("engine ")

    def is_frozen(self, engine: EngineRow) -> bool:
        """True between the SIGSTOP and the SIGCONT."""
        frozen = self.frozen is not None and self.frozen.engine == engine.id
        return frozen and self.thawed is None

    def owned_by(self, engine_id: str) -> int:
        """How many deadlines it owns."""
        return sum(d.owner == engine_id for d in self.snapshot.deadlines)

    def tell(self, text: str, style: str = "", at: float | None = None) -> None:
        """Add a line to the story; ``at`` is when, if not now."""
        begun = self.begun or journal.now()
        when = (journal.now() if at is None else at) - begun
        self.happenings.append(Happening(when, text, style))

    # --- the script's means -------------------------------------------------------

    def begin(self) -> None:
        """Let the engines create stacks from now on."""
        self.begun = journal.now()
        path = self.directory / "go.new"
        path.write_text(repr(self.begun))
        path.rename(self.directory / "go")

    def kill(self, engine: EngineRow) -> None:
        """SIGKILL."""
        self.killed = Blow(engine.id, journal.now())
        self._journal.note("killing", at=self.killed.at, engine=engine.id)
        self.fleet.kill(engine.pid)
        name = self.names[engine.id]
        text = f"{name} is killed: SIGKILL to pid {engine.pid}"
        self.tell(text, "bold red", self.killed.at)

    def freeze(self, engine: EngineRow) -> bool:
        """SIGSTOP. False, and nothing happened, when that would have frozen SQLite's
        write lock with it, and so everybody."""
        at = journal.now()
        self.fleet.freeze(engine.pid)
        if not self._observer.writable():
            self.fleet.thaw(engine.pid)
            return False
        self.frozen = Blow(engine.id, at)
        self._journal.note("freezing", at=at, engine=engine.id)
        name = self.names[engine.id]
        text = f"{name} is frozen: SIGSTOP to pid {engine.pid}"
        self.tell(text, "bold cyan", at)
        return True

    def thaw(self, engine: EngineRow) -> None:
        """SIGCONT."""
        self.thawed = journal.now()
        self._journal.note("thawing", at=self.thawed, engine=engine.id)
        self.fleet.thaw(engine.pid)
        name = self.names[engine.id]
        text = f"{name} goes on (SIGCONT), and knows nothing yet"
        self.tell(text, "bold cyan", self.thawed)

    def learned(self, engine: EngineRow) -> bool:
        """True, and told once, when it knows that it was fenced."""
        notes = journal.read(self.directory, f"engine-{engine.slot}-{engine.pid}.jsonl")
        fenced = next((n for n in notes if n["event"] == "fenced"), None)
        if fenced is None:
            return False
        refused = sum(note["event"] == "refused" for note in notes)
        name = self.names[engine.id]
        text = f"{name} learns it: {refused} times its guards say no, then it ends"
        self.tell(text, "bold cyan", fenced["at"])
        return True

    # --- looking ------------------------------------------------------------------

    def look(self) -> None:
        """Read the database again, and tell what has changed."""
        self.snapshot = self._observer.snapshot()
        for engine in sorted(self.snapshot.engines, key=lambda e: e.started):
            self._look_at_engine(engine)
        for row in self.snapshot.deadlines:
            self._look_at_owner(row)
        self._tell_takeovers()

    def _tell_takeovers(self) -> None:
        """The first ones at once, those that follow them bit by bit together."""
        for which, times in sorted(self._untold.items()):
            if self.snapshot.at < self._told.get(which, 0.0) + TOGETHER:
                continue
            del self._untold[which]
            self._told[which] = self.snapshot.at
            by, victim, kind = which
            what = TAKEN[kind][len(times) > 1]
            text = f"{by} takes over {len(times)} {what}, from {victim}"
            self.tell(text, "green", min(times))

    def _look_at_engine(self, engine: EngineRow) -> None:
        if engine.id not in self.names:
            before = sum(e.startswith(self._slot(engine)) for e in self.names)
            if before == len(LETTERS):
                words = self.fleet.last_words(engine.slot)
                raise Failed(f"engine {engine.slot} dies again and again. {words}")
            again = LETTERS[before] if before else ""
            self.names[engine.id] = f"engine {engine.slot}{again}"
            if again:
                text = f"engine {engine.slot}{again} is live: a new incarnation"
                self.tell(text, "bold", engine.started)
        state = self._states.get(engine.id)
        if engine.state == "fenced" and state != "fenced":
            by = self.names.get(engine.fenced_by or "", "somebody")
            name = self.names[engine.id]
            text = f"{by} fences {name}: {engine.evidence}"
            self.tell(text, "bold yellow", engine.ended)
        self._states[engine.id] = engine.state

    def _slot(self, engine: EngineRow) -> str:
        return f"{self.plan.prefix}{engine.slot}-"

    def _look_at_owner(self, row: DeadlineRow) -> None:
        name = (row.kind, row.key)
        self.seen.add(name)
        before = self._owners.get(name)
        if row.owner is None or row.owner == before:
            return
        self._owners[name] = row.owner
        self._journal.note(
            "owned", at=row.updated, kind=row.kind, key=row.key, engine=row.owner
        )
        if before is not None:
            self.taken[row.owner] += 1
            names = self.names
            which = (names.get(row.owner, "?"), names.get(before, "?"), row.kind)
            self._untold.setdefault(which, []).append(row.updated)
