"""Metrics and /healthz: what they say, and that they tell the truth."""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from liveness import Liveness, Settings, exceptions, metrics
from liveness.conf import listening_address
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder

ROOT = Path(__file__).parent.parent


class StillClock(SettableClock):
    def host_now(self):
        return self.utc


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def engine(schema_url, clock):
    yield from _answering(schema_url, clock)


@pytest.fixture
def lite(synced, clock):
    yield from _answering(synced, clock)


def _answering(url, clock):
    """An engine that is driven by hand, and its endpoint."""
    kinds = Recorder("timer"), Recorder("action", when_orphaned="retrigger")
    driven = Driven(
        url, clock, kinds, "me", machine="here", metrics_listen="127.0.0.1:0"
    )
    parts = driven.parts
    parts._endpoint = parts._endpoint_of(driven.live.settings)
    parts._endpoint.start()
    driven.port = parts._endpoint.port
    yield driven
    driven.abandon()


def get(port, path="/metrics", method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def samples(engine):
    status, text = get(engine.port)
    assert status == 200
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def health(engine):
    status, text = get(engine.port, "/healthz")
    return status, json.loads(text).get("problem", "")


# --- metrics --------------------------------------------------------------------------


def a_life(engine, clock):
    """Own and foreign deadlines, good and bad, of a neighbour that dies."""
    url = engine.live.settings.connection
    recorder = engine.live.handlers.get("timer")
    neighbour = Driven(url, clock, (recorder, Recorder("action")), machine="there")
    neighbour.live.arm("action", "theirs", due_in=600)
    engine.turn()
    engine.live.arm("timer", "mine", due_in=2)
    recorder.answer = lambda d: (_ for _ in ()).throw(ValueError(d.key))
    clock.advance(2.5)
    engine.beat_and_count()
    engine.turn()
    engine.settle()
    for _ in range(9):
        clock.advance(5)
        engine.beat_and_count()
        engine.turn()
    engine.settle()
    neighbour.abandon()


@pytest.fixture
def beating(engine):
    return _beating(engine)


def _beating(engine):
    """One step of the heart, as its thread does it."""
    engine.beat_and_count = engine.parts.heart._step
    return engine


def test_everything_that_happens_is_counted(beating, clock):
    a_life(beating, clock)
    found = samples(beating)

    def value(name, **labels):
        return found[name, *sorted(labels.items())]

    assert value("liveness_beats_total", result="committed") == 10
    assert value("liveness_beat_seconds_count") == 10
    assert value("liveness_sweep_seconds_count") >= 10
    assert value("liveness_swept_total", did="fenced") == 1
    assert value("liveness_detection_seconds_count") == 1
    assert 30 < value("liveness_detection_seconds_sum") < 50
    assert value("liveness_takeovers_total", kind="action", how="orphans") == 1
    assert value("liveness_fired_total", kind="timer") >= 1
    assert value("liveness_lateness_seconds_bucket", kind="timer", le="1.0") >= 1
    assert value("liveness_lateness_seconds_bucket", kind="timer", le="0.3") == 0
    assert value("liveness_handler_seconds_count", kind="action") == 1
    assert value("liveness_outcomes_total", kind="action", outcome="done") == 1
    assert value("liveness_outcomes_total", kind="timer", outcome="retry") >= 1
    assert value("liveness_attempts_count", kind="timer") >= 1
    assert value("liveness_trusted") == value("liveness_healthy") == 1
    assert value("liveness_lease_left_seconds") == 29
    assert value("liveness_clock_offset_seconds") == 0
    assert value("liveness_clock_jumps") == 0
    assert value("liveness_held") == 0
    assert value("liveness_pool_size", pool="owner") == 5
    assert value("liveness_pool_used", pool="sweep") == 0


def test_a_failed_beat_is_counted_as_one(lite, clock):
    _beating(lite)
    lite.parts.heart._connect = lambda: (_ for _ in ()).throw(OSError("gone"))
    lite.beat_and_count()
    found = samples(lite)
    assert found["liveness_beats_total", ("result", "failed")] == 1
    assert found["liveness_beats_total", ("result", "committed")] == 0


def test_kinds_that_others_invent_make_no_series(lite):
    values = [
        lite.live.arm("timer", "k", due_in=600)._replace(kind=f"kind-{n}")
        for n in range(1)
    ]
    lite.parts._endpoint.metrics._fire(values)
    found = samples(lite)
    assert found["liveness_fired_total", ("kind", "other")] == 1
    assert not any("kind-0" in str(key) for key in found)


def test_the_history_is_written_as_well(lite, clock):
    """Metrics listen beside it, not in its place."""
    from liveness.clock import Clock
    from liveness.db.events import EventLog, Sought

    _beating(lite)
    a_life(lite, clock)
    lite.turn()
    with lite.connect() as connection:
        found = {e.what for e in EventLog(Clock()).newest_first(connection, Sought())}
    assert {"fenced", "retriggered", "completed", "retried"} <= found


# --- health ---------------------------------------------------------------------------


def test_health_follows_the_lease(lite, clock):
    lite.turn()
    assert health(lite) == (200, "")
    clock.advance(28.999)
    lite.turn()
    assert health(lite) == (200, "")
    clock.advance(0.001)
    status, problem = health(lite)
    assert status == 503
    assert "suspended" in problem
    assert samples(lite)["liveness_trusted",] == 0
    assert lite.beat()
    assert health(lite) == (200, "")


def test_health_knows_a_fence(lite):
    with lite.connect() as connection:
        lite.parts.engines.fence(connection, lite.row(), None, "test")
    lite.beat()
    status, problem = health(lite)
    assert status == 503
    assert "fenced" in problem


def test_health_knows_that_an_engine_drains(lite):
    lite.parts.loop.draining = True
    status, problem = health(lite)
    assert status == 503
    assert "drains" in problem


def test_health_knows_that_the_sweep_hangs(lite, clock):
    lite.turn()
    for _ in range(6):
        clock.advance(5)
        lite.beat()
    assert health(lite)[0] == 200
    clock.advance(0.001)
    status, problem = health(lite)
    assert status == 503
    assert "has not come round" in problem


# --- the endpoint ---------------------------------------------------------------------


def test_nothing_listens_unless_it_is_asked_for(synced):
    live = Liveness(Settings.of(connection=synced))
    live.start()
    try:
        assert live._running._endpoint is None
    finally:
        live.stop()


def test_a_started_engine_answers_until_it_has_stopped(schema_url):
    live = Liveness(Settings.of(connection=schema_url, metrics_listen="127.0.0.1:0"))
    live.start()
    port = live._running._endpoint.port
    try:
        status, text = get(port, "/healthz")
        assert status == 200
        said = json.loads(text)
        assert (said["status"], said["engine"]) == ("ok", live.engine_id)
    finally:
        live.stop()
    with pytest.raises(ConnectionRefusedError):
        get(port, "/healthz")


def test_other_paths_and_methods_are_refused(lite):
    assert get(lite.port, "/")[0] == 404
    assert get(lite.port, "/healthz?x=1")[0] == 200
    assert get(lite.port, "/healthz", "HEAD") == (200, "")
    assert get(lite.port, "/metrics", "POST")[0] == 501


def test_a_client_that_says_nothing_holds_up_no_other(lite):
    with socket.create_connection(("127.0.0.1", lite.port)):
        assert get(lite.port, "/healthz")[0] in (200, 503)


def test_the_next_engine_takes_the_next_port(synced, lite):
    settings = Settings.of(connection=synced, metrics_listen=f"127.0.0.1:{lite.port}")
    other = Driven(synced)
    endpoint = other.parts._endpoint_of(settings)
    try:
        assert lite.port < endpoint.port < lite.port + metrics.PORTS
    finally:
        endpoint.close()
        other.abandon()


def test_a_port_that_cannot_be_had_is_one_line_and_nothing_was_started(
    synced, lite, monkeypatch
):
    monkeypatch.setattr(metrics, "PORTS", 1)
    for address in (f"127.0.0.1:{lite.port}", "192.0.2.1:9464"):
        live = Liveness(Settings.of(connection=synced, metrics_listen=address))
        with pytest.raises(exceptions.ConfigError, match="metrics_listen") as caught:
            live.start()
        assert "\n" not in str(caught.value)
    with lite.connect() as connection:
        assert [e.id for e in lite.parts.engines.all(connection)] == ["me"]


def test_without_its_package_it_says_what_to_install(synced, monkeypatch):
    monkeypatch.delitem(sys.modules, "liveness.metrics")
    monkeypatch.delattr("liveness.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    live = Liveness(Settings.of(connection=synced, metrics_listen="127.0.0.1:0"))
    with pytest.raises(exceptions.ConfigError, match=r"liveness\[metrics\]"):
        live.start()


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(text, means):
    assert listening_address(text) == means


@pytest.mark.parametrize(
    "text", ["9464", ":9464", "host:", "host:65536", "host:-1", "h:x"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(exceptions.ConfigError, match="metrics_listen"):
        Settings.of(metrics_listen=text)


# --- dashboards and alerts ------------------------------------------------------------

DASHBOARD = ROOT / "etc/grafana/liveness.json"
RULES = ROOT / "etc/prometheus/liveness.rules.yml"
# Of Prometheus itself, or of its way to look at us.
GIVEN = {"instance", "le"}


def queries():
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"], target["legendFormat"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            said = " ".join(rule["annotations"].values())
            yield f"alert {rule['alert']}", rule["expr"], said


def test_every_query_asks_for_what_is_there(lite, clock):
    _beating(lite)
    a_life(lite, clock)
    labels: dict[str, set[str]] = {}
    values: dict[tuple[str, str], set[str]] = {}
    for name, *pairs in samples(lite):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
        for label, value in pairs:
            values.setdefault((name, label), set()).add(value)
    asked = set()
    for where, query, legend in queries():
        names = set(re.findall(r"liveness_\w+", query))
        assert names, where
        for name in names:
            assert name in labels, f"{where}: there is no {name}"
            asked.add(name)
        for name, chosen in re.findall(r"(liveness_\w+)\{([^}]*)\}", query):
            for label, value in re.findall(r'(\w+)="([^"]*)"', chosen):
                assert value in values[name, label], f"{where}: {label}={value}"
        grouped = ", ".join(re.findall(r"by \(([^)]*)\)", query))
        shown = re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", legend)
        for label in {*filter(None, re.split(r",\s*", grouped)), *shown} - GIVEN:
            assert any(label in labels[name] for name in names), f"{where}: {label}"
        assert query.count("(") == query.count(")"), where
    families = {
        re.sub(r"_(total|bucket|sum|count|created|info)$", "", n) for n in labels
    }
    seen = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert families - seen == {"liveness_engine"}


def test_every_metric_is_in_the_documentation(lite, clock):
    _beating(lite)
    a_life(lite, clock)
    text = (ROOT / "doc/source/metrics.rst").read_text()
    for name, *_ in samples(lite):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if base.endswith("_created"):  # the library's own addition
            continue
        assert f"``{base}``" in text, name


def test_every_alert_has_a_severity_and_says_what_to_do():
    names = []
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            names.append(rule["alert"])
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert {"summary", "description"} == rule["annotations"].keys()
    assert len(names) == len(set(names))
