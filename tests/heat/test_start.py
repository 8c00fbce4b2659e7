"""An engine's start: what runs it, and what does not stop it."""

from __future__ import annotations

import pytest

from tests.heat.lab import Lab
from tests.heat.templates import chain
from tests.proc import until

pytestmark = pytest.mark.parametrize("mode", ["liveness"])


def live(lab: Lab) -> list[tuple]:
    return lab.query("SELECT id FROM liveness_engine WHERE state = 'live'")


def log_of(lab: Lab) -> str:
    (master,) = lab.masters
    return lab.group.log(master.name).read_text(errors="replace")


def works(lab: Lab) -> bool:
    stack = lab.create_stack(chain(1), timeout_mins=2)
    return lab.wait_stack(stack, ended=True).state == "CREATE_COMPLETE"


@pytest.mark.long
def test_a_disabled_engine_is_a_stock_one(lab: Lab) -> None:
    lab.start_engines(masters=1, liveness__enabled=False)
    assert works(lab)
    (worker,) = lab.workers
    assert worker.engine_id not in str(live(lab))
    assert "liveness." not in log_of(lab)


@pytest.mark.long
def test_the_program_of_its_own_is_enabled_unasked(lab: Lab) -> None:
    lab.start_engines(masters=0, stock=True)  # a configuration without a word of it
    lab.fleet.venv = lab.venv
    lab.fleet.add(program="liveness-heat-engine")
    lab.wait_engines()
    (worker,) = lab.workers
    assert until(lambda: worker.engine_id in str(live(lab)), 20)
    assert works(lab)


def test_without_its_tables_heat_goes_on_and_liveness_starts_when_they_come(
    lab: Lab,
) -> None:
    lab.start_engines(masters=0)
    lab.query("RENAME TABLE liveness_alembic_version TO hidden_version")
    try:
        lab.fleet.add()
        lab.wait_engines()
        assert works(lab)
        assert "LIVENESS IS NOT ACTIVE" in log_of(lab)
    finally:
        lab.query("RENAME TABLE hidden_version TO liveness_alembic_version")
    (worker,) = lab.workers
    assert until(lambda: worker.engine_id in str(live(lab)), 40)
    assert works(lab)


@pytest.mark.long
def test_a_configuration_that_cannot_work_does_not_stop_heat(lab: Lab) -> None:
    lab.start_engines(masters=1, liveness__ttl=1, liveness__beat_interval=5)
    assert works(lab)
    assert "LIVENESS IS NOT ACTIVE" in log_of(lab)
