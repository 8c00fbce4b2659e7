"""What of liveness.heat needs no Heat: payloads, keys, options, rates."""

import bisect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from liveness.db.tables import KEY_LENGTH, KIND_LENGTH
from liveness.heat import conf, names
from liveness.heat.rate import Limiter

ACTION = names.Action(
    resource=2**31,
    traversal="f" * 36,
    is_update=False,
    abandon=True,
    adopt=True,
    engine="e" * 36,
    host="host",
    found=True,
)
TIMER = names.Timer(stack="s" * 36, traversal="t" * 36, action="DELETE", abandon=True)


@pytest.mark.parametrize("value", [ACTION, TIMER], ids=["action", "timer"])
def test_a_payload_comes_back_as_it_was(value):
    assert type(value).load(json.loads(json.dumps(value.dump()))) == value


def test_a_payload_holds_only_ids_and_flags():
    for value in ACTION.dump().values():
        assert isinstance(value, (int, str, bool))


def test_not_abandoned_is_not_unknown():
    """Unknown may not be deleted, known may."""
    for abandon in (True, False, None):
        action = names.Action(1, "t", False, abandon=abandon)
        assert names.Action.load(action.dump()).abandon is abandon


def test_fields_of_a_later_release_are_left_out():
    assert names.Timer.load({**TIMER.dump(), "colour": "blue"}) == TIMER


@pytest.mark.parametrize(
    "payload", [None, [], "x", {}, {"traversal": "t"}, {"resource": 1}]
)
def test_what_is_no_payload_is_refused(payload):
    with pytest.raises(ValueError):
        names.Action.load(payload)


def test_keys_and_kinds_fit_their_columns():
    for kind in (names.ACTION, names.TIMER, names.RETRIGGER):
        assert len(kind) <= KIND_LENGTH
    snapshot = names.Action("5" * 36, "f" * 36, False, node_type="snapshot")
    for action in (ACTION, snapshot):
        for key in (action.new_key(), action.found_key, action.attempt_key(1000)):
            assert len(key) <= KEY_LENGTH
    assert len(TIMER.key) <= KEY_LENGTH


def test_two_runs_of_a_node_have_two_keys_and_the_scan_has_one():
    assert ACTION.new_key() != ACTION.new_key()
    assert ACTION.found_key == ACTION.found_key
    update = names.Action(ACTION.resource, ACTION.traversal, True)
    assert update.found_key != ACTION.found_key


# --- options ----------------------------------------------------------------


def test_options_and_settings_have_the_same_names_and_defaults():
    config = cfg.ConfigOpts()
    conf.register_opts(config)
    conf.register_opts(config)  # twice does no harm
    config([], default_config_files=[], default_config_dirs=[])
    assert conf.HeatSettings.from_conf(config) == conf.HeatSettings()


def test_it_is_off_unless_it_is_asked_for():
    assert conf.HeatSettings().enabled is False


# --- rates -------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def limiter(self, rate, each, engines=lambda: 1):
        return Limiter(rate, each, engines, monotonic=lambda: self.now)


def densest(moments, seconds):
    """The most of ``moments`` that lie within so many seconds, the end left out."""
    moments = sorted(moments)
    return max(
        bisect.bisect_left(moments, first + seconds - 1e-6) - place
        for place, first in enumerate(moments)
    )


def test_the_first_of_each_project_need_not_wait():
    limiter = Clock().limiter(1000, 1)
    assert limiter.seconds("a") == 0
    assert limiter.seconds("b") == pytest.approx(0.001)


def test_no_two_of_a_project_are_denser_than_its_rate():
    limiter = Clock().limiter(1000, 4)
    moments = [limiter.seconds("a") for _ in range(9)]
    gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
    assert min(gaps) >= 0.25 - 1e-9
    assert moments[-1] == pytest.approx(2.0)


def test_all_projects_together_keep_to_the_rate_of_all():
    limiter = Clock().limiter(10, 10)
    moments = sorted(limiter.seconds(f"p{i}") for i in range(21))
    assert moments[-1] == pytest.approx(2.0)


def test_a_project_that_waits_for_its_own_turn_holds_up_no_other():
    limiter = Clock().limiter(10, 1)
    assert limiter.seconds("a") == 0
    assert limiter.seconds("a") == pytest.approx(1.0)
    assert limiter.seconds("b") == pytest.approx(0.1)


def test_projects_that_come_one_after_another_do_not_meet_later():
    """Each of three keeps to its own rate, and all together are more than the rate."""
    limiter = Clock().limiter(10, 4)
    moments = [limiter.seconds(project) for project in "abc" for _ in range(10)]
    assert densest(moments, 1.0) <= 10


def test_each_engine_of_a_fleet_takes_its_share():
    limiter = Clock().limiter(10, 2, engines=lambda: 4)
    assert [limiter.seconds("a") for _ in range(3)] == pytest.approx([0, 2, 4])
    assert limiter.seconds("b") == pytest.approx(0.4)


@given(
    engines=st.integers(1, 12),
    rate=st.integers(1, 50),
    each=st.integers(1, 50),
    asked=st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from("abc"), st.integers(0, 400)),
        max_size=60,
    ),
    seconds=st.integers(1, 20),
)
def test_whoever_asks_for_what_a_steady_fleet_keeps_to_the_limits(
    engines, rate, each, asked, seconds
):
    """``asked``: by which engine, for which project, how many hundredths after the
    last. In any time no more than the limit lets through, and the first of each."""
    clock = Clock()
    fleet = [clock.limiter(rate, each, lambda: engines) for _ in range(engines)]
    moments = {project: [] for project in "abc"}
    for number, project, later in asked:
        clock.now += later / 100
        moment = clock.now + fleet[number % engines].seconds(project)
        moments[project].append(moment)
    together = sum(moments.values(), [])
    for limit, of in [(rate, together), *((each, m) for m in moments.values())]:
        if of:
            assert densest(of, seconds) <= limit * seconds + engines


@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=40),
    rate=st.integers(1, 20),
)
def test_while_the_fleet_grows_and_shrinks_an_engine_keeps_to_what_it_sees(sizes, rate):
    """No two of its moments are denser than the smallest share lets."""
    seen = iter(sizes)
    limiter = Limiter(rate, 1000, lambda: next(seen), monotonic=lambda: 0.0)
    moments = [limiter.seconds("a") for _ in sizes]
    for size, before, after in zip(sizes[1:], moments, moments[1:], strict=False):
        assert after - before >= size / rate - 1e-9


def test_time_that_has_passed_is_not_saved_up():
    clock = Clock()
    limiter = clock.limiter(10, 10)
    limiter.seconds("a")
    clock.now += 60
    assert [limiter.seconds("a") for _ in range(3)] == pytest.approx([0, 0.1, 0.2])


def test_whoever_waits_does_so_a_little_longer_than_needed():
    slept = []
    limiter = Limiter(10, 10, sleep=slept.append, monotonic=lambda: 0.0)
    limiter.wait("a")
    limiter.wait("a")
    (seconds,) = slept
    assert 0.1 <= seconds <= 0.2
