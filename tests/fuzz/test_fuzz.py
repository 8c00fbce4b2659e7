"""Hypothesis looks for the input that nobody thought of; some seconds of each here,
``LIVENESS_FUZZ=100`` times as many, or ``make fuzz`` with the coverage to guide it."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.clock import SettableClock
from tests.fleet import Driven, Recorder
from tests.fuzz import hostile, properties

MORE = int(os.environ.get("LIVENESS_FUZZ", "1"))

pytestmark = pytest.mark.timeout(120 * MORE)


def some(number: int):
    """So many examples; on a busy machine they take their time."""
    return settings(
        max_examples=number * MORE,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.fixture
def driven(synced):
    made = Driven(synced, SettableClock(), (Recorder(),), payload_limit=1 << 20)
    yield made
    made.abandon()


@given(data=hostile.FILES)
@some(20)
def test_any_file_is_a_configuration_or_refused_in_one_line(data):
    properties.a_file_is_read_or_refused(data)


@given(name=hostile.NAMES, value=hostile.VALUES)
@some(150)
def test_any_value_of_an_option_is_taken_or_refused(name, value):
    properties.an_option_is_taken_or_refused(name, value)


@given(payload=hostile.PYTHON)
@some(60)
def test_any_payload_comes_back_as_it_was_or_is_refused(driven, payload):
    properties.a_payload_comes_back_or_is_refused(driven, payload)


@given(text=hostile.RAW)
@example(text=json.dumps("x" * (16 << 20)))
@example(text='{"a":' * 100_000)
@some(150)
def test_any_text_is_a_payload_or_a_problem(text):
    properties.a_text_is_a_payload_or_a_problem(text)


@pytest.fixture(scope="module")
def some_rows(tmp_path_factory):
    return properties.fresh(tmp_path_factory.mktemp("fuzz"))


def test_any_command_line_ends_with_a_code_that_means_something(some_rows):
    @given(argv=hostile.command_lines(some_rows))
    @some(60)
    def search(argv):
        properties.a_command_ends_well("liveness-manage", argv)
        properties.a_command_ends_well("liveness-audit", argv[1:])

    search()


def test_among_any_rows_an_engine_goes_on_and_executes_nothing(schema_url):
    @given(written=hostile.WRITTEN)
    @some(6)
    def search(written):
        properties.an_engine_goes_on(schema_url, written)

    search()
