"""What comes to a handler: recovered, unless the operator has said otherwise; and what
Heat does is never held up by what cannot be written down."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from liveness import Deadline, Done, Liveness, Park, Rearm, Settings, exceptions
from liveness.heat import handlers, names, pause
from liveness.heat.conf import HeatSettings
from liveness.heat.guards import Guards
from liveness.heat.names import Action, SnapshotDelete, Timer
from tests.store.proxy import Proxy

DEAD = "dead-engine"
ACTION = Action(7, "t", True, engine=DEAD, host="h")
TIMER = Timer("s", "t", "UPDATE", engine=DEAD, host="h")
PART = SnapshotDelete("snap", "r", current_traversal="t")

KINDS = [
    pytest.param(handlers.ResourceAction, "orphaned", ACTION, id="action"),
    pytest.param(handlers.SnapshotAction, "expired", PART, id="snapshot"),
    pytest.param(handlers.StackTimer, "expired", TIMER, id="timer"),
    pytest.param(handlers.StackTimer, "orphaned", TIMER, id="timer's orphan"),
]


class Recovery:
    """Says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def action(self, action: Action) -> Done:
        self.asked.append(action)
        return Done()

    def stack(self, timer: Timer) -> None:
        self.asked.append(timer)

    def time_out(self, timer: Timer) -> Done:
        return Done()

    def time_left(self, stack: str) -> float:
        return 60.0


@pytest.fixture
def live(stacks: Any, url: str) -> Iterator[Liveness]:
    one = Liveness(Settings.of(connection=url, ttl=30.0))
    one.add_handler(handlers.ResourceAction(engine(one)))
    one.add_handler(pause.Pause)
    one.start()
    yield one
    one.stop(0)


def deadline(value: Any) -> Deadline:
    return SimpleNamespace(  # type: ignore[return-value]
        payload=value.dump(), orphaned=True, expired=False, kind="k", key="k"
    )


def engine(live: Liveness, mode: str = "act") -> Any:
    return SimpleNamespace(
        live=live,
        settings=HeatSettings(mode=mode),
        recovery=Recovery(),
        is_dead=lambda who: who == DEAD,
        engine_id="me",
    )


@pytest.mark.parametrize(("kind", "method", "value"), KINDS)
def test_in_mode_report_nothing_is_done_and_it_is_kept(
    live: Liveness, kind: Any, method: str, value: Any
) -> None:
    one = engine(live, mode="report")
    outcome = getattr(kind(one), method)(deadline(value))
    assert not one.recovery.asked
    if (kind, method) == (handlers.StackTimer, "orphaned"):
        assert outcome == Rearm(60.0 + one.settings.timer_grace)  # with the time left
    else:
        assert isinstance(outcome, Park)
        assert outcome.reason.startswith("report mode: would ")


@pytest.mark.parametrize(("kind", "method", "value"), KINDS)
def test_in_a_pause_nothing_is_done_and_it_waits(
    live: Liveness, kind: Any, method: str, value: Any
) -> None:
    one = engine(live)
    live.arm(pause.PAUSE, pause.KEY, due_in=600)
    handler = kind(one)
    assert getattr(handler, method)(deadline(value)) == Rearm(pause.LOOK_SECONDS)
    assert not one.recovery.asked
    if kind is not handlers.SnapshotAction:
        live.disarm(live.find(pause.PAUSE, pause.KEY))  # type: ignore[arg-type]
        getattr(handler, method)(deadline(value))
        assert one.recovery.asked == [value]


# --- what cannot be written down --------------------------------------------------


def test_with_the_database_away_heats_work_goes_on(stacks: Any, url: str) -> None:
    where = sa.make_url(url)
    with Proxy(str(where.host), int(where.port or 0)) as proxy:
        through = where.set(port=proxy.port).render_as_string(hide_password=False)
        one = Liveness(Settings.of(connection=through))
        one.add_handler(handlers.ResourceAction(engine(one)))
        one.start()
        guards = Guards(one, 0.0)
        proxy.close()
        done = []
        with guards.guard(names.ACTION, ACTION):
            done.append("work")
        assert done == ["work"]
        assert not len(guards)
        one.stop(0)


def test_what_was_never_started_holds_nobody_up(url: str) -> None:
    guards = Guards(Liveness(Settings.of(connection=url)), 0.0)
    with guards.guard(names.ACTION, ACTION):
        assert len(guards) == 1
    assert not len(guards)


def test_an_error_of_heats_own_is_heats_to_see(url: str) -> None:
    guards = Guards(Liveness(Settings.of(connection=url)), 0.0)
    with pytest.raises(ValueError, match="heat's"), guards.guard(names.ACTION, ACTION):
        raise ValueError("heat's")


def test_an_action_that_ended_in_an_error_is_left_to_a_handler_soon(
    live: Liveness,
) -> None:
    guards = Guards(live, 0.0)
    with pytest.raises(ValueError), guards.guard(names.ACTION, ACTION):
        [key] = guards._runs
        raise ValueError
    found = live.find(names.ACTION, key)
    assert found is not None
    live.disarm(found)


def test_an_action_that_ends_well_leaves_nothing(live: Liveness) -> None:
    guards = Guards(live, 0.0)
    with guards.guard(names.ACTION, ACTION):
        [key] = guards._runs
        assert live.find(names.ACTION, key) is not None
    assert live.find(names.ACTION, key) is None
    with pytest.raises(exceptions.UnknownKind):
        live.arm("other", "k", due_in=1)
