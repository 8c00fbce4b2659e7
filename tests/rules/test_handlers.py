"""Kinds: what is called, what may be answered, and which number goes before which."""

import pytest
import stevedore

from liveness import Done, Handler, Liveness, Rearm, Settings, WhenOrphaned, exceptions
from liveness.handlers import Handlers, answer
from liveness.model import Unstarted
from tests.fleet import Recorder
from tests.rules.test_agenda import value


@pytest.fixture
def handlers():
    return Handlers(Settings.of())


def of(kind="k", **attributes):
    return type("Some", (Handler,), {"kind": kind, **attributes})


# --- which method -------------------------------------------------------------


@pytest.mark.parametrize(
    "orphaned, expired, called",
    [
        (False, True, "expired"),
        (True, True, "expired"),
        (True, False, "orphaned"),
        (False, False, "orphaned"),
    ],
)
def test_past_its_promise_it_is_expired_else_orphaned(orphaned, expired, called):

    kind = Recorder()
    deadline = value()._replace(orphaned=orphaned, expired=expired)
    assert answer(kind, deadline) == Done()
    assert [name for name, _ in kind.calls] == [called]


def test_a_kind_that_does_not_care_writes_expired_only():
    class Kind(Handler):
        kind = "k"

        def expired(self, deadline):
            return Rearm(5)

    assert answer(Kind(), value()) == Rearm(5)


def test_a_kind_that_wrote_nothing_fails():
    with pytest.raises(NotImplementedError):
        answer(of()(), value())


@pytest.mark.parametrize("nonsense", [True, 0, "", "done", Done, Unstarted("x")])
def test_nonsense_is_an_error_of_the_handler(nonsense):
    kind = Recorder()
    kind.answer = lambda deadline: nonsense
    with pytest.raises(TypeError, match="that is no outcome"):
        answer(kind, value())


# --- by class, by object, by decorator ----------------------------------------


def test_a_class_is_made_and_an_object_is_taken(handlers):
    made = of("object")()
    handlers.add(of("class"))
    handlers.add(made)
    assert handlers.get("object") is made
    assert handlers.get("class").kind == "class"
    assert sorted(handlers) == ["class", "object"]
    assert len(handlers) == 2
    assert "class" in handlers and "other" not in handlers
    assert handlers.get("other") is None


def test_the_later_one_takes_the_place_of_the_earlier(handlers):
    first, second = of()(), of()()
    handlers.add(first)
    handlers.add(second)
    assert handlers.get("k") is second


def test_a_function_is_a_handler(quick_url):
    live = Liveness(Settings.of(connection=quick_url))

    @live.handler("k", when_orphaned="retrigger", max_attempts=2)
    def run(deadline):
        return Rearm(deadline.attempts)

    kind = live.handlers.get("k")
    assert kind.when_orphaned == WhenOrphaned.RETRIGGER
    assert live.handlers.max_attempts("k") == 2
    assert answer(kind, value(attempts=7)) == Rearm(7)
    assert run(value(attempts=8)) == Rearm(8)  # still a function


def test_an_attribute_that_there_is_not_is_refused(quick_url):
    live = Liveness(Settings.of(connection=quick_url))
    with pytest.raises(exceptions.ConfigError, match="no attribute 'tries'"):
        live.handler("k", tries=2)(lambda deadline: None)
    assert "k" not in live.handlers


# --- attributes ---------------------------------------------------------------

BAD = [
    {"kind": ""},
    {"kind": None},
    {"kind": "x" * 65},
    {"kind": "caf\u00e9"},
    {"kind": " k"},
    {"kind": "a\nb"},
    {"when_orphaned": "restart"},
    {"handler_timeout": -1},
    {"handler_timeout": float("nan")},
    {"handler_timeout": "5"},
    {"backoff_initial": float("inf")},
    {"backoff_max": -0.1},
    {"max_attempts": 0},
    {"max_attempts": 2.0},
    {"max_attempts": 1_000_001},
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: ascii(bad)[:40])
def test_an_attribute_that_cannot_work_is_refused_with_its_name(handlers, bad):
    (name,) = bad
    with pytest.raises(exceptions.ConfigError) as caught:
        handlers.add(of(**bad))
    assert name in str(caught.value)
    assert len(handlers) == 0


def test_what_is_no_handler_is_refused(handlers):
    for wrong in (object, lambda deadline: None):
        with pytest.raises(exceptions.ConfigError, match=r"no liveness\.Handler"):
            handlers.add(wrong)


def test_the_longest_kind_is_taken(handlers):
    handlers.add(of("x" * 64))
    assert "x" * 64 in handlers


def test_the_kinds_own_numbers_go_before_the_options(handlers):
    handlers.add(of("own", handler_timeout=7, max_attempts=9))
    handlers.add(of("none"))
    assert (handlers.timeout("own"), handlers.max_attempts("own")) == (7, 9)
    assert handlers.timeout("none") == handlers.settings.handler_timeout
    assert handlers.max_attempts("none") == handlers.settings.max_attempts


# --- entry points -------------------------------------------------------------


class EntryPoint:
    def __init__(self, name, plugin):
        self.name, self.value, self.plugin = name, f"package:{name}", plugin

    def load(self):
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def installed(monkeypatch):
    """Makes stevedore find these, as if their packages were installed."""

    def install(*points):
        monkeypatch.setattr(
            stevedore.ExtensionManager, "list_entry_points", lambda manager: points
        )

    return install


def test_what_a_package_offers_is_added(handlers, installed):
    installed(EntryPoint("a", of("a")), EntryPoint("b", of("b")()))
    handlers.load()
    assert sorted(handlers) == ["a", "b"]


def test_what_cannot_be_loaded_is_left_out_aloud(handlers, installed, caplog):
    installed(
        EntryPoint("bad", ImportError("no such module")), EntryPoint("a", of("a"))
    )
    handlers.load()
    assert sorted(handlers) == ["a"]
    assert (
        "Handler bad (package:bad) could not be loaded: no such module" in caplog.text
    )


def test_what_the_program_added_itself_is_kept(handlers, installed):
    mine = of("a")()
    handlers.add(mine)
    installed(EntryPoint("a", of("a")))
    handlers.load()
    assert handlers.get("a") is mine


@pytest.mark.parametrize("what", ["attribute", "constructor"])
def test_what_cannot_work_is_left_out_aloud_as_well(handlers, installed, caplog, what):
    class Raises(Handler):
        kind = "bad"

        def __init__(self):
            raise RuntimeError("constructor")

    bad = of("bad", max_attempts=0) if what == "attribute" else Raises
    installed(EntryPoint("bad", bad), EntryPoint("a", of("a")))
    handlers.load()
    assert sorted(handlers) == ["a"]
    assert "could not be loaded" in caplog.text
