"""The simulated fleet: the program's own engines on simulated time."""

import pytest

from bench.scaling.costs import Costs
from bench.scaling.scenarios import Case, run
from bench.scaling.server import Topology

COSTS = Costs(
    beat=1e-4,
    observe=1e-4,
    observe_row=3e-6,
    find=3e-4,
    find_row=3e-6,
    claim=2e-4,
    claim_row=3e-5,
    complete=1e-4,
    complete_row=2e-5,
    adopt=2e-4,
    adopt_row=4e-5,
    fence=1e-4,
    look=1e-4,
    owners_row=2e-5,
)
ONE, GALERA = Topology(), Topology(nodes=3)
EVERY = Topology(nodes=3, written=3)


def simulated(*args, **options):
    return run(Case(*args, **options), COSTS, lambda text: None)


def test_the_same_seed_tells_the_same_story():
    first, second = (simulated(10, 5_000, GALERA, seconds=10.0) for _ in range(2))
    assert first == second
    assert simulated(10, 5_000, GALERA, seconds=10.0, seed=2) != first


@pytest.mark.parametrize("topology", [ONE, GALERA, EVERY], ids=str)
def test_the_dead_are_known_after_their_lease_and_all_they_had_is_taken_over(topology):
    outcome = simulated(20, 4_000, topology, killed=0.1, seconds=60.0)
    last_beat = 1.2 * 5  # seconds before the death, at most
    assert 30 - last_beat < outcome.detected_seconds < 40
    assert outcome.recovered_seconds >= outcome.detected_seconds
    assert outcome.orphans_left == 0
    assert outcome.wrongly_fenced == 0


def test_a_stall_longer_than_the_lease_suspends_all_and_fences_nobody():
    outcome = simulated(20, 4_000, ONE, stall=50.0, seconds=100.0)
    assert outcome.suspended == 20
    assert outcome.wrongly_fenced == 0


def test_a_server_at_its_limit_shows_it():
    # Of more than a hundred not all would be on duty.
    easy = simulated(10, 10_000, Topology(cores=1), seconds=10.0)
    hard = simulated(100, 100_000, Topology(cores=1), seconds=10.0)
    assert hard.cpu > 8 * easy.cpu
    assert hard.handled > 5 * easy.handled
    assert hard.beat_p99 > easy.beat_p99
