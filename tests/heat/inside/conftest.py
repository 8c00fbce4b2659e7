"""Tests that need Heat in their own process, on a MariaDB with Heat's schema."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

URL = "LIVENESS_HEAT_URL"

if importlib.util.find_spec("heat") is None or URL not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ[URL]


@pytest.fixture(scope="session")
def heat_database(url: str) -> None:
    from heat.common import config  # noqa: F401  # its options
    from oslo_config import cfg

    cfg.CONF([], project="heat", default_config_files=[])
    cfg.CONF.set_override("connection", url, group="database")


@pytest.fixture
def stacks(heat_database: None) -> Iterator[object]:
    from tests.heat.inside.stacks import Stacks

    made = Stacks()
    made.clear()
    yield made
    made.clear()
