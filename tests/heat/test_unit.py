"""What compares the runs of Heat's own tests must itself see a difference."""

from __future__ import annotations

from tests.heat.unit import Result, Variant, differences, misplaced


def result(name: str, plugin: str = "absent", **tests: str) -> Result:
    variant = Variant(name, [], False, "absent")
    return Result(variant, plugin, {k: (v, "") for k, v in tests.items()}, 1.0)


def test_equal_runs_do_not_differ():
    runs = [result("one", a="ok", b="failed"), result("two", a="ok", b="failed")]
    assert list(differences(runs)) == []
    assert list(misplaced(runs)) == []


def test_a_test_that_ends_otherwise_is_a_difference():
    [line] = differences([result("one", a="ok"), result("two", a="failed")])
    assert "ok when one, failed when two" in line


def test_a_test_that_is_missing_or_new_is_a_difference():
    assert len(list(differences([result("one", a="ok"), result("two")]))) == 1
    assert len(list(differences([result("one"), result("two", a="ok")]))) == 1


def test_a_run_without_the_plugin_it_was_to_have_does_not_count():
    assert list(misplaced([result("one", plugin="idle", a="ok")]))
    assert list(misplaced([result("one")]))
