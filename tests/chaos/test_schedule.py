"""The faults of a run are a function of its seed, and of nothing else."""

from __future__ import annotations

import subprocess
import sys

from tests.chaos import engine_faults, link_faults
from tests.chaos.faults import DATABASE, Do, Fault, Kind
from tests.chaos.mutants import MUTANTS
from tests.chaos.nemesis import Nemesis, schedule
from tests.chaos.profile import USUAL
from tests.chaos.slots import ROOT

TTL = 3.0


def kinds() -> dict[str, Kind]:
    found = {**engine_faults.kinds([]), **link_faults.kinds([None] * 4)}  # type: ignore[list-item]
    found["restart"] = Kind(DATABASE, 3, 0.0, 1.0, lambda fault, rng: Do(int))
    return USUAL.kinds(found)


def test_the_same_seed_gives_the_same_faults():
    first = schedule(7, 120, 4, kinds(), TTL)
    assert first == schedule(7, 120, 4, kinds(), TTL)
    assert first != schedule(8, 120, 4, kinds(), TTL)
    assert len(first) > 50


def test_the_same_seed_gives_the_same_faults_in_another_process():
    text = "from tests.chaos.test_schedule import *;print(schedule(7,60,4,kinds(),TTL))"
    command = [sys.executable, "-c", text]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(schedule(7, 60, 4, kinds(), TTL))


def test_one_thing_at_a_time_happens_to_one_thing():
    every = kinds()
    over: dict = {}
    for fault in schedule(3, 600, 4, every, TTL):
        about = every[fault.kind].about
        assert (fault.slot is None) == (about == DATABASE)
        assert fault.at >= over.get((about, fault.slot), 0.0), fault
        over[(about, fault.slot)] = fault.at + fault.seconds
        assert fault.at + fault.seconds <= 600.001, fault


def test_every_kind_comes():
    every = kinds()
    faults = [f for seed in range(5) for f in schedule(seed, 600, 4, every, TTL)]
    assert {fault.kind for fault in faults} == set(every)


def test_a_profile_says_what_comes():
    profile = MUTANTS["trust-counted-from-the-answer"].profile
    faults = schedule(1, 300, 3, profile.kinds(kinds()), TTL, profile.pace)
    assert {fault.kind for fault in faults} == {"slow, then stalled"}


def test_what_begins_is_healed_even_if_it_failed():
    did = []

    def make(fault: Fault, rng: object) -> Do:
        def begin() -> None:
            did.append("begin")
            raise OSError

        return Do(begin, lambda: did.append("heal"))

    nemesis = Nemesis(1, {"x": Kind(DATABASE, 1, 0, 0, make)})
    nemesis.run([Fault(0, 0.0, "x", None, 0.0)], 0.0)
    assert did == ["begin", "heal"]
    assert nemesis.failed == {"x": 1}
    assert not nemesis.done
