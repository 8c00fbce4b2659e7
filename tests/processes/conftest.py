"""A crew of processes on a database, for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes.crew import Crew, crew_on


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """SQLite, where a test does not ask for others by ``on(...)``."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def crew(schema_url: str, tmp_path) -> Iterator[Crew]:
    with crew_on(schema_url, tmp_path / "crew") as made:
        yield made


def on(*backends: str) -> pytest.MarkDecorator:
    """Run a test on these databases."""
    return pytest.mark.parametrize("backend", backends, indirect=True)
