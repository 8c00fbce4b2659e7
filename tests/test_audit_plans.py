"""The audit, and one look of top, cost the same on 120,000 deadlines as on a few."""

from __future__ import annotations

import pytest

from liveness import Settings
from liveness.audit import MOST, Audit
from liveness.cmd import glance
from liveness.db.report import COUNTED
from tests.store.plans import Explainer
from tests.store.test_plans import DEADLINE, STATES, Table


@pytest.fixture(scope="module")
def _filled(_obtain):
    made = {}
    yield made
    for table in made.values():
        table.close()


STATISTICS = [
    (backend, state) for backend in ("mariadb", "postgresql") for state in (2, 3)
]


@pytest.fixture(params=STATISTICS, ids=lambda p: f"{p[0]}-{STATES[p[1]]}")
def store(request, _obtain, _filled):
    backend, state = request.param
    if backend not in _filled:
        _filled[backend] = Table(_obtain(backend))
    _filled[backend].reach(state)
    return _filled[backend].store


@pytest.fixture
def plan(store):
    return Explainer(store)


CHECKS = ["_engines", "_orphaned", "_overdue", "_claimed", "_parked", "_unknown"]


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_reads_no_more_than_it_may(store, plan, check):
    audit = Audit(store.clock, Settings(), ["timer"])
    plan.run(lambda c: list(getattr(audit, check)(c)))
    assert not any(access.whole for access in plan.of(DEADLINE)), plan
    # Each row is read with its owner's, and MariaDB counts it by index and by key.
    assert plan.rows_read <= 8 * MOST, plan


def test_one_look_of_top_counts_no_further_than_it_says(store, plan):
    """Nor does the page, which looks in the same way."""
    plan.run(lambda c: glance.fleet(c, Settings()))
    assert not any(access.whole for access in plan.of(DEADLINE)), plan
    assert plan.rows_read <= 4 * 2 * COUNTED, plan
