"""Histories and the database's own journal, put in order for the judge.

Nothing here knows the program: only the names of columns, states and lines.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

Line = dict[str, Any]
Change = dict[str, Any]

ALIVE = ("live", "draining")


@dataclasses.dataclass(frozen=True)
class Violation:
    """What must not be: which invariant, what happened, and where that is written."""

    invariant: int
    rule: str
    story: str
    operations: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.operations)
        return f"{self.invariant}. {self.rule}: {self.story} ({where})"


class Evidence:
    """All that a run has left behind."""

    def __init__(self, lines: Iterable[Line], dump: dict[str, Any]) -> None:
        self.lines = sorted(lines, key=lambda line: line["at"])
        self.dump = dump
        self.calm, self.quiet = dump.get("quiet") or (0.0, 0.0)
        """When, by the database's clock, the quiet began and when it was over."""
        self.margin: float = dump.get("margin", 0.0)
        self.spread: float = dump.get("spread", 0.0)
        self.keeps_commits: bool = dump.get("keeps_commits", True)
        self.remembering = set(dump.get("remembering", ()))
        self.changes: list[Change] = dump["deadline_changes"]
        self.engine_changes: list[Change] = dump["engine_changes"]
        for name, changes in (
            ("deadline", self.changes),
            ("engine", self.engine_changes),
        ):
            for change in changes:
                change["where"] = f"chaos_{name}:{change['seq']}"
        self._index_lines()
        self._index_changes()

    def forgot(self, *lines: Line) -> bool:
        """True when a failover lost the claim of one of them."""
        if self.keeps_commits:
            return False
        return any(line["token"] not in self.made for line in lines)

    def _index_lines(self) -> None:
        self.by_what: dict[str, list[Line]] = defaultdict(list)
        self.intents: dict[int, list[Line]] = defaultdict(list)
        self.called: dict[int, list[Line]] = defaultdict(list)
        self.answered: dict[int, list[Line]] = defaultdict(list)
        self.last_line: dict[str, Line] = {}
        for line in self.lines:
            what = line["what"]
            self.by_what[what].append(line)
            if "engine" in line:
                self.last_line[line["engine"]] = line
            if what in ("settling", "extending", "parking", "claiming"):
                for token in line["tokens"]:
                    self.intents[token].append(line)
            elif what == "called":
                self.called[line["token"]].append(line)
            elif what == "answered":
                self.answered[line["token"]].append(line)
        self.handing_back = {line["engine"] for line in self.by_what["handing back"]}
        self.extended = {line["to"] for line in self.by_what["extending"]}
        self.guarded = {line["token"] for line in self.by_what["guarded"]}
        for line in self.by_what["extending"]:  # in order of time
            if self.guarded.intersection(line["tokens"]):
                self.guarded.add(line["to"])
        self.leases = _leases(self.lines, self.margin)

    def _index_changes(self) -> None:
        self.made: dict[int, Change] = {}
        self.ended: dict[int, list[Change]] = defaultdict(list)
        self.inserted: dict[int, Change] = {}
        self.position: dict[int, int] = {}
        for number, change in enumerate(self.changes):
            if change["new_token"] is not None:
                self.made.setdefault(change["new_token"], change)
                self.position.setdefault(change["new_token"], number)
            if change["old_token"] is None:
                self.inserted[change["new_arm_token"]] = change
            else:
                self.ended[change["old_token"]].append(change)
        self.gone = {c["old_id"] for c in self.changes if c["new_id"] is None}
        self._born: dict[str, float] = {}
        self._dead: dict[str, float] = {}
        for change in self.engine_changes:
            engine = change["new_id"] or change["old_id"]
            if change["old_id"] is None:
                self._born.setdefault(engine, change["at"])
            elif change["new_id"] is None or change["new_state"] not in ALIVE:
                self._dead.setdefault(engine, change["at"])

    def alive(self, engine: str | None, moment: float) -> bool:
        """Did the database say, at that moment of its clock, that it lives?"""
        if engine is None or engine not in self._born:
            return False
        dead = self._dead.get(engine)
        return dead is None or dead > moment + self.spread

    def born(self, engine: str) -> float:
        """When it was registered, by the database's clock."""
        return self._born.get(engine, float("inf"))

    def line_of(self, engine: str) -> list[str]:
        """The engine, after its predecessors in its slot if each leaves what it has
        observed, and when it has beaten, to the next."""
        before = [engine]
        for line in self.by_what["registered"]:
            if line["engine"] == engine and line.get("slot") in self.remembering:
                slot, at = line["slot"], line["at"]
                registered = self.by_what["registered"]
                same = [e for e in registered if e.get("slot") == slot]
                before = [e["engine"] for e in same if e["at"] <= at]
        return before

    def intent(self, token: int, engine: str | None, *whats: str) -> Line | None:
        """A line in which this engine says that it is about to do so with the value
        of that token."""
        for line in self.intents[token]:
            if line["what"] in whats and line.get("engine", engine) == engine:
                return line
        return None

    def later(self, token: int, than: int, epochs: tuple[int, int]) -> bool:
        """Was the value of ``token`` given out after that of the token ``than``?"""
        first, second = self.position.get(than), self.position.get(token)
        if first is None or second is None:  # lost in a failover
            return epochs[0] > epochs[1]
        return second > first


class Lease:
    """Until when one engine could trust itself, by the beats it knew of."""

    def __init__(self) -> None:
        self._known: list[float] = []
        self._until: list[float] = []

    def beat(self, known: float, until: float) -> None:
        """The answer to a beat was written down at ``known``."""
        self._known.append(known)
        self._until.append(max(until, self._until[-1]) if self._until else until)

    def until(self, moment: float) -> float:
        """The end of the lease, as it was known at that moment."""
        number = bisect.bisect_right(self._known, moment)
        return self._until[number - 1] if number else float("-inf")


def _leases(lines: list[Line], margin: float) -> dict[str, Lease]:
    """A lease begins before its beat was sent, so this never ends it too early: the
    line's ``sent`` is a moment after the engine's own."""
    leases: dict[str, Lease] = defaultdict(Lease)
    for line in lines:
        registered = line["what"] == "registered" and "error" not in line
        if registered or (line["what"] == "beat" and line.get("answer") is True):
            until = line["sent"] + line["ttl"] - margin
            leases[line["engine"]].beat(line["at"], until)
    return leases


def places(*things: Line | Change | None) -> tuple[str, ...]:
    """Where these are written."""
    return tuple(thing["where"] for thing in things if thing is not None)


def name(thing: Line | Change) -> str:
    """What a line or a change of a deadline is about."""
    if "key" in thing:
        return f"{thing['kind']}/{thing['key']}"
    side = "new" if thing["new_key"] is not None else "old"
    return f"{thing[f'{side}_kind']}/{thing[f'{side}_key']}"


def every(rules: Iterable[Any], evidence: Evidence) -> Iterator[Violation]:
    """What all of these rules find."""
    for rule in rules:
        yield from rule(evidence)
