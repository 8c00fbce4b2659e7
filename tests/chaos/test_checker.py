"""The judge can tell: for each rule a history that is good, and one that is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.story import EPOCH, Story, fired

GOOD: set[tuple[int, str]] = set()


@pytest.fixture
def story() -> Story:
    """Two engines that live and beat; nothing else has happened by second 4."""
    made = Story()
    made.engine("a")
    made.engine("b")
    made.beats("a", 1, 4)
    made.beats("b", 1, 4)
    return made


def silent(story: Story, until: float) -> None:
    """b goes on beating, a does not."""
    story.beats("b", 5, until)


# --- 1 --------------------------------------------------------------------------------


def test_an_ordinary_life_is_good(story: Story):
    fired(story)
    assert story.judged(quiet=100) == GOOD


def test_an_arm_that_was_acknowledged_and_is_not_there(story: Story):
    fired(story)
    del story.changes["deadline"][0]
    assert (1, "an arm is kept") in story.judged()


def test_an_arm_that_a_failover_may_have_lost():
    story = Story(keeps_commits=False)
    story.engine("a")
    story.arm("k", "a", 1, due=2)
    story.changes["deadline"].clear()
    story.rows.clear()
    assert story.judged() == GOOD


def test_an_arm_that_was_rolled_back_and_is_there(story: Story):
    story.arm("k", "a", 4, due=50)
    story.line(4, "end", do="hosted", **{**story.facts("k"), "outcome": "rolled back"})
    assert (1, "no arm but those") in story.judged()


def test_a_row_that_nobody_deleted(story: Story):
    story.arm("k", "a", 4, due=50)
    story.delete("k", 5)
    assert story.judged() == {(1, "no row vanishes")}


def test_a_row_that_was_deleted_with_a_value_that_is_old(story: Story):
    story.arm("k", "a", 4, due=50)
    old = story.facts("k")
    story.line(4, "extending", engine="a", tokens=[old["token"]], to=7)
    story.write("k", 4, token=7)
    story.line(5, "disarming", **old)
    story.line(5, "settling", engine="a", how="complete", tokens=[old["token"]])
    story.delete("k", 5)
    assert (1, "no row vanishes") in story.judged()


def test_an_operation_that_ended_in_an_error_of_the_program(story: Story):
    story.line(4, "end", do="arm", outcome="bug", error="AttributeError('id')")
    assert story.judged() == {(1, "an operation answers")}


def test_a_row_that_was_completed_and_nobody_had_done_it(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.settle("k", 6)
    assert story.judged() == {(1, "no row vanishes")}


def test_a_row_that_was_disarmed(story: Story):
    story.arm("k", "a", 4, due=50)
    story.line(5, "disarming", **story.facts("k"))
    story.settle("k", 5)
    assert story.judged() == GOOD


@pytest.mark.parametrize(
    ("calm", "quiet", "lost"),
    [(0, 24.9, False), (0, 25.1, True), (30, 49.9, False), (30, 50.1, True)],
)
def test_what_is_left_over_after_so_much_quiet_is_lost(
    story: Story, calm: float, quiet: float, lost: bool
):
    story.arm("k", "a", 4, due=5)
    left = {(1, "nothing is left over")} if lost else GOOD
    assert story.judged(quiet, calm) == left


@pytest.mark.parametrize("why", ["no use", None])
def test_parked_without_a_reason(story: Story, why: str | None):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.answer("k", 5, "Park")
    story.settle("k", 5, state="parked", owner_id=None, last_error=why)
    assert story.judged(quiet=100) == (GOOD if why else {(1, "parked with a reason")})


def test_an_arm_over_one_that_lives(story: Story):
    story.arm("k", "a", 4, due=50)
    story.write("k", 5, arm_token=9)
    assert (1, "no arm overwrites") in story.judged()


# --- 2 --------------------------------------------------------------------------------


@pytest.mark.parametrize("early_by", [0.0, 0.001])
def test_a_claim_before_it_is_due(story: Story, early_by: float):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "b", 5 - early_by)
    story.answer("k", 5)
    story.settle("k", 5)
    assert story.judged() == ({(2, "no claim is early")} if early_by else GOOD)


@pytest.mark.parametrize("end", ["stopped", "missing", "released"])
def test_a_claim_of_an_orphan_is_never_early(story: Story, end: str):
    story.arm("k", "a" if end != "missing" else "nobody", 4, due=50)
    if end == "stopped":
        story.stop("a", 4.5)
    if end == "released":
        story.write("k", 4.5, owner_id=None)
        story.line(4.4, "handing back", engine="a")
    story.claim("k", "b", 5)
    story.answer("k", 5)
    story.settle("k", 5)
    assert story.judged() == GOOD


def test_where_clocks_differ_early_is_what_they_cannot_explain():
    story = Story(spread=1.0)
    story.engine("a")
    story.arm("k", "a", 1, due=5)
    story.arm("l", "a", 1, due=5)
    story.claim("k", "a", 4.2)
    assert story.judged() == GOOD
    story.claim("l", "a", 3.9)
    assert story.judged() == {(2, "no claim is early")}


# --- 3 --------------------------------------------------------------------------------


def test_two_writes_with_one_token(story: Story):
    story.arm("k", "a", 4, due=5)
    before = dict(story.rows["k"])
    story.claim("k", "a", 5)
    story.rows["k"] = before
    story.claim("k", "b", 5)
    assert (3, "one write for each token") in story.judged()


def test_a_claim_taken_from_an_engine_that_lives(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.claim("k", "b", 6)
    assert story.judged() == {(3, "a claim is its owner's")}


def test_a_claim_taken_from_an_engine_that_is_dead(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    silent(story, 16)
    story.fence("a", "b", 16)
    story.claim("k", "b", 16)
    assert story.judged() == GOOD


def test_an_adoption_from_an_engine_that_lives(story: Story):
    story.arm("k", "a", 4, due=50)
    story.write("k", 5, owner_id="b", attempts=0, epoch=2)
    assert story.judged() == {(3, "only orphans are adopted")}


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("asked", [6.5, 7.5])
def test_where_clocks_differ_a_guard_is_told_within_that_time(
    asked: float, extended: bool
):
    story = Story(spread=1.0)
    for engine in ("a", "b"):
        story.engine(engine)
    story.arm("k", "a", 4, due=6.5)
    guard = story.facts("k")
    story.line(4, "guarded", **guard)
    if extended:
        before, guard = guard["token"], {**guard, "token": 777}
        story.line(5, "extending", engine="a", tokens=[before], to=777)
        story.write("k", 5, token=777)
    story.claim("k", "b", 6)
    story.line(asked, "effect", **guard, asked=asked)
    story.answer("k", 8)
    story.settle("k", 8)
    assert story.judged() == (GOOD if asked < 7 else {(3, "one at work")})


@pytest.mark.parametrize("asked", [5.9, 6.1])
def test_a_holder_that_is_told_it_may_go_on_after_another_was_called(
    story: Story, asked: float
):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    first = story.facts("k")
    story.stop("a", 5.5)
    story.claim("k", "b", 6)
    story.line(6.2, "effect", **first, asked=asked)
    assert story.judged() == ({(3, "one at work")} if asked > 6 else GOOD)


def test_a_call_without_a_claim(story: Story):
    story.arm("k", "a", 4, due=5)
    story.line(5, "called", **story.facts("k"))
    assert story.judged() == {(3, "no call without a claim")}


def test_two_calls_for_one_claim(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.line(5, "called", **story.facts("k"))
    assert story.judged() == {(3, "one call for each claim")}


# --- 4 --------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "victim"), [(13.999, True), (14.001, False)])
def test_a_fence_of_one_that_has_beaten_in_its_lease(
    story: Story, at: float, victim: bool
):
    silent(story, 13)
    story.fence("a", "b", at)
    assert story.judged() == ({(4, "no live victim")} if victim else GOOD)


def test_a_fence_of_one_that_trusts_itself(story: Story):
    # Its last beat was committed at once, and the database's clock is of no use.
    story._facts["spread"] = 60.0
    silent(story, 13)
    story.beat("a", 9)
    story.changes["engine"].pop()
    story.fence("a", "b", 16)
    assert story.judged() == {(4, "no live victim")}


def test_a_fence_that_hits_another_beat_than_was_seen(story: Story):
    silent(story, 16)
    story.fence("a", "b", 16, seen=3)
    assert story.judged() == {(4, "a beat saves from the fence")}


@pytest.mark.parametrize(("gap", "wrong"), [(2.5, False), (2.6, True)])
def test_an_observer_that_has_not_beaten_itself(gap: float, wrong: bool):
    story = Story()
    story.engine("a")
    story.engine("b")
    for second in range(8):
        story.beat("b", float(second))
    story.beats("b", 7 + gap, 7 + gap)  # no whole second
    story.changes["engine"][-1]["at"] += gap % 1
    story.beats("b", 11, 16)
    story.fence("a", "b", 16)
    found = {(4, "reads alone prove nothing")} if wrong else GOOD
    assert story.judged() == found


def test_an_observer_that_is_younger_than_the_lease(story: Story):
    story.engine("c", at=10)
    story.beats("c", 11, 16)
    story.fence("a", "c", 16)
    assert story.judged() == {(4, "reads alone prove nothing")}


@pytest.mark.parametrize(
    ("born", "slot", "wrong"),
    [(10.5, 0, False), (10.6, 0, True), (10.5, 1, True), (10.5, 2, True)],
)
def test_an_observer_that_goes_on_from_its_predecessor(
    born: float, slot: int, wrong: bool
):
    """In the same slot, where observations are kept (0 and 2), and without a gap of
    more than a quarter of the lease."""
    story = Story(remembering=[0, 2])
    story.engine("a")
    story.engine("b", slot=0)
    story.beats("b", 1, 8)
    story.engine("c", at=born, slot=slot)
    story.beats("c", 11, 16)
    story.fence("a", "c", 16)
    assert story.judged() == ({(4, "reads alone prove nothing")} if wrong else GOOD)


def test_a_slot_in_which_nothing_is_kept_has_no_predecessor():
    story = Story(remembering=[0])
    story.engine("a")
    story.engine("b", slot=1)
    story.beats("b", 1, 10)
    story.engine("c", at=11, slot=1)
    story.beats("c", 12, 16)
    story.fence("a", "c", 16)
    assert story.judged() == {(4, "reads alone prove nothing")}


@pytest.mark.parametrize("lives", [False, True])
def test_a_process_that_was_proven_dead_and_lives(story: Story, lives: bool):
    story.fence("a", "b", 5, "pid 1 is gone")
    if lives:
        story.line(5.1, "refused", engine="a")
    assert story.judged() == ({(4, "proof of death")} if lives else GOOD)


def test_an_engine_that_is_deleted_while_it_lives(story: Story):
    story.change("engine", 5, story.engines.pop("a"), None)
    assert story.judged() == {(4, "no live victim")}


# --- 5 --------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [13.4, 13.6])
def test_an_effect_after_the_lease(story: Story, asked: float):
    # The last beat was sent at 4, the ttl is 10, the margin 0.5.
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.effect("k", asked)
    late = {(5, "the lease is the limit")} if asked > 13.5 else GOOD
    assert story.judged() == late


def test_a_beat_counts_from_before_it_was_sent(story: Story):
    story.beat("a", 8, sent=5)
    story.arm("k", "a", 8, due=8)
    story.claim("k", "a", 8)
    story.effect("k", 15)
    assert story.judged() == {(5, "the lease is the limit")}


@pytest.mark.parametrize("facts", [{"answer": False}, {"error": "Lost"}])
def test_a_beat_that_was_not_acknowledged_gives_no_lease(story: Story, facts: dict):
    story.beat("a", 8, **{"answer": None, **facts})
    story.arm("k", "a", 8, due=8)
    story.claim("k", "a", 8)
    story.effect("k", 15)
    assert story.judged() == {(5, "the lease is the limit")}


def test_an_effect_after_the_fence(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.line(6, "fenced", engine="a", reason="")
    story.effect("k", 6.1)
    assert story.judged() == {(5, "the dead do nothing")}


def test_an_effect_after_a_fence_that_its_engine_does_not_know_of(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.fence("a", "b", 6, "an operator said so")
    story.effect("k", 6.1)
    assert (5, "the dead do nothing") in story.judged()


def test_a_beat_of_one_that_is_dead(story: Story):
    story.stop("a", 5)
    story.beat("a", 6)
    assert story.judged() == {(5, "no second life")}


def test_an_id_that_comes_back(story: Story):
    story.stop("a", 5)
    story.change("engine", 6, story.engines["a"], None)
    story.engine("a", at=7)
    assert story.judged() == {(5, "no second life")}


# --- 6 --------------------------------------------------------------------------------


def test_a_settlement_that_counted_and_was_not_written(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    story.answer("k", 5)
    told = {"tokens": [story.rows["k"]["token"]], "rows": [story.rows["k"]["id"]]}
    story.line(5, "settled", engine="a", how="complete", **told)
    assert story.judged() == {(6, "what is told counts")}


@pytest.mark.parametrize(
    ("again", "asked", "fine"),
    [(False, 1, False), (True, 1, True), (False, 2, True)],
)
def test_a_completion_of_what_somebody_else_has_completed(
    story: Story, again: bool, asked: int, fine: bool
):
    """Sent again, or as one of many of which some had been taken over."""
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    told: dict[str, Any] = {"tokens": [story.rows["k"]["token"]]}
    told["rows"] = [story.rows["k"]["id"]]
    story.stop("a", 6)
    story.claim("k", "b", 6)
    story.answer("k", 6)
    story.settle("k", 6)
    told |= {"again": again, "asked": asked}
    story.line(7, "settled", engine="a", how="complete", **told)
    assert story.judged() == (GOOD if fine else {(6, "what is told counts")})


@pytest.mark.parametrize("do", ["disarm", "extend", "adopt"])
def test_an_operation_that_was_said_to_be_done(story: Story, do: str):
    story.arm("k", "a", 4, due=50)
    facts = {**story.facts("k"), "before": story.facts("k")["token"]}
    if do != "disarm":
        facts["token"] = 5
    story.line(5, "end", do=do, outcome="ok", **facts)
    assert story.judged() == {(6, "what is told counts")}


# --- 7 --------------------------------------------------------------------------------


def test_a_claim_that_does_not_count(story: Story):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5, attempts=0)
    assert story.judged() == {(7, "attempts count at the claim")}


def test_more_claims_than_there_may_be(story: Story):
    story.arm("k", "a", 4, due=5)
    story.rows["k"]["attempts"] = 3
    story.claim("k", "a", 5)
    assert story.judged() == {(7, "attempts count at the claim")}


@pytest.mark.parametrize("ran", [False, True])
def test_an_attempt_taken_back(story: Story, ran: bool):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    if not ran:
        story.lines = [line for line in story.lines if line["what"] != "called"]
    story.settle("k", 6, state="armed", owner_id=None, attempts=0)
    assert story.judged() == ({(7, "attempts count at the claim")} if ran else GOOD)


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_claim_held_again_is_not_counted_again(story: Story, attempts: int):
    story.arm("k", "a", 4, due=5)
    story.claim("k", "a", 5)
    tokens = [story.rows["k"]["token"]]
    story.line(6, "claiming", engine="a", how="adopt_lost", tokens=tokens)
    story.write("k", 6, attempts=attempts)
    twice = {(7, "attempts count at the claim")} if attempts == 2 else GOOD
    assert story.judged() == twice


def test_parked_for_nothing(story: Story):
    story.arm("k", "a", 4, due=5)
    story.write("k", 5, state="parked", owner_id=None, last_error="why not")
    assert story.judged() == {(7, "parked for a reason")}


@pytest.mark.parametrize(("own", "told"), [(True, True), (False, True), (False, False)])
def test_an_innocent_one_that_was_there_when_another_killed(
    story: Story, own: bool, told: bool
):
    """``own``: it did so itself; ``told``: its last claim was answered."""
    story.arm("k", "a", 4, due=5)
    story.arm("killer", "a", 4, due=5)
    story.rows["k"]["attempts"] = 2
    story.claim("killer", "a", 5)
    story.claim("k", "a", 5)
    if not told:
        story.lines = [
            line
            for line in story.lines
            if line["what"] != "claimed" or line["tokens"] != [story.rows["k"]["token"]]
        ]
    story.line(6, "suicide", **story.facts("k" if own else "killer"))
    story.stop("a", 7)
    reason = "gave up after 3 attempts, of which none came back: its handler may"
    story.write("k", 8, state="parked", owner_id=None, last_error=reason)
    guilty = own or not told
    assert story.judged() == (GOOD if guilty else {(7, "no innocent is parked")})


# --- claims from heads ----------------------------------------------------------------


def left(story: Story, **facts: Any) -> None:
    """One that nobody owns, due at 5."""
    story.arm("k", "a", 4, due=5)
    story.write("k", 4, owner_id=None)
    story.line(4, "handing back", engine="a")
    story.rows["k"].update(facts)


def done(story: Story, at: float) -> None:
    story.answer("k", at)
    story.settle("k", at)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_a_claim_from_a_head_is_good(story: Story, own: bool, told: bool):
    if own:
        story.arm("k", "a", 4, due=5)
    else:
        left(story)
    story.head("k", "a", 5)
    done(story, 6)
    if not told:
        story.lines = [line for line in story.lines if line["what"] != "claimed"]
    assert story.judged() == GOOD


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(
    ("facts", "broken"),
    [
        ({"due_at": EPOCH + 5.1}, (2, "no claim is early")),
        ({"expires_at": EPOCH + 5.1}, (2, "no claim is early")),
        ({"attempts": 1}, (7, "a head is fresh")),
        ({"max_attempts": 1}, (7, "a head is fresh")),
        ({"kind": "form"}, (3, "a claim is asked for")),
        ({"state": "parked"}, (3, "a claim is asked for")),
        ({"owner_id": "b"}, (3, "a claim is asked for")),
    ],
)
def test_a_claim_from_a_head_that_should_not_be(
    story: Story, facts: dict[str, Any], broken: tuple[int, str], told: bool
):
    left(story, **facts)
    story.head("k", "a", 5)
    done(story, 6)
    if not told:
        story.lines = [line for line in story.lines if line["what"] != "claimed"]
    assert broken in story.judged()


def test_a_claim_that_nobody_asked_for(story: Story):
    left(story)
    story.head("k", "a", 5)
    done(story, 6)
    story.lines = [line for line in story.lines if line["what"] != "heading"]
    assert story.judged() == {(3, "a claim is asked for")}


def test_a_claim_from_a_head_that_was_told_and_none(story: Story):
    left(story)
    story.head("k", "a", 5)
    done(story, 6)
    asked = {"how": "head", "line": "nobodys", "limit": 2, "kinds": ["timer"]}
    story.line(6, "claimed", engine="a", **asked, tokens=[7])
    assert story.judged() == {(6, "what is told counts")}


def test_more_from_a_head_than_was_asked_for(story: Story):
    left(story)
    story.head("k", "a", 5, limit=0)
    done(story, 6)
    assert story.judged() == {(6, "no more than asked for")}
