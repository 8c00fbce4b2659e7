"""Histories made by hand, for the judge's own tests: lines and changes that agree."""

from __future__ import annotations

import itertools
from typing import Any

from tests.chaos.checker import judge
from tests.chaos.journal import FOLLOWED

EPOCH = 1_000_000.0
"""What the database's clock shows when the histories' clock is at zero."""

MARGIN = 0.5


class Story:
    """What happens, told in order. ``at`` is seconds on either clock."""

    def __init__(self, **facts: Any) -> None:
        self.lines: list[dict[str, Any]] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.engines: dict[str, dict[str, Any]] = {}
        self.changes: dict[str, list[dict[str, Any]]] = {"deadline": [], "engine": []}
        self._tokens = itertools.count(100)
        self._facts = {"margin": MARGIN, "spread": 0.0, "keeps_commits": True, **facts}

    # --- what is written ----------------------------------------------------------

    def line(self, at: float, what: str, **facts: Any) -> None:
        where = f"hand:{len(self.lines) + 1}"
        self.lines.append({"at": at, "what": what, "pid": 1, "where": where, **facts})

    def change(self, of: str, at: float, old: Any, new: Any) -> None:
        changes = self.changes[of]
        change: dict[str, Any] = {"seq": len(changes) + 1, "at": EPOCH + at}
        for side, row in (("old", old), ("new", new)):
            for name in FOLLOWED[of][1]:
                change[f"{side}_{name}"] = None if row is None else row[name]
        changes.append(change)

    # --- engines --------------------------------------------------------------------

    def engine(
        self, engine: str, at: float = 0.0, ttl: float = 10.0, **facts: Any
    ) -> None:
        row = dict.fromkeys(FOLLOWED["engine"][1])
        row.update(id=engine, state="live", beat_seq=1, ttl=ttl, token=1)
        self.engines[engine] = row
        self.change("engine", at, None, row)
        facts = {"sent": at, "answer": None, **facts}
        self.line(at, "registered", engine=engine, seq=1, ttl=ttl, **facts)

    def beat(self, engine: str, at: float, **facts: Any) -> None:
        old = self.engines[engine]
        row = self.engines[engine] = {**old, "beat_seq": old["beat_seq"] + 1}
        self.change("engine", at, old, row)
        facts = {"sent": at, "answer": True, "ttl": row["ttl"], **facts}
        self.line(at, "beat", engine=engine, seq=row["beat_seq"], **facts)

    def beats(self, engine: str, since: float, until: float) -> None:
        """Every second."""
        for second in range(int(since), int(until) + 1):
            self.beat(engine, float(second))

    def fence(
        self,
        victim: str,
        by: str,
        at: float,
        evidence: str = "silent for 10.6 s",
        seen: int | None = None,
    ) -> None:
        old = self.engines[victim]
        facts = {"engine": by, "victim": victim}
        facts["seen"] = old["beat_seq"] if seen is None else seen
        self.line(at, "fencing", **facts, evidence=evidence)
        self._state(victim, at, "fenced", fenced_by=by, fence_evidence=evidence)
        self.line(at, "fence", **facts, sent=at, answer=True)

    def stop(self, engine: str, at: float) -> None:
        self._state(engine, at, "stopped")

    def _state(self, engine: str, at: float, state: str, **facts: Any) -> None:
        old = self.engines[engine]
        row = self.engines[engine] = {**old, "state": state, **facts}
        self.change("engine", at, old, row)

    # --- deadlines ------------------------------------------------------------------

    def arm(self, key: str, engine: str, at: float, due: float, **facts: Any) -> None:
        token = next(self._tokens)
        row = dict.fromkeys(FOLLOWED["deadline"][1])
        row.update(
            id=token, kind="timer", key=key, arm_token=token, owner_id=engine,
            token=token, state="armed", epoch=1, attempts=0, max_attempts=3,
            due_at=EPOCH + due, expires_at=EPOCH + due, **facts,
        )  # fmt: skip
        self.rows[key] = row
        self.change("deadline", at, None, row)
        self.line(at, "end", do="arm", outcome="ok", **self.facts(key))

    def write(self, key: str, at: float, **facts: Any) -> None:
        """Change the row, with a new token unless one is given."""
        old = self.rows[key]
        row = self.rows[key] = {**old, "token": next(self._tokens), **facts}
        self.change("deadline", at, old, row)

    def claim(self, key: str, engine: str, at: float, **facts: Any) -> None:
        """Claimed, and its handler called."""
        old = self.rows[key]
        values = {
            "owner_id": engine,
            "state": "claimed",
            "epoch": old["epoch"] + 1,
            "attempts": old["attempts"] + 1,
        }
        asked = {"engine": engine, "how": "claim_own"}
        self.line(at, "claiming", **asked, tokens=[old["token"]])
        self.write(key, at, **{**values, **facts})
        self.line(at, "claimed", **asked, tokens=[self.rows[key]["token"]])
        self.line(at, "called", **self.facts(key))

    def head(self, key: str, engine: str, at: float, **facts: Any) -> None:
        """The same, from the head of the line that it is in."""
        old = self.rows[key]
        line = "own" if old["owner_id"] else "nobodys"
        asked = {"engine": engine, "how": "head", "line": line}
        asked |= {"kinds": ["timer"], "limit": 2, **facts}
        self.line(at, "heading", **asked)
        self.write(
            key,
            at,
            owner_id=engine,
            state="claimed",
            epoch=old["epoch"] + 1,
            attempts=old["attempts"] + 1,
        )
        self.line(at, "claimed", **asked, tokens=[self.rows[key]["token"]])
        self.line(at, "called", **self.facts(key))

    def effect(self, key: str, at: float, **facts: Any) -> None:
        self.line(at, "effect", **{**self.facts(key), "asked": at, **facts})

    def answer(self, key: str, at: float, outcome: str = "Done") -> None:
        self.line(at, "answered", **self.facts(key), outcome=outcome)

    def settle(self, key: str, at: float, **facts: Any) -> None:
        """What its owner writes: the row goes, or becomes what ``facts`` say."""
        row = self.rows[key]
        how = str(facts.get("state", "complete"))
        told = {"engine": row["owner_id"], "how": how, "tokens": [row["token"]]}
        told["rows"] = [row["id"]]
        to = next(self._tokens)
        self.line(at, "settling", **told, to=to)
        if facts:
            self.write(key, at, token=to, **facts)
        else:
            self.delete(key, at)
        self.line(at, "settled", **told, to=to)

    def delete(self, key: str, at: float) -> None:
        self.change("deadline", at, self.rows.pop(key), None)

    def facts(self, key: str) -> dict[str, Any]:
        row = self.rows[key]
        return {
            "engine": row["owner_id"],
            "row": row["id"],
            "kind": row["kind"],
            "key": key,
            "arm": row["arm_token"],
            "token": row["token"],
            "epoch": row["epoch"],
        }

    # --- the end --------------------------------------------------------------------

    def judged(self, quiet: float = 0.0, calm: float = 0.0) -> set[tuple[int, str]]:
        """The rules that were broken, as the judge says; ``quiet`` is when the quiet
        was over that began at ``calm``."""
        dump = {
            **self._facts,
            "deadlines": list(self.rows.values()),
            "engines": list(self.engines.values()),
            "deadline_changes": self.changes["deadline"],
            "engine_changes": self.changes["engine"],
            "quiet": (EPOCH + calm, EPOCH + quiet),
        }
        return {(v.invariant, v.rule) for v in judge(self.lines, dump)}


def fired(story: Story, key: str = "k", engine: str = "a", at: float = 5.0) -> None:
    """A deadline of ``engine`` that is due at ``at`` is claimed and done then."""
    story.arm(key, engine, at - 1, due=at)
    story.claim(key, engine, at)
    story.effect(key, at)
    story.answer(key, at)
    story.settle(key, at)
