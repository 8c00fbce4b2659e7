"""A crew of processes on a database, for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes.crew import ROOT, Crew, crew_on
from tests.processes.zygote import Zygote


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """SQLite, where a test does not ask for others by ``on(...)``."""
    return getattr(request, "param", "sqlite")


@pytest.fixture(scope="package")
def zygote() -> Iterator[Zygote]:
    made = Zygote(str(ROOT))
    yield made
    made.close()


@pytest.fixture
def crew(schema_url: str, tmp_path, zygote: Zygote) -> Iterator[Crew]:
    with crew_on(schema_url, tmp_path / "crew", zygote) as made:
        yield made


def on(*backends: str) -> pytest.MarkDecorator:
    """Run a test on these databases."""
    return pytest.mark.parametrize("backend", backends, indirect=True)
