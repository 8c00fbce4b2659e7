"""Rules of the wrappers and of the table of recoveries; without servers."""

from __future__ import annotations

import contextlib
import types
import unittest
from typing import Any
from unittest import mock

from heat.engine import resource

from liveness.heat import engine, hooks, table, timers, when
from liveness.heat.peers import Life

UPDATE = {"status": "IN_PROGRESS", "convergence": True, "current_traversal": "new"}


class Engine:
    """As much of a HeatEngine as a wrapper looks at."""

    engine_id, host = "me", "here"

    def __init__(self, over: bool = False, life: Life = Life.UNKNOWN) -> None:
        self.over = over
        self.peers = types.SimpleNamespace(life=lambda engine_id: life)
        self.dead_locks: list[int] = []
        self.guarded: list[Any] = []
        self.guards = types.SimpleNamespace(guard=self._guard)

    @contextlib.contextmanager
    def _guard(self, kind: str, what: Any) -> Any:
        self.guarded.append((kind, what))
        yield

    def dead_lock(self, resource_id: int) -> bool:
        return resource_id in self.dead_locks


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.addCleanup(setattr, engine, "_current", None)

    def be(self, current: Engine | None) -> Engine | None:
        engine._current = current  # type: ignore[assignment]
        return current

    def original(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append(args)
        return "heat's own"


class Fence(Case):
    rsrc = types.SimpleNamespace(name="r", id=7)

    def test_a_fenced_engine_writes_no_physical_id(self) -> None:
        self.be(Engine(over=True))
        hooks.write_physical_id(self.original, self.rsrc, "made")
        self.assertEqual(self.calls, [])

    def test_a_trusted_one_and_a_stock_one_do(self) -> None:
        for current in (Engine(), None):
            self.be(current)
            hooks.write_physical_id(self.original, self.rsrc, "made")
        self.assertEqual(self.calls, [(self.rsrc, "made")] * 2)

    def test_a_fenced_engine_runs_no_action(self) -> None:
        self.be(Engine(over=True))
        hooks.run_action(self.original, object(), object())
        self.assertEqual(self.calls, [])


class Ping(Case):
    client = types.SimpleNamespace(liveness_engine_id="other")

    def ask(self, life: Life) -> Any:
        self.be(Engine(life=life))
        return hooks.is_alive(self.original, self.client, None)

    def test_the_table_answers_where_it_knows(self) -> None:
        self.assertIs(self.ask(Life.ALIVE), True)
        self.assertIs(self.ask(Life.DEAD), False)
        self.assertEqual(self.calls, [])

    def test_heat_is_asked_about_engines_that_it_does_not_know(self) -> None:
        self.assertEqual(self.ask(Life.UNKNOWN), "heat's own")

    def test_a_dead_lock_of_ours_is_not_stolen(self) -> None:
        current = Engine()
        self.be(current)
        current.dead_locks = [7]
        for resource_id, answer in ((7, False), (8, "heat's own")):
            rsrc = types.SimpleNamespace(id=resource_id)
            found = hooks.lock_is_stale(self.original, None, None, rsrc, "template")
            self.assertEqual(found, answer)


class Actions(Case):
    def check(
        self,
        service: Any,
        cnxt: Any,
        resource_id: Any,
        current_traversal: str,
        data: Any,
        is_update: bool,
        adopt_stack_data: Any,
        node_type: str = "resource",
        abandon: bool = False,
    ) -> str:
        self.calls.append((resource_id, abandon))
        return "done"

    def test_an_action_is_written_down_before_it_runs_with_its_flags(self) -> None:
        current = Engine()
        self.be(current)
        done = hooks.run_action(
            self.check,
            object(),
            object(),
            resource_id=5,
            current_traversal="t",
            data={"secret": "word"},
            is_update=False,
            adopt_stack_data={"secret": "word"},
            abandon=True,
        )
        self.assertEqual((done, self.calls), ("done", [(5, True)]))
        ((kind, action),) = current.guarded
        self.assertEqual((kind, action.resource), ("resource_action", 5))
        self.assertIs(action.abandon, True)
        self.assertIs(action.adopt, True)
        self.assertNotIn("word", str(action.dump()))

    def test_a_stock_engine_runs_it_as_it_is(self) -> None:
        self.be(None)
        hooks.run_action(self.check, 0, 0, 5, "t", {}, True, None)
        self.assertEqual(self.calls, [(5, False)])


class Timers(Case):
    def update(self, values: dict[str, Any], before: str | None) -> list[str]:
        """What is done about timers when a stack's row is written so."""
        done: list[str] = []
        self.be(Engine())

        def arm(engine: Any, stack: str, values: Any) -> None:
            done.append(f"arm {values['current_traversal']}")

        def disarm(engine: Any, stack: str, traversal: str) -> None:
            done.append(f"disarm {traversal}")

        with (
            mock.patch.object(timers, "_arm", arm),
            mock.patch.object(timers, "_disarm", disarm),
        ):
            timers.updated(lambda *a, **k: True, None, "stack", values, before)
        return done

    def test_a_traversal_that_begins_is_armed_and_the_one_before_disarmed(self):
        self.assertEqual(self.update(UPDATE, "old"), ["arm new", "disarm old"])

    def test_the_same_traversal_written_again_is_not(self) -> None:
        self.assertEqual(self.update(UPDATE, "new"), [])

    def test_a_traversal_that_ends_is_disarmed(self) -> None:
        for status in ("COMPLETE", "FAILED"):
            values = {"action": "UPDATE", "status": status}
            self.assertEqual(self.update(values, "old"), ["disarm old"])

    def test_a_delete_that_is_complete_is_not_over_yet(self) -> None:
        values = {"action": "DELETE", "status": "COMPLETE"}
        self.assertEqual(self.update(values, "old"), [])
        values["status"] = "FAILED"
        self.assertEqual(self.update(values, "old"), ["disarm old"])

    def test_a_cancelled_traversal_is_disarmed(self) -> None:
        self.assertEqual(self.update({"current_traversal": "x"}, "old"), ["disarm old"])

    def test_a_write_without_a_traversal_is_nothing(self) -> None:
        self.assertEqual(self.update(UPDATE, None), [])
        self.assertEqual(self.update({"tags": []}, "old"), [])

    def test_legacy_stacks_have_no_timer(self) -> None:
        values = {**UPDATE, "convergence": False}
        self.assertEqual(self.update(values, "old"), ["disarm old"])

    def test_a_write_that_did_not_count_changes_nothing(self) -> None:
        self.be(Engine())
        timers.updated(lambda *a, **k: False, None, "stack", UPDATE, "old")


class Table(unittest.TestCase):
    def test_every_action_in_progress_has_an_answer(self) -> None:
        known = {
            line.action
            for line in table.TABLE
            if line.status == "IN_PROGRESS" and line.condition is when.always
        }
        actions = set(resource.Resource.ACTIONS) - {"INIT"}
        # Rows are never in these: a rollback or a restore updates and deletes them.
        without = {"ROLLBACK", "RESTORE", "DELETE_SNAPSHOT"}
        self.assertEqual(actions - without, known - without)

    def test_what_is_wrapped_exists_and_takes_what_it_is_given(self) -> None:
        with mock.patch.object(hooks, "_wrap") as wrap:
            hooks.install()
        for call in wrap.call_args_list:
            owner, name, _ = call.args
            self.assertTrue(callable(getattr(owner, name)), name)
