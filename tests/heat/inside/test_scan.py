"""The scan waits, and takes for lost only what is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import liveness
from liveness import Done, Handler, Liveness, Settings
from liveness.db import report
from liveness.heat import names, scan, scan_death
from liveness.heat.conf import HeatSettings
from liveness.heat.names import Action, Timer
from liveness.heat.scan_death import AfterDeath
from liveness.heat.scan_findings import Findings
from liveness.heat.scan_fleet import FleetReader
from liveness.heat.scan_rows import Rows

PATIENCE, INTERVAL = 60.0, 120.0
LATER = 3600.0


class Clock:
    """The database's clock is the database's; the other is moved by hand."""

    def __init__(self, live: Liveness) -> None:
        self.database_now = live.clock.database_now
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Nothing(Handler):
    """Deadlines stay where they are: nobody handles them before the test has looked."""

    handler_timeout = 1.0

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def expired(self, deadline: Any) -> Done:
        raise liveness.exceptions.Reject(reason="not here")


@pytest.fixture
def live(stacks: Any, url: str) -> Iterator[Liveness]:
    settings = Settings.of(connection=url, ttl=30.0)
    one = Liveness(settings)
    for kind in (names.ACTION, names.TIMER, scan.BEGINNING, scan.SCAN):
        one.add_handler(Nothing(kind))
    one.start()
    yield one
    one.stop(0)


class Scanned:
    """One engine's scanner, and what it has handed over."""

    def __init__(self, live: Liveness, threads: int = 64, **options: Any) -> None:
        self.clock = Clock(live)
        self.left = LATER
        self.reader = FleetReader(live, threads)
        self.reader._live = SimpleNamespace(settings=live.settings, clock=self.clock)
        engine = SimpleNamespace(
            live=SimpleNamespace(arm=live.arm, clock=self.clock),
            recovery=SimpleNamespace(time_left=lambda stack_id: self.left),
            settings=HeatSettings(
                scan_interval=INTERVAL, scan_patience=PATIENCE, **options
            ),
        )
        parts = (engine, Rows(), self.reader, Findings(engine))
        self.delivered = True
        self.scanner = scan.Scanner(*parts, lambda: self.delivered)
        self.after_death = AfterDeath(*parts[1:])

    def at(self, now: float) -> float:
        self.clock.now = now
        return self.scanner.scan()

    def armed(self, kind: str = names.ACTION) -> list[str]:
        with self.reader.opened() as own:
            wanted = report.Filter(kinds=(kind,))
            return [row.key for row in report.Report(self.clock).deadlines(own, wanted)]


@pytest.fixture
def scanned(live: Liveness) -> Scanned:
    return Scanned(live)


@pytest.fixture
def timed(live: Liveness) -> Callable[..., None]:
    def arm(stack: Any, **values: Any) -> None:
        timer = Timer(stack.id, stack.traversal, "CREATE", **values)
        live.arm(names.TIMER, timer.key, due_in=LATER, payload=timer.dump())

    return arm


def lost(stack: Any, index: int) -> str:
    return Action(stack.resources[index], stack.traversal, True).found_key


# --- patience -------------------------------------------------------------------------


def test_a_node_that_nobody_has_is_handed_over_when_it_was_seen_for_long_enough(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    stack = stacks.chain(told=1)
    timed(stack)
    scanned.at(0.0)
    scanned.at(PATIENCE - 0.001)
    assert scanned.armed() == []
    scanned.at(PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


def test_what_happens_meanwhile_begins_the_wait_again(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    stack = stacks.chain(told=1)
    timed(stack)
    scanned.at(0.0)
    stack.touch()
    scanned.at(PATIENCE)
    assert scanned.armed() == []
    scanned.at(2 * PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


def test_a_first_message_and_a_last_word_are_found_too(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    first, last = stacks.chain(told=0), stacks.chain(told=2)
    timed(first)
    timed(last)
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert set(scanned.armed()) == {lost(first, 0), lost(last, 1)}


def test_a_stack_that_ends_meanwhile_is_let_go(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    stack = stacks.chain(told=1)
    timed(stack)
    scanned.at(0.0)
    stack.end()
    scanned.at(PATIENCE)
    assert scanned.armed() == []
    assert scanned.scanner._sightings == {}


def test_it_is_handed_over_once(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    timed(stack := stacks.chain(told=1))
    for number in range(6):
        scanned.at(number * PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


# --- who has it -----------------------------------------------------------------------


def test_what_is_written_down_is_in_somebodys_hands(
    stacks: Any, scanned: Scanned, live: Liveness, timed: Callable[..., None]
) -> None:
    stack = stacks.chain(told=1)
    timed(stack)
    action = Action(stack.resources[1], stack.traversal, True)
    live.arm(names.ACTION, action.new_key(), due_in=LATER, payload=action.dump())
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert lost(stack, 1) not in scanned.armed()


def test_a_lock_counts_while_its_engine_lives(
    stacks: Any, scanned: Scanned, live: Liveness, timed: Callable[..., None]
) -> None:
    held = stacks.chain(told=0, locked_by=live.engine_id)
    dead = stacks.chain(told=0, locked_by="an-engine-that-nobody-knows")
    timed(held)
    timed(dead)
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert scanned.armed() == [lost(dead, 0)]


def test_while_an_engine_has_its_hands_full_messages_wait(
    stacks: Any, live: Liveness, timed: Callable[..., None]
) -> None:
    scanned = Scanned(live, threads=1)
    timed(stack := stacks.chain(told=1))
    busy = live.arm(names.ACTION, "another/1u/0", due_in=LATER)
    scanned.at(0.0)
    scanned.at(PATIENCE)
    live.disarm(busy)
    scanned.at(2 * PATIENCE - 0.001)
    assert scanned.armed() == [], "the wait begins when they are free"
    scanned.at(2 * PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


def test_while_the_broker_does_not_deliver_messages_wait(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    timed(stack := stacks.chain(told=1))
    scanned.delivered = False
    scanned.at(0.0)
    scanned.at(PATIENCE)
    scanned.delivered = True
    scanned.at(2 * PATIENCE)
    assert scanned.armed() == [], "it has only just been repaired"
    scanned.at(3 * PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


# --- beginnings and timers ------------------------------------------------------------


def test_a_beginning_is_left_to_whoever_began_it_while_it_lives(
    stacks: Any, scanned: Scanned, live: Liveness, timed: Callable[..., None]
) -> None:
    theirs, orphan = stacks.chain(begun=False), stacks.chain(begun=False)
    timed(theirs, engine=live.engine_id)
    timed(orphan, engine="an-engine-that-nobody-knows")
    scanned.at(0.0)
    scanned.at(PATIENCE)
    key = Timer(orphan.id, orphan.traversal, "CREATE").key
    assert scanned.armed(scan.BEGINNING) == [key]
    for number in range(2, scan.BEGINNER):
        scanned.at(number * PATIENCE)
    assert scanned.armed(scan.BEGINNING) == [key]
    scanned.at(scan.BEGINNER * PATIENCE)
    assert len(scanned.armed(scan.BEGINNING)) == 2, "a thread can die alone"


def test_a_stack_without_a_timer_gets_one_with_the_time_that_is_left(
    stacks: Any, scanned: Scanned, live: Liveness
) -> None:
    stack = stacks.chain(told=1, locked_by=live.engine_id)
    scanned.left = 1000.0
    scanned.at(0.0)
    assert scanned.armed(names.TIMER) == []
    scanned.at(PATIENCE)
    key = Timer(stack.id, stack.traversal, "CREATE").key
    assert scanned.armed(names.TIMER) == [key]
    found = live.find(names.TIMER, key)
    assert found is not None
    assert 900 < (found.due_at - now(scanned)).total_seconds() <= 1000
    assert scanned.armed() == []


def test_nothing_is_sent_again_when_the_time_is_over(
    stacks: Any, scanned: Scanned
) -> None:
    stacks.chain(told=1)
    scanned.left = 0.0
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert len(scanned.armed(names.TIMER)) == 1
    assert scanned.armed() == []


def now(scanned: Scanned) -> Any:
    with scanned.reader.opened() as own:
        return report.Report(scanned.clock).now(own)


# --- when it may only say so ----------------------------------------------------------


def test_while_a_stock_engine_lives_it_is_only_said_and_once(
    stacks: Any,
    scanned: Scanned,
    timed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    timed(stack := stacks.chain(told=1))
    stacks.service("stock-engine", age=0)
    with caplog.at_level(logging.WARNING):
        for number in range(4):
            scanned.at(number * PATIENCE)
            stacks.service("stock-engine", age=0)
    assert scanned.armed() == []
    said = [text for text in caplog.messages if "stock-engine" in text]
    assert len(said) == 1 and f"resource {stack.resources[1]} retriggered" in said[0]


def test_a_stock_engine_is_alive_until_it_has_missed_three_reports(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    timed(stack := stacks.chain(told=1))
    stacks.service("stock-engine", age=3 * 60 - 20)
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert scanned.armed() == []
    stacks.service("stock-engine", age=3 * 60 + 20)  # its report is another: it lives
    scanned.at(2 * PATIENCE)
    assert scanned.armed() == []
    for number in range(3, 7):
        scanned.at(number * PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


def test_an_engine_of_ours_is_no_stock_engine(
    stacks: Any, scanned: Scanned, live: Liveness, timed: Callable[..., None]
) -> None:
    timed(stack := stacks.chain(told=1))
    stacks.service(live.engine_id, age=0)
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


def test_in_mode_report_nothing_is_armed(
    stacks: Any, live: Liveness, caplog: pytest.LogCaptureFixture
) -> None:
    scanned = Scanned(live, mode="report")
    stacks.chain(told=1)
    with caplog.at_level(logging.WARNING):
        scanned.at(0.0)
        scanned.at(PATIENCE)
    assert scanned.armed() == scanned.armed(names.TIMER) == []
    assert any("mode is report" in text for text in caplog.messages)


# --- after a death --------------------------------------------------------------------


def look(scanned: Scanned) -> Any:
    return scanned.after_death.look(SimpleNamespace(key="after/somebody"))


def test_after_a_death_two_looks_are_enough_where_a_second_message_does_no_harm(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    created = stacks.chain(told=1)
    updated = stacks.chain(told=1, action="UPDATE")
    timed(created)
    timed(updated)
    assert not isinstance(look(scanned), Done)
    assert scanned.armed() == []
    assert isinstance(look(scanned), Done)
    assert scanned.armed() == [lost(created, 1)]


def test_after_a_death_what_moves_is_judged_when_it_does_not_any_more(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    timed(stack := stacks.chain(told=1))
    look(scanned)
    for _ in range(3):
        stack.touch()
        assert not isinstance(look(scanned), Done)
    assert scanned.armed() == []
    assert isinstance(look(scanned), Done)
    assert scanned.armed() == [lost(stack, 1)]


def test_after_a_death_nothing_is_judged_while_engines_have_their_hands_full(
    stacks: Any, live: Liveness, timed: Callable[..., None]
) -> None:
    scanned = Scanned(live, threads=1)
    timed(stack := stacks.chain(told=1))
    busy = live.arm(names.ACTION, "another/1u/0", due_in=LATER)
    for _ in range(3):
        assert not isinstance(look(scanned), Done)
    assert lost(stack, 1) not in scanned.armed()
    live.disarm(busy)
    assert isinstance(look(scanned), Done)
    assert scanned.armed() == [lost(stack, 1)]


def test_after_a_death_the_looks_end(
    stacks: Any,
    scanned: Scanned,
    timed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan_death, "LOOKS", 4)
    timed(stack := stacks.chain(told=1))
    for _ in range(scan_death.LOOKS):
        stack.touch()
        assert not isinstance(look(scanned), Done)
    stack.touch()
    assert isinstance(look(scanned), Done)
    assert scanned.armed() == []


# --- pages ----------------------------------------------------------------------------


def test_every_stack_in_progress_is_found_page_by_page(
    stacks: Any, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liveness.heat.scan_rows.PAGE", 3)
    monkeypatch.setattr(scan, "PAGES", 2)
    made = [stacks.chain() for _ in range(7)]
    made[4].end()
    assert scanned.at(0.0) == scan.SOON
    assert len(scanned.scanner._sightings) == 5, "two pages of three, one has ended"
    assert scanned.at(scan.SOON) == pytest.approx(PATIENCE - scan.SOON, abs=1)
    assert set(scanned.scanner._sightings) == {s.id for s in made} - {made[4].id}


def test_a_scan_that_fails_is_not_the_last(
    stacks: Any, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(after: str) -> Any:
        raise RuntimeError("no table")

    with monkeypatch.context() as patch:
        patch.setattr(scanned.scanner._rows, "page", broken)
        assert scanned.at(0.0) == INTERVAL
    stacks.chain()
    scanned.at(INTERVAL)
    assert len(scanned.scanner._sightings) == 1


def test_a_stack_that_cannot_be_judged_keeps_no_other_waiting(
    stacks: Any, scanned: Scanned, timed: Callable[..., None]
) -> None:
    odd, stack = stacks.chain(told=1), stacks.chain(told=1)
    timed(odd)
    timed(stack)
    edges = '{"edges": [["no node"]]}'
    odd.set("UPDATE stack SET current_deps = :e WHERE id = :id", e=edges, id=odd.id)
    scanned.at(0.0)
    scanned.at(PATIENCE)
    assert scanned.armed() == [lost(stack, 1)]


# --- one engine -----------------------------------------------------------------------


def test_one_scan_is_armed_however_many_engines_begin(
    stacks: Any, live: Liveness, scanned: Scanned
) -> None:
    engine = SimpleNamespace(live=live)
    scan.begin(engine)
    scan.begin(engine)
    assert scanned.armed(scan.SCAN) == [scan.KEY]
