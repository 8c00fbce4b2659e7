"""What must hold of deadlines: invariants 1, 2, 3, 6 and 7."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.evidence import Change, Evidence, Line, Violation, name, places

TICK = 2e-6
"""Two moments that are a microsecond apart may be one: they are kept as floats."""

LEFT_OVER = 20.0
"""Seconds of quiet in which whatever is due has to be settled."""

NONE_CAME_BACK = "of which none came back"


# --- 1. nothing is lost -----------------------------------------------------------


def lost_arms(evidence: Evidence) -> Iterator[Violation]:
    """An arm that was acknowledged is in the database; one that was rolled back is
    not."""
    if not evidence.keeps_commits:
        return
    for line in evidence.lines:
        for armed in _acknowledged(line):
            if armed["arm"] not in evidence.inserted:
                story = f"{armed['kind']}/{armed['key']} was armed, and was never there"
                yield Violation(1, "an arm is kept", story, places(line))
        if line.get("outcome") == "rolled back" and line["arm"] in evidence.inserted:
            change = evidence.inserted[line["arm"]]
            story = f"{name(line)} was rolled back, and is there"
            yield Violation(1, "no arm but those", story, places(line, change))


def _acknowledged(line: Line) -> list[Line]:
    if line["what"] == "guarded":
        return [line]
    if line["what"] != "end" or line["outcome"] != "ok":
        return []
    if line["do"] in ("arm", "arm hot", "hosted"):
        return [line]
    return line.get("armed", [])


def bugs(evidence: Evidence) -> Iterator[Violation]:
    """An operation answers, or says what its documentation says. (A run whose every arm
    fails would violate nothing else.)"""
    for line in evidence.by_what["end"]:
        if line["outcome"] == "bug":
            story = f"{line['do']} ended in {line['error']}"
            yield Violation(1, "an operation answers", story, places(line))


def vanished(evidence: Evidence) -> Iterator[Violation]:
    """A row goes when its owner said so, of that very value: its handler was done, or
    its host disarmed it."""
    disarmed = {line["token"] for line in evidence.by_what["disarming"]}
    disarmed |= {line["token"] for line in evidence.by_what["guarded"]}
    disarmed |= evidence.extended
    for change in evidence.changes:
        if change["new_token"] is not None:
            continue
        token, owner = change["old_token"], change["old_owner_id"]
        intent = evidence.intent(token, owner, "settling")
        if intent is None:
            story = f"{name(change)} of {owner} was deleted, and nobody had said so"
            yield Violation(1, "no row vanishes", story, places(change))
            continue
        done = [a for a in evidence.answered[token] if a["outcome"] == "Done"]
        if not done and token not in disarmed:
            story = f"{name(change)} was completed, and nobody had done it"
            yield Violation(1, "no row vanishes", story, places(intent, change))


def left_over(evidence: Evidence) -> Iterator[Violation]:
    """In the end everything that was due is settled or parked, with a reason."""
    for row in evidence.dump["deadlines"]:
        where = (f"liveness_deadline:{row['id']}",)
        where += places(evidence.made.get(row["token"]))
        if row["state"] == "parked":
            if not row["last_error"]:
                story = f"{name(row)} is parked, and nothing says why"
                yield Violation(1, "parked with a reason", story, where)
        elif max(row["due_at"], evidence.calm) < evidence.quiet - LEFT_OVER:
            late = evidence.quiet - max(row["due_at"], evidence.calm)
            story = (
                f"{name(row)} is {row['state']} by {row['owner_id']}, and has been due"
                f" for {late:.0f} s while nothing was wrong any more"
            )
            yield Violation(1, "nothing is left over", story, where)


def overwritten(evidence: Evidence) -> Iterator[Violation]:
    """A deadline that lives is never armed again."""
    for change in evidence.changes:
        old, new = change["old_arm_token"], change["new_arm_token"]
        if old is not None and new is not None and old != new:
            story = f"{name(change)} was armed over one that lived"
            yield Violation(1, "no arm overwrites", story, places(change))


# --- 2. nothing is early ----------------------------------------------------------


def early(evidence: Evidence) -> Iterator[Violation]:
    """What is claimed is due by the database's clock, or its owner was not alive."""
    for change in evidence.changes:
        if change["old_state"] != "armed" or change["new_state"] != "claimed":
            continue
        early_by = change["old_due_at"] - change["at"] - evidence.spread
        if early_by > TICK and evidence.alive(change["old_owner_id"], change["at"]):
            story = (
                f"{name(change)} was claimed by {change['new_owner_id']}"
                f" {early_by:.6f} s before it was due; its owner"
                f" {change['old_owner_id']} lived"
            )
            yield Violation(2, "no claim is early", story, places(change))


def from_heads(evidence: Evidence) -> Iterator[Violation]:
    """A claim names the values that were found; or it was asked for from the head of a
    line, and then takes only what is in that line and fresh, is due, and, if nobody has
    it, past its promise. That holds when its answer was lost, too."""
    asked: dict[tuple[str, str], set[str]] = defaultdict(set)
    told: dict[int, Line] = {}
    for line in evidence.by_what["heading"]:
        asked[line["engine"], line["line"]].update(line["kinds"])
    for line in evidence.by_what["claimed"]:
        if line["how"] == "head":
            told.update((token, line) for token in line["tokens"] or ())
    for change in evidence.changes:
        if change["old_state"] == "claimed" or change["new_state"] != "claimed":
            continue
        engine, token = change["new_owner_id"], change["old_token"]
        by_key = evidence.intent(token, engine, "claiming")
        if by_key and change["new_token"] not in told:
            continue
        where = places(told.get(change["new_token"]), change)
        yield from _wrong_from_head(evidence, change, asked, where)


def _wrong_from_head(
    evidence: Evidence,
    change: Change,
    asked: dict[tuple[str, str], set[str]],
    where: tuple[str, ...],
) -> Iterator[Violation]:
    engine, owner = change["new_owner_id"], change["old_owner_id"]
    line = "nobodys" if owner is None else "own"
    story = f"{name(change)}, {change['old_state']} by {owner}, was claimed by {engine}"
    if owner not in (None, engine) or (engine, line) not in asked:
        yield Violation(3, "a claim is asked for", f"{story}: unasked", where)
        return
    unknown = owner is None and change["old_kind"] not in asked[engine, line]
    if unknown or change["old_state"] != "armed":
        yield Violation(3, "a claim is asked for", f"{story}: not for such", where)
    if change["old_attempts"] or change["old_max_attempts"] < 2:
        yield Violation(7, "a head is fresh", f"{story}: it had to be chosen", where)
    times = ["old_due_at"] if owner else ["old_due_at", "old_expires_at"]
    early_by = max(change[time] for time in times) - change["at"] - evidence.spread
    if early_by > TICK:
        yield Violation(
            2, "no claim is early", f"{story} {early_by:.6f} s early", where
        )


def claims_told(evidence: Evidence) -> Iterator[Violation]:
    """What an engine was told that it claimed from a head was claimed by it; no more
    than it asked for."""
    for line in evidence.by_what["claimed"]:
        tokens = line["tokens"] or ()
        if line["how"] != "head" or not evidence.keeps_commits:
            continue
        if len(tokens) > line["limit"]:
            story = f"{line['engine']} asked for {line['limit']}, got {len(tokens)}"
            yield Violation(6, "no more than asked for", story, places(line))
        for token in tokens:
            made = evidence.made.get(token)
            if made is None or made["new_owner_id"] != line["engine"]:
                story = f"{line['engine']} was told of a claim that was none: {token}"
                yield Violation(6, "what is told counts", story, places(line, made))


# --- 3. one holder ----------------------------------------------------------------


def forks(evidence: Evidence) -> Iterator[Violation]:
    """Each value of a row is followed by one other, or by the row's end."""
    if not evidence.keeps_commits:
        return
    for changes in evidence.ended.values():
        if len(changes) > 1:
            story = f"{name(changes[0])}: {len(changes)} writes present one token"
            yield Violation(3, "one write for each token", story, places(*changes))


def taken_from_the_living(evidence: Evidence) -> Iterator[Violation]:
    """A claimed row is changed by its owner alone, as long as that one lives; an armed
    one is adopted by others only when it does not."""
    for change in evidence.changes:
        owner = change["old_owner_id"]
        if owner is None or not evidence.alive(owner, change["at"]):
            continue
        if change["old_state"] == "claimed":
            if not _by_its_owner(evidence, change):
                story = (
                    f"{name(change)}, claimed by {owner}, which lived, became"
                    f" {change['new_state']} by {change['new_owner_id']}"
                )
                yield Violation(3, "a claim is its owner's", story, places(change))
        elif change["new_state"] == "armed" and change["new_owner_id"] != owner:
            if owner not in evidence.handing_back:
                story = (
                    f"{name(change)} of {owner}, which lived, was taken by"
                    f" {change['new_owner_id']}"
                )
                yield Violation(3, "only orphans are adopted", story, places(change))


def _by_its_owner(evidence: Evidence, change: Change) -> bool:
    owner, token = change["old_owner_id"], change["old_token"]
    if change["new_state"] == "claimed":  # it looked for answers that were lost
        same = change["new_owner_id"] == owner
        return same and evidence.intent(token, owner, "claiming") is not None
    if evidence.intent(token, owner, "settling") is not None:
        return True
    return owner in evidence.handing_back and change["new_owner_id"] is None


def two_at_work(evidence: Evidence) -> Iterator[Violation]:
    """Nobody is told that it may go on after somebody else was called for the same
    deadline: neither a handler nor a guarded block. (Where clocks of nodes are further
    apart than ``max_clock_skew``, a guarded block's is due there before its owner can
    know.)"""
    apart = evidence.spread
    guarded = evidence.guarded if apart else set()
    first: dict[int, list[Line]] = defaultdict(list)
    for line in evidence.by_what["called"]:
        first[line["arm"]].append(line)
    told: set[int] = set()
    for effect in evidence.by_what["effect"]:
        for called in first.get(effect["arm"], ()):
            if called["at"] >= effect["asked"] or effect["token"] in told:
                break  # they are in order of time; once for each value is enough
            epochs = (called["epoch"], effect["epoch"])
            if called["token"] == effect["token"] or evidence.forgot(called, effect):
                continue
            if effect["token"] in guarded and effect["asked"] - called["at"] <= apart:
                continue
            if evidence.later(called["token"], effect["token"], epochs):
                story = (
                    f"{name(effect)}: {effect['engine']} was told that it may go on,"
                    f" {effect['asked'] - called['at']:.3f} s after"
                    f" {called['engine']} was called for it"
                )
                where = places(called, effect)
                told.add(effect["token"])
                yield Violation(3, "one at work", story, where)
                break


def calls(evidence: Evidence) -> Iterator[Violation]:
    """A handler is called for a claim that was committed, by the engine that made it,
    and once."""
    for token, lines in evidence.called.items():
        if len(lines) > 1:
            story = f"{name(lines[0])}: {len(lines)} calls for one claim"
            yield Violation(3, "one call for each claim", story, places(*lines))
        if not evidence.keeps_commits:
            continue
        claim = evidence.made.get(token)
        if (
            claim is None
            or claim["new_state"] != "claimed"
            or claim["new_owner_id"] != lines[0]["engine"]
        ):
            story = f"{name(lines[0])}: called, and not claimed by {lines[0]['engine']}"
            where = places(lines[0], claim)
            yield Violation(3, "no call without a claim", story, where)


# --- 6. settlement exactly once ---------------------------------------------------


def settlements(evidence: Evidence) -> Iterator[Violation]:
    """What an engine was told is settled is settled, by that very write."""
    if not evidence.keeps_commits:
        return
    for line in evidence.by_what["settled"]:
        for number, token in enumerate(line["tokens"]):
            if not _settled(evidence, line, number):
                story = (
                    f"{line['engine']} was told that its {line['how']} of token {token}"
                    " counted, and it did not"
                )
                where = places(line, *evidence.ended[token])
                yield Violation(6, "what is told counts", story, where)


def _settled(evidence: Evidence, line: Line, number: int) -> bool:
    ends = evidence.ended[line["tokens"][number]]
    mine = [end for end in ends if end["old_owner_id"] == line["engine"]]
    if line["how"] != "complete":
        return any(end["new_token"] == line["to"] for end in mine)
    if any(end["new_token"] is None for end in mine):
        return True
    # Sent again, or one of many: it is gone, whoever did it.
    many = line.get("again") or line.get("asked", 1) > 1
    return many and line["rows"][number] in evidence.gone


def answers(evidence: Evidence) -> Iterator[Violation]:
    """What hosts were told was done is done."""
    if not evidence.keeps_commits:
        return
    for line in evidence.by_what["end"]:
        if line["outcome"] != "ok":
            continue
        token, wrong = line.get("token"), False
        if line["do"] == "extend" or (line["do"] == "misuse" and "before" in line):
            made = evidence.made.get(token)
            wrong = made is None or made["old_token"] != line["before"]
        elif line["do"] == "adopt":
            wrong = token not in evidence.made
        elif line["do"] in ("disarm", "misuse"):
            wrong = not any(c["new_id"] is None for c in evidence.ended[token])
            wrong = wrong and not _sent_again(evidence, token)
        if wrong:
            story = f"{name(line)}: {line['do']} was said to be done, and is not"
            where = places(line, evidence.made.get(token))
            yield Violation(6, "what is told counts", story, where)


def _sent_again(evidence: Evidence, token: int) -> bool:
    return any(line.get("again") for line in evidence.intents[token])


# --- 7. attempts count at the claim -------------------------------------------------


def attempts(evidence: Evidence) -> Iterator[Violation]:
    """Each claim counts, none is made too many, and what has run stays counted."""
    for change in evidence.changes:
        if change["old_token"] is None or change["new_token"] is None:
            continue
        wrong = _miscounted(evidence, change)
        if wrong:
            counted = f"{change['old_attempts']} to {change['new_attempts']}"
            story = f"{name(change)}: {wrong}, attempts went from {counted}"
            yield Violation(7, "attempts count at the claim", story, places(change))


def _miscounted(evidence: Evidence, change: Change) -> str | None:
    old, new = change["old_attempts"], change["new_attempts"]
    claimed = change["new_state"] == "claimed"
    same = change["old_owner_id"] == change["new_owner_id"]
    if claimed and change["old_state"] == "claimed" and same:
        return "held again" if new != old else None
    if claimed:
        if new != old + 1 or change["new_epoch"] != change["old_epoch"] + 1:
            return "claimed"
        return "claimed too often" if new > change["new_max_attempts"] else None
    if change["old_state"] == "claimed" and change["new_state"] == "armed":
        outcomes = {a["outcome"] for a in evidence.answered[change["old_token"]]}
        ran = bool(evidence.called[change["old_token"]])
        if new < old and ran and not (new == 0 and "Rearm" in outcomes):
            return "it ran, and that does not count"
    return None


def parked(evidence: Evidence) -> Iterator[Violation]:
    """Parked is what had its attempts, what its handler would not have, or what its
    kind says; and nothing for having been there when its engine was killed."""
    suicides: dict[str, Line] = {
        line["engine"]: line for line in evidence.by_what["suicide"]
    }
    killers = {line["arm"] for line in evidence.by_what["suicide"]}
    for change in evidence.changes:
        if change["new_state"] != "parked" or change["old_state"] == "parked":
            continue
        reason = change["new_last_error"] or ""
        if NONE_CAME_BACK in reason and change["new_arm_token"] not in killers:
            last = _last_claim(evidence, change)
            killed = suicides.get(last["new_owner_id"]) if last else None
            if killed and not _answer_lost(evidence, last):
                story = (
                    f"{name(change)} was parked; its last attempt ended when"
                    f" {name(killed)} killed its engine"
                )
                where = places(last, killed, change)
                yield Violation(7, "no innocent is parked", story, where)
        elif not _may_be_parked(evidence, change, reason):
            story = f"{name(change)} was parked: {reason!r}"
            yield Violation(7, "parked for a reason", story, places(change))


def _may_be_parked(evidence: Evidence, change: Change, reason: str) -> bool:
    outcomes = {a["outcome"] for a in evidence.answered[change["old_token"]]}
    return (
        bool(outcomes & {"Park", "Reject"})
        or change["old_attempts"] >= change["old_max_attempts"]
        or (change["old_kind"] == "form" and "its owner died" in reason)
    )


def _last_claim(evidence: Evidence, change: Change) -> Change | None:
    made: Change | None = change
    while made is not None and made["old_token"] is not None:
        made = evidence.made.get(made["old_token"])
        if made is not None and made["new_attempts"] > (made["old_attempts"] or 0):
            return made
    return None


def _answer_lost(evidence: Evidence, claim: Change | None) -> bool:
    """The one case that is not promised: a claim of a last attempt that came late."""
    if claim is None:
        return False
    engine = claim["new_owner_id"]
    told = (
        line
        for line in evidence.by_what["claimed"]
        if line["engine"] == engine and line["tokens"]
    )
    return not any(claim["new_token"] in line["tokens"] for line in told)


RULES = (
    lost_arms,
    bugs,
    vanished,
    left_over,
    overwritten,
    early,
    from_heads,
    claims_told,
    forks,
    taken_from_the_living,
    two_at_work,
    calls,
    settlements,
    answers,
    attempts,
    parked,
)
