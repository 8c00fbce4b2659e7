"""Options: bounds, contradictions, where the connection comes from, the sample."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_config import types as cfg_types

from liveness import Liveness, Settings, exceptions
from liveness import conf as liveness_conf
from liveness.conf import GROUP, OPTIONS, mutated

ROOT = Path(__file__).parent.parent
NUMBERS = [opt for opt in OPTIONS if isinstance(opt.type, cfg_types.Number)]
SECONDS = [opt for opt in NUMBERS if not isinstance(opt.type, cfg_types.Integer)]


def conf_of(text="", *opts, tmp_path=None):
    conf = cfg.ConfigOpts()
    for group, option in opts:
        conf.register_opt(option, group=group)
    argv = []
    if tmp_path is not None:
        (tmp_path / "test.conf").write_text(text)
        argv = ["--config-file", str(tmp_path / "test.conf")]
    conf(argv, default_config_files=[], default_config_dirs=[])
    return conf


def refused(**values):
    with pytest.raises(exceptions.ConfigError) as caught:
        Settings.of(**values)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- one option -----------------------------------------------------------------


def test_settings_and_options_have_the_same_names_and_defaults():
    defaults = {opt.dest: opt.default for opt in OPTIONS}
    defaults["connection"] = liveness_conf.DEFAULT_CONNECTION
    assert dataclasses.asdict(Settings.of()) == defaults
    assert Settings() == Settings.of()


def test_every_option_says_what_it_does_and_every_number_its_unit_and_bounds():
    for opt in OPTIONS:
        assert len(opt.help or "") > 40, opt.name
    for opt in NUMBERS:
        assert opt.type.min is not None, opt.name
        assert opt.type.max is not None, opt.name
        assert opt.type.min <= opt.default <= opt.type.max, opt.name
        # The unit is among the first words; a plain count says of what.
        first = opt.help.split(".")[0]
        units = ("Seconds", "Rows", "Threads", "Claims", "Bytes", "connections")
        assert any(unit in first for unit in (*units, "fraction")), opt.name


def test_only_the_connection_is_a_secret():
    assert [opt.name for opt in OPTIONS if opt.secret] == ["connection"]


def test_an_option_of_seconds_is_one():
    for opt in SECONDS:
        if opt.name != "clock_drift":
            assert opt.help.startswith("Seconds"), opt.name


@pytest.mark.parametrize("opt", NUMBERS, ids=lambda opt: opt.name)
@pytest.mark.parametrize("end", ["min", "max"])
def test_the_bound_itself_is_good_and_just_beyond_is_not(opt, end):
    whole = isinstance(opt.type, cfg_types.Integer)
    bound = getattr(opt.type, end)
    sign = -1 if end == "min" else 1
    beyond = bound + sign if whole else math.nextafter(bound, sign * math.inf)
    # Through the option alone: what else it contradicts is for the tests below.
    conf = conf_of()
    liveness_conf.register_opts(conf)
    conf.set_override(opt.name, bound, group=GROUP)
    assert conf[GROUP][opt.dest] == bound
    text = refused(**{opt.name: beyond})
    assert opt.name in text
    assert f"{beyond!r}" in text


@pytest.mark.parametrize("opt", NUMBERS, ids=lambda opt: opt.name)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "nan", "inf", "-1", "", "ten", "1e400"]
)
def test_what_is_no_number_within_bounds_is_refused(opt, value):
    assert opt.name in refused(**{opt.name: value})


@pytest.mark.parametrize(
    "opt", [o for o in OPTIONS if o.type is not str], ids=lambda opt: opt.name
)
def test_a_value_of_a_type_that_cannot_be_meant_is_refused_or_read(opt):
    for value in ([], {}, 0, b"5", object()):
        try:
            Settings.of(**{opt.name: value})
        except exceptions.ConfigError as error:
            assert opt.name in str(error)


@pytest.mark.parametrize("opt", NUMBERS, ids=lambda opt: opt.name)
def test_a_bad_value_in_a_file_names_the_option_and_the_file(opt, tmp_path):
    conf = conf_of(f"[liveness]\n{opt.name} = nan\n", tmp_path=tmp_path)
    with pytest.raises(exceptions.ConfigError) as caught:
        Settings.from_conf(conf)
    assert opt.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_bad_value_of_a_file_is_named(tmp_path):
    conf = conf_of("[liveness]\nttl = ten\nbatch_size = 0\n", tmp_path=tmp_path)
    with pytest.raises(exceptions.ConfigError) as caught:
        Settings.from_conf(conf)
    assert "ttl" in str(caught.value)
    assert "batch_size" in str(caught.value)
    assert "LocationInfo" not in str(caught.value)


def test_an_unknown_option_is_refused_with_those_there_are():
    text = refused(tll=30)
    assert "'tll'" in text
    assert "ttl" in text


# --- options together -----------------------------------------------------------

# What is refused at the value and good just under it (or over it), with the numbers
# that the message has to show.
CONTRADICTIONS = [
    pytest.param(
        {"ttl": 30.0, "beat_interval": math.nextafter(7.5, 7.0)},
        {"beat_interval": 7.5},
        ["beat_interval", "ttl", "7.5 s", "30 s / 4 = 7.5 s"],
        id="beat over a quarter of ttl",
    ),
    pytest.param(
        {"ttl": 30.0, "beat_interval": 7.0},
        {"beat_interval": 10.01},
        ["ttl", "beat_interval", "30 s", "3 x 10.01 s"],
        id="ttl under three beats",
    ),
    pytest.param(
        {"ttl": 30.0, "sweep_interval": 6.81},
        {"sweep_interval": 6.82},
        ["sweep_interval", "ttl", "6.82 s", "30 s / 4 = 7.5 s"],
        id="sweep over a quarter of ttl",
    ),
    pytest.param(
        {"ttl": 30.0, "lease_margin": math.nextafter(10.0, 9.0)},
        {"lease_margin": 10.0},
        ["lease_margin", "ttl", "10 s", "30 s / 3 = 10 s"],
        id="margin over a third of ttl",
    ),
    pytest.param(
        {"ttl": 30.0, "database_timeout": math.nextafter(10.0, 9.0)},
        {"database_timeout": 10.0},
        ["database_timeout", "ttl", "10 s", "30 s / 3 = 10 s"],
        id="database timeout over a third of ttl",
    ),
    pytest.param(
        {"backoff_initial": 5.0, "backoff_max": 5.0},
        {"backoff_max": 4.99},
        ["backoff_initial", "backoff_max", "5 s", "4.99 s"],
        id="first retry later than the longest",
    ),
]


@pytest.mark.parametrize(("good", "change", "words"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused_with_the_numbers(
    good, change, words
):
    Settings.of(**good)
    text = refused(**{**good, **change})
    for word in ("[liveness]", *words):
        assert word in text


def test_every_contradiction_is_named_at_once():
    text = refused(
        ttl=3, beat_interval=2, sweep_interval=2, lease_margin=2, database_timeout=2
    )
    for name in ("beat_interval", "sweep_interval", "lease_margin", "database_timeout"):
        assert name in text


def test_a_contradiction_in_a_file_stops_an_engine_before_it_opens_anything(tmp_path):
    text = f"[liveness]\nttl = 5\nconnection = sqlite:///{tmp_path}/liveness.db\n"
    conf = conf_of(text, tmp_path=tmp_path)
    with pytest.raises(exceptions.ConfigError, match="ttl"):
        Liveness.from_conf(conf)
    assert not (tmp_path / "liveness.db").exists()


# --- where the connection comes from ----------------------------------------------

HOST = ("database", cfg.StrOpt("connection"))


def test_without_a_connection_it_is_the_host_programs(tmp_path):
    conf = conf_of(
        "[database]\nconnection = sqlite:///host.db\n", HOST, tmp_path=tmp_path
    )
    assert Settings.from_conf(conf).connection == "sqlite:///host.db"


def test_our_own_connection_comes_before_the_host_programs(tmp_path):
    text = (
        "[database]\nconnection = sqlite:///host.db\n"
        "[liveness]\nconnection = sqlite:///ours.db\n"
    )
    conf = conf_of(text, HOST, tmp_path=tmp_path)
    assert Settings.from_conf(conf).connection == "sqlite:///ours.db"


@pytest.mark.parametrize("opts", [(), (HOST,), (("database", cfg.StrOpt("other")),)])
def test_without_either_it_is_a_local_file(opts):
    settings = Settings.from_conf(conf_of("", *opts))
    assert settings.connection == liveness_conf.DEFAULT_CONNECTION


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_connection_is_refused_and_not_taken_for_none(tmp_path, value):
    """An empty template variable must not put an engine on a file of its own."""
    conf = conf_of(f"[liveness]\nconnection = {value}\n", tmp_path=tmp_path)
    with pytest.raises(exceptions.ConfigError, match="connection"):
        Settings.from_conf(conf)


def test_options_are_registered_on_the_conf_that_is_handed_in_and_no_other():
    conf = conf_of()
    Settings.from_conf(conf)
    Settings.from_conf(conf)
    assert conf.liveness.ttl == 30.0
    assert GROUP not in cfg.CONF._groups


# --- changes while an engine runs ---------------------------------------------------


def test_only_mutable_options_change_and_the_others_are_named():
    old = Settings.of()
    new = Settings.of(ttl=60, batch_size=50, handler_threads=2, connections=9)
    settings, refused_names = mutated(old, new)
    assert (settings.ttl, settings.batch_size) == (60, 50)
    assert (settings.handler_threads, settings.connections) == (8, 5)
    assert sorted(refused_names) == ["connections", "handler_threads"]


def test_without_a_change_nothing_is_refused():
    assert mutated(Settings.of(), Settings.of()) == (Settings.of(), [])


@pytest.mark.parametrize("opt", OPTIONS, ids=lambda opt: opt.name)
def test_each_option_changes_if_and_only_if_it_is_mutable(opt):
    old = Settings.of()
    other = {int: 7, float: 1.5}.get(type(getattr(old, opt.dest)), "sqlite:///other")
    new = dataclasses.replace(old, **{opt.dest: other})
    if opt.name == "ttl":
        new = dataclasses.replace(old, ttl=31.5)
    settings, refused_names = mutated(old, new)
    kept = getattr(settings, opt.dest) == getattr(old, opt.dest)
    assert kept is not opt.mutable
    assert refused_names == ([] if opt.mutable else [opt.name])


def test_a_change_that_contradicts_what_stays_is_refused():
    """database_timeout cannot change, so ttl cannot become shorter than three of it."""
    old = Settings.of(ttl=60, database_timeout=15)
    new = Settings.of(ttl=30, database_timeout=5)
    with pytest.raises(exceptions.ConfigError, match="database_timeout"):
        mutated(old, new)


def test_an_engine_keeps_its_settings_when_a_change_is_refused(sqlite_url, caplog):
    live = Liveness(Settings.of(connection=sqlite_url, ttl=60, database_timeout=15))
    before = live.settings
    with pytest.raises(exceptions.ConfigError):
        live.configure(Settings.of(connection=sqlite_url))
    assert live.settings is before
    live.configure(
        Settings.of(connection="sqlite:///other", ttl=90, database_timeout=15)
    )
    assert (live.settings.ttl, live.settings.connection) == (90, sqlite_url)
    assert "connection" in caplog.text
    assert "other" not in caplog.text


# --- the files in etc/ --------------------------------------------------------------


def liveness_section(text):
    """Of the sample, our own options: what other packages offer changes with them."""
    return text.partition("\n[liveness]\n")[2]


def test_the_committed_sample_is_what_the_generator_makes(tmp_path):
    """On a failure: oslo-config-generator --config-file
    etc/liveness/config-generator.conf"""
    # An entry point to be found even where the package is not installed.
    metadata = tmp_path / "liveness-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: liveness\nVersion: 0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[oslo.config.opts]\nliveness = liveness.conf:list_opts\n"
    )
    made = tmp_path / "sample"
    code = "import sys; from oslo_config.generator import main; main(sys.argv[1:])"
    subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "--config-file=etc/liveness/config-generator.conf",
            f"--output-file={made}",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "HOME": str(tmp_path)},
        check=True,
    )
    committed = (ROOT / "etc/liveness/liveness.conf.sample").read_text()
    ours = liveness_section(made.read_text())
    assert "#ttl = 30.0" in ours
    assert liveness_section(committed) == ours


def test_the_sample_has_every_option_and_no_secret():
    sample = (ROOT / "etc/liveness/liveness.conf.sample").read_text()
    for opt in OPTIONS:
        assert f"\n#{opt.name} = " in sample
    assert "\n#connection = <None>\n" in sample


def test_the_working_configuration_works_and_names_only_options_there_are():
    path = ROOT / "etc/liveness/liveness.conf"
    conf = cfg.ConfigOpts()
    liveness_conf.register_opts(conf)
    conf.register_opt(cfg.IntOpt("graceful_shutdown_timeout"))
    conf(["--config-file", str(path)])
    settings = Settings.from_conf(conf)
    assert settings == Settings.of(connection="sqlite:///liveness.sqlite")
    assert settings.drain_timeout < conf.graceful_shutdown_timeout
    lines = [line for line in path.read_text().splitlines() if line[:1].isalpha()]
    names = {line.split()[0] for line in lines} - {"graceful_shutdown_timeout"}
    assert names <= {opt.name for opt in OPTIONS}
