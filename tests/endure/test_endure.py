"""The runs of this package in small: seconds, and a handful of engines. What they are
for takes long: ``make endure``."""

from __future__ import annotations

import pytest

from tests.endure import __main__ as endure
from tests.endure.report import Tell, text, verdict
from tests.endure.stage import Given

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def backend() -> str:
    return "mariadb"


def perform(what, server, backend, ttl=3.0, **values):
    options = {"ttl": ttl, **endure.scaled(ttl)}
    given = Given(database=backend, options=options, rate=3.0, every=1.0, **values)
    result = endure.perform(what, given, Tell(quiet=True), server)
    assert "holds" in verdict(result), text(result)
    assert not result["problems"]
    return result


def test_a_few_engines_around_a_stock(server, backend):
    result = perform("long", server, backend, engines=2, deadlines=200, seconds=3.0)
    assert result["operations"]["armed"]
    names = {series["name"] for series in result["series"]}
    assert {"rss of p2", "bytes of liveness_event", "connections at the server"} < names


def test_an_outage_of_two_leases_and_two_deaths(server, backend):
    small = {"engines": 3, "deadlines": 30, "seconds": 4.0, "after": 1.0, "ttl": 2.0}
    result = perform("outage", server, backend, **small)
    assert "is gone" in result["deaths"]["killed"]
    assert "silent" in result["deaths"]["stopped"]
