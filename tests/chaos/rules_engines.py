"""What must hold of engines: invariants 4 and 5."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.evidence import ALIVE, Change, Evidence, Line, Violation, places
from tests.chaos.rules_rows import TICK

SILENT = "silent for"


class Fence:
    """One fence that was committed, and who did it."""

    def __init__(self, evidence: Evidence, change: Change) -> None:
        self.change = change
        self.victim: str = change["old_id"]
        self.by: str | None = change["new_fenced_by"]
        self.ttl: float = change["old_ttl"]
        self.silence = (change["new_fence_evidence"] or "").startswith(SILENT)
        self.intents = [
            line
            for line in evidence.by_what["fencing"]
            if line["victim"] == self.victim and line["engine"] == self.by
        ]
        answers = [
            line
            for line in evidence.by_what["fence"]
            if line["victim"] == self.victim and line.get("answer") is True
        ]
        self.answer: Line | None = answers[0] if answers else None


def fences(evidence: Evidence) -> list[Fence]:
    """Every fence of the run."""
    return [
        Fence(evidence, change)
        for change in evidence.engine_changes
        if change["new_state"] == "fenced" and change["old_state"] in ALIVE
    ]


# --- 4. no live victim ------------------------------------------------------------


def beaten_since(evidence: Evidence) -> Iterator[Violation]:
    """A fence hits the beat that its observer has seen."""
    for fence in fences(evidence):
        seen = {line["seen"] for line in fence.intents}
        if fence.intents and fence.change["old_beat_seq"] not in seen:
            story = (
                f"{fence.by} had seen beat {max(seen)} of {fence.victim}, and fenced it"
                f" after beat {fence.change['old_beat_seq']}"
            )
            where = places(*fence.intents, fence.change)
            yield Violation(4, "a beat saves from the fence", story, where)


def not_silent(evidence: Evidence) -> Iterator[Violation]:
    """Who is fenced for its silence was silent for its whole lease, by the database's
    clock; and did not trust itself any more, by its own."""
    beats = _committed_beats(evidence)
    for fence in fences(evidence):
        if not fence.silence:
            continue
        before = [b for b in beats[fence.victim] if b["seq"] < fence.change["seq"]]
        if before and not evidence.spread:
            silent = fence.change["at"] - before[-1]["at"]
            if silent < fence.ttl - TICK:
                story = (
                    f"{fence.victim} had beaten {silent:.3f} s before {fence.by} fenced"
                    f" it; its ttl is {fence.ttl:g} s"
                )
                where = places(before[-1], *fence.intents[-1:], fence.change)
                yield Violation(4, "no live victim", story, where)
        if fence.answer is not None:
            left = evidence.leases[fence.victim].until(fence.answer["at"])
            left -= fence.answer["at"]
            if left > 0:
                story = (
                    f"{fence.victim} could trust itself for another {left:.3f} s when"
                    f" {fence.by} fenced it"
                )
                where = places(*fence.intents[-1:], fence.answer, fence.change)
                yield Violation(4, "no live victim", story, where)


def proof(evidence: Evidence) -> Iterator[Violation]:
    """A process that was proven dead does nothing any more."""
    for fence in fences(evidence):
        if fence.silence or fence.answer is None:
            continue
        last = evidence.last_line.get(fence.victim)
        if last is None or last["at"] < fence.answer["sent"]:
            continue
        if last.get("pid") is not None and last["what"] not in ("fencing", "fence"):
            story = (
                f"{fence.victim} was fenced for {fence.change['new_fence_evidence']!r},"
                f" and lived {last['at'] - fence.answer['sent']:.3f} s longer"
            )
            yield Violation(4, "proof of death", story, places(fence.answer, last))


def reads_alone(evidence: Evidence) -> Iterator[Violation]:
    """Whoever fences for silence has itself committed beats all the time, or the
    predecessor whose observations it goes on from has: no gap of more than a quarter
    of the victim's lease."""
    if evidence.spread:
        return
    beats = _committed_beats(evidence)
    for fence in fences(evidence):
        if not fence.silence or fence.by is None:
            continue
        begin, end = fence.change["at"] - fence.ttl, fence.change["at"]
        both = [b for engine in evidence.line_of(fence.by) for b in beats[engine]]
        own = [b for b in both if b["seq"] < fence.change["seq"]]
        window = [b for b in own if begin <= b["at"] <= end]
        window = own[: len(own) - len(window)][-1:] + window
        if not window or window[0]["at"] > begin + TICK:
            story = f"{fence.by} has not lived for a lease of {fence.victim}"
            yield Violation(4, "reads alone prove nothing", story, places(fence.change))
            continue
        for one, other in zip(window, window[1:], strict=False):
            gap = other["at"] - one["at"]
            if gap > fence.ttl / 4 + TICK:
                story = (
                    f"{fence.by} fenced {fence.victim} for its silence, and had itself"
                    f" not beaten for {gap:.3f} s of that time"
                )
                where = places(one, other, fence.change)
                yield Violation(4, "reads alone prove nothing", story, where)
                break


def inherited(evidence: Evidence) -> int:
    """Fences for silence by engines that had not lived for that long themselves."""
    silent = [fence for fence in fences(evidence) if fence.silence and fence.by]
    return sum(f.change["at"] - evidence.born(str(f.by)) < f.ttl for f in silent)


def _committed_beats(evidence: Evidence) -> dict[str, list[Change]]:
    """By engine: the changes in which a beat was committed, oldest first."""
    beats: dict[str, list[Change]] = defaultdict(list)
    for change in evidence.engine_changes:
        if change["new_id"] is None or change["new_state"] not in ALIVE:
            continue
        # Of a living engine only a beat changes nothing but its number, or not even it.
        if change["new_state"] == (change["old_state"] or "live"):
            beats[change["new_id"]].append(change)
    return beats


# --- 5. the dead know it ----------------------------------------------------------


def beyond_the_lease(evidence: Evidence) -> Iterator[Violation]:
    """Nobody is told that it may go on when its lease is over."""
    told: set[str] = set()
    for effect in evidence.by_what["effect"]:
        if effect["engine"] in told:
            continue  # once for each engine is enough
        lease = evidence.leases[effect["engine"]].until(effect["at"])
        if effect["asked"] > lease:
            told.add(effect["engine"])
            story = (
                f"{effect['engine']} was told that it may go on with {effect['key']},"
                f" {effect['asked'] - lease:.3f} s after its lease"
            )
            yield Violation(5, "the lease is the limit", story, places(effect))


def after_the_fence(evidence: Evidence) -> Iterator[Violation]:
    """Nobody is told that it may go on when it was fenced, known or not."""
    fenced: dict[str, tuple[float, Line]] = {}
    for fence in fences(evidence):
        if fence.answer is not None:
            fenced[fence.victim] = (fence.answer["sent"], fence.answer)
    for line in evidence.by_what["fenced"]:
        if line["at"] < fenced.get(line["engine"], (float("inf"), line))[0]:
            fenced[line["engine"]] = (line["at"], line)
    for effect in evidence.by_what["effect"]:
        moment, line = fenced.get(effect["engine"], (float("inf"), effect))
        if effect["asked"] > moment:
            del fenced[effect["engine"]]  # once for each engine is enough
            story = (
                f"{effect['engine']} was told that it may go on with {effect['key']},"
                f" {effect['asked'] - moment:.3f} s after it was fenced"
            )
            yield Violation(5, "the dead do nothing", story, places(line, effect))


def revived(evidence: Evidence) -> Iterator[Violation]:
    """What has ended has ended: no beat, no other state, no second registration."""
    seen: set[str] = set()
    for change in evidence.engine_changes:
        engine = change["new_id"] or change["old_id"]
        if change["old_id"] is None:
            if engine in seen:
                story = f"{engine} was registered a second time"
                yield Violation(5, "no second life", story, places(change))
            seen.add(engine)
        elif change["old_state"] not in ALIVE and change["new_id"] is not None:
            story = (
                f"{engine} was {change['old_state']}, and became {change['new_state']}"
                f" with beat {change['new_beat_seq']}"
            )
            yield Violation(5, "no second life", story, places(change))


def purged(evidence: Evidence) -> Iterator[Violation]:
    """An engine's row goes only when it is over, and owns nothing. (What a host's
    transaction armed in its name may be committed later.)"""
    for change in evidence.engine_changes:
        if change["new_id"] is None and change["old_state"] in ALIVE:
            story = f"{change['old_id']} was deleted while it was {change['old_state']}"
            yield Violation(4, "no live victim", story, places(change))


RULES = (
    beaten_since,
    not_silent,
    proof,
    reads_alone,
    beyond_the_lease,
    after_the_fence,
    revived,
    purged,
)
