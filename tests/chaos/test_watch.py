"""What is watched does what it did, and what it was asked is written down."""

from __future__ import annotations

import os

import pytest

from liveness.db.arming import NewDeadline
from tests.chaos import history, watch


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The lines of a history of this test's."""
    monkeypatch.setattr(history, "_always", {})
    monkeypatch.setattr(history, "_file", None)
    history.begin(str(tmp_path / "here.jsonl"))
    yield lambda: list(history.read(tmp_path))
    os.close(history._file)


@pytest.mark.parametrize("many", [False, True])
def test_an_arm_is_written_down_and_done(written, many: bool):
    new = NewDeadline("timer", "k", "me", 1.0, 5, None, 7)
    assert watch._arming(lambda: "armed", [new] if many else new) == "armed"
    (line,) = written()
    assert (line["engine"], line["tokens"]) == ("me", [7])
