"""Runs the tests of the folder ``inside``, which need Heat in their process."""

from __future__ import annotations

from concurrent.futures import Future


def test_inside_a_process_with_heat(inside: Future[tuple[int, str]]) -> None:
    code, said = inside.result()
    print(said)
    assert code == 0, said[-6000:]
