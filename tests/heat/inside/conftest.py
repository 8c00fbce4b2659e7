"""Tests that need Heat in their own process, on a MariaDB with Heat's schema."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from unittest import mock

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
    from heat.engine import resources

    resources.initialise()


@pytest.fixture
def casts() -> Iterator[object]:
    """The messages that are sent. (There is no queue here, and no keystone, which is
    asked when somebody is to be notified.)"""
    from heat.common import messaging

    messaging.setup("fake://")
    with (
        mock.patch("heat.rpc.worker_client.WorkerClient.check_resource") as cast,
        mock.patch("heat.engine.notification.stack.send"),
    ):
        yield cast
    messaging.cleanup()


@pytest.fixture
def abandoning(heat_database: None) -> Iterator[None]:
    """Users may abandon stacks."""
    from oslo_config import cfg

    cfg.CONF.set_override("enable_stack_abandon", True)
    yield
    cfg.CONF.clear_override("enable_stack_abandon")


@pytest.fixture
def made(stacks: object) -> object:
    """The same, for tests that need the other word."""
    return stacks


@pytest.fixture
def stacks(heat_database: None) -> Iterator[object]:
    from tests.heat.inside.stacks import Stacks

    made = Stacks()
    made.clear()
    yield made
    made.clear()
