"""Somebody must be able to fence: observations that outlive their observer."""

import dataclasses
import json

import pytest

from liveness.identity import Identity
from liveness.memory import Memory, Remembered
from tests.fleet import Recorder

TTL, GAP = 30.0, 7.5
WAIT = TTL * 1.01 + 1.0
MICRO = 1e-6


def state(fleet, engine):
    return fleet.engine_row(engine).state


@pytest.fixture
def crash_loop(fleet, tmp_path):
    """``run(lives, seconds, pause)``: observers that live so long each, then die; the
    next starts after the pause. All share a folder, and a machine, or ``machines``."""

    def run(lives, seconds, pause=0.5, machine="same", folder=tmp_path):
        for _ in range(lives):
            observer = fleet(Recorder(), state_directory=str(folder), machine=machine)
            observer.beat()
            observer.turn()
            fleet.live(seconds, observer)
            fleet.kill(observer)
            fleet.clock.advance(pause)

    return run


def test_in_a_crash_loop_the_dead_are_fenced_all_the_same(fleet, crash_loop):
    victim = fleet()
    crash_loop(4, 7)
    assert state(fleet, victim) == "live"
    crash_loop(1, 2)
    assert state(fleet, victim) == "fenced"


def test_without_a_folder_nobody_lives_long_enough(fleet, crash_loop):
    victim = fleet()
    for _ in range(10):
        observer = fleet(machine="same")
        observer.beat()
        observer.turn()
        fleet.live(8, observer)
        fleet.kill(observer)
    assert state(fleet, victim) == "live"


@pytest.mark.parametrize("pause, alive", [(GAP - MICRO, False), (GAP + MICRO, True)])
def test_too_long_a_pause_between_two_lives_starts_the_wait_anew(
    fleet, crash_loop, pause, alive
):
    victim = fleet()
    crash_loop(1, 20, pause)
    crash_loop(1, WAIT - 20)
    assert (state(fleet, victim) == "live") is alive


def test_another_boot_starts_the_wait_anew(fleet, crash_loop):
    victim = fleet()
    crash_loop(1, 28)
    crash_loop(1, 20, machine="rebooted")
    assert state(fleet, victim) == "live"


def test_a_beat_between_two_lives_starts_the_wait_anew(fleet, crash_loop):
    victim = fleet()
    crash_loop(1, 28)
    assert victim.beat()
    crash_loop(1, 20)
    assert state(fleet, victim) == "live"


def test_a_server_that_was_restarted_meanwhile_starts_the_wait_anew(
    fleet, crash_loop, tmp_path
):
    victim = fleet()
    crash_loop(1, 28)
    (path,) = tmp_path.iterdir()
    left = json.loads(path.read_text())
    for change in ({"server": "another"}, {"started": left["started"] + 60}):
        path.write_text(json.dumps({**left, **change}))
        crash_loop(1, 4, pause=0)
        assert state(fleet, victim) == "live"
    path.write_text(json.dumps(left))


def test_the_judgement_of_a_successor_needs_its_predecessors_beats(
    fleet, crash_loop, tmp_path
):
    victim = fleet()
    crash_loop(1, 28)
    (path,) = tmp_path.iterdir()
    left = json.loads(path.read_text())
    path.write_text(json.dumps({**left, "beats": []}))
    crash_loop(1, 6)
    assert state(fleet, victim) == "live"


# --- the file -----------------------------------------------------------------

LEFT = Remembered("server", 5.0, {"engine": (7, 1.5, 2.5)}, [(1.0, 1.25)])


@pytest.fixture
def here():
    return dataclasses.replace(
        Identity.of_this_process(), boot_id="boot", namespaces="namespaces"
    )


def test_what_was_left_is_read(tmp_path, here):
    memory = Memory(str(tmp_path), "database", here)
    assert memory.load() is None
    memory.save(LEFT)
    assert Memory(str(tmp_path), "database", here).load() == LEFT
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("field", ["boot_id", "namespaces"])
def test_what_another_boot_left_is_not(tmp_path, here, field):
    Memory(str(tmp_path), "database", here).save(LEFT)
    for other in ("other", None):
        elsewhere = dataclasses.replace(here, **{field: other})
        assert Memory(str(tmp_path), "database", elsewhere).load() is None


def test_who_does_not_know_where_it_is_believes_nothing(tmp_path, here):
    nowhere = dataclasses.replace(here, namespaces=None)
    memory = Memory(str(tmp_path), "database", nowhere)
    memory.save(LEFT)
    assert memory.load() is None


def test_databases_are_kept_apart(tmp_path, here):
    Memory(str(tmp_path), "one", here).save(LEFT)
    assert Memory(str(tmp_path), "two", here).load() is None


BROKEN = ["", "{", "[]", "null", '{"stamp": 1}', '{"stamp": ["boot", "namespaces"]}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_written_anew(tmp_path, here, text):
    memory = Memory(str(tmp_path), "database", here)
    with open(memory.path, "w", encoding="utf-8") as file:
        file.write(text)
    assert memory.load() is None
    memory.save(LEFT)
    assert memory.load() == LEFT


def test_a_folder_that_cannot_be_written_is_told_once_and_costs_nothing(
    fleet, tmp_path, caplog
):
    folder = tmp_path / "file"
    folder.write_text("no folder")
    victim = fleet()
    observer = fleet(state_directory=str(folder))
    observer.turn()
    fleet.live(WAIT + 2, observer)
    assert state(fleet, victim) == "fenced"
    assert caplog.text.count("Observations are not kept") == 1
