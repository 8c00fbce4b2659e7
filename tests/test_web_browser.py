"""The page in a real browser, in which no page may run a script."""

from __future__ import annotations

import contextlib
import http.client
import json
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from selenium.common.exceptions import (
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from liveness.clock import Clock
from liveness.db import migration, tables
from liveness.db.events import EventLog
from liveness.events import Event, What
from tests.browser import chromium, missing, program_of, served
from tests.conftest import lacking
from tests.fleet import Driven, Recorder, wait_until
from tests.test_migrations import run
from tests.test_web import fleet_of

SECRET = "s3cr3t-" + "payload"
HOSTILE = [
    "<script>document.title='gone'</script>",
    '"><img src=x onerror="document.title=1"><b>',
    "right\u202eleft\u2066",
    "two\nlines\r\tand\x1b[2Jmore",
    "x" * 255,
    "'; DROP TABLE liveness_deadline; --",
    "</pre></td></table><h1>big</h1>",
    "&lt;b&gt; &amp;amp; %3Cb%3E #?/",
]
WIDE, NARROW = (1280, 900), (500, 900)  # what headless Chromium makes of anything less


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if reason := missing():
        lacking(reason)
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def overflow(browser):
    """Pixels by which the page is wider than the window."""
    return browser.execute_script(
        "const root = document.documentElement;"
        "return root.scrollWidth - root.clientWidth"
    )


def texts(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)",
        selector,
    )


def bars(browser):
    """(seconds left as the row says, part of the track that is full) of each lease."""
    return browser.execute_script(
        "return [...document.querySelectorAll('svg.bar')].map(bar => {"
        "  const [track, fill] = bar.querySelectorAll('rect');"
        "  const left = bar.closest('tr').children[2].textContent;"
        "  const wide = e => e.getBoundingClientRect().width;"
        "  return [parseFloat(left), wide(fill) / wide(track), wide(track)]})"
    )


def open_(browser, address, size=WIDE):
    browser.set_window_size(*size)
    browser.get(address)


def world(url, keys, payload=None, reason=None):
    """An engine that owns a deadline for each key."""
    engine = Driven(url, handlers=(Recorder("timer"),), engine_id="engine-1")
    for n, _ in enumerate(keys):
        engine.live.arm("timer", f"k{n}", due_in=600, payload=payload)
    made = sa.create_engine(url)
    with made.begin() as connection:
        for n, key in enumerate(keys):
            change = sa.update(tables.deadline).where(tables.deadline.c.key == f"k{n}")
            connection.execute(change.values(key=key, last_error=reason))
    made.dispose()
    return engine


# --- how it looks ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 500])
def test_any_number_of_engines_fits_and_their_bars_are_as_long_as_their_leases(
    browser, synced, count
):
    fleet_of(synced, count, beat="'now', '-' || (i % 40) || ' seconds'")
    with served(synced) as address:
        open_(browser, f"{address}/engines")
        seen = bars(browser)
        assert len(seen) == count
        for left, part, wide in seen:
            assert part == pytest.approx(min(max(left / 30, 0), 1), abs=0.01)
            assert wide > 100
        for size in (WIDE, NARROW):
            for path in ("/", "/engines", "/deadlines"):
                open_(browser, address + path, size)
                assert overflow(browser) <= 0, (path, size)
        assert len(texts(browser, "h1")) == 1


def test_what_is_drawn_stays_within_its_frame(browser, synced):
    engine = world(synced, ["a"])
    long = "e" * 64
    with engine.connect() as connection:
        events = [Event(What.FENCED, long, f"{n}" + long[1:]) for n in range(12)]
        EventLog(Clock()).add(connection, events)
    with served(synced) as address:
        open_(browser, address)
        outside = browser.execute_script(
            "return [...document.querySelectorAll('svg.plot')].flatMap(plot => {"
            "  const frame = plot.getBoundingClientRect();"
            "  return [...plot.querySelectorAll('text, rect, circle, path')].filter("
            "    e => { const r = e.getBoundingClientRect();"
            "    return r.left < frame.left - 1 || r.right > frame.right + 1"
            "      || r.top < frame.top - 1 || r.bottom > frame.bottom + 1 })"
            "  .map(e => e.outerHTML) })"
        )
        assert outside == []
        assert "And 2 more, in the table." in browser.page_source
    engine.abandon()


def test_it_follows_the_system_to_dark_and_leaves_its_controls_off_paper(
    browser, synced
):
    def paper():
        return browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )

    def emulate(media, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        wanted = {"media": media, "features": features}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)

    with served(synced) as address:
        open_(browser, f"{address}/deadlines")
        try:
            emulate("screen", "light")
            assert paper() == "rgb(255, 255, 255)"
            emulate("screen", "dark")
            assert paper() == "rgb(20, 24, 29)"
            emulate("print", "light")
            assert not browser.find_element(By.TAG_NAME, "form").is_displayed()
            assert browser.find_element(By.TAG_NAME, "h2").is_displayed()
        finally:
            emulate("", "light")


# --- finding by clicking --------------------------------------------------------------


def test_one_gets_to_a_deadline_by_clicking(browser, synced):
    engine = world(synced, ["web-1", "web-2", "db-1"], {"size": 3, "token": SECRET})
    run(synced, "UPDATE liveness_deadline SET state = 'parked' WHERE id = 2")

    def shows(*keys):
        """A click may return before the page that it leads to is there."""

        def so():
            with contextlib.suppress(StaleElementReferenceException):
                return texts(browser, "tbody td:nth-child(2)") == list(keys)

        wait_until(so, 10)

    with served(synced) as address:
        open_(browser, address)
        browser.find_element(By.LINK_TEXT, "2").click()  # armed, of kind timer
        shows("web-1", "db-1")
        Select(browser.find_element(By.NAME, "state")).select_by_visible_text("any")
        browser.find_element(By.NAME, "prefix").send_keys("web")
        browser.find_element(By.TAG_NAME, "button").click()
        shows("web-1", "web-2")
        prefix = browser.find_element(By.NAME, "prefix")
        assert prefix.get_attribute("value") == "web"
        browser.find_element(By.LINK_TEXT, "web-2").click()
        wait_until(lambda: browser.find_elements(By.TAG_NAME, "pre"), 10)
        shown = browser.find_element(By.TAG_NAME, "pre").text
        assert json.loads(shown) == {"size": 3, "token": "***"}
        assert "Nothing, until 'deadline retry'" in browser.page_source
        browser.find_element(By.LINK_TEXT, "liveness").click()
        assert texts(browser, "h2")[0].startswith("Engines")
    engine.abandon()


# --- while the database is away -------------------------------------------------------


def test_it_loads_itself_again_through_an_outage_and_what_is_typed_stays(
    browser, mariadb_url, mariadb
):
    migration.sync(mariadb_url)
    engine = Driven(mariadb_url, engine_id="engine-1")

    def says(*words, banner):
        def so():
            try:
                page = browser.page_source
            except WebDriverException:  # between two pages
                return False
            return ('class="banner"' in page) is banner and all(
                word in page for word in words
            )

        wait_until(so, 30)

    with program_of(mariadb_url, "--refresh", "1") as address:
        open_(browser, f"{address}/deadlines")
        browser.find_element(By.NAME, "prefix").send_keys("half a wo")
        open_(browser, address)  # and nothing more is done to it
        says("engine-1", banner=False)
        mariadb.stop()
        says("engine-1", "What is below was seen", "Cannot look", banner=True)
        assert texts(browser, ".banner span")[0].count("ago, at") == 1
        mariadb.start()
        says("engine-1", banner=False)
        browser.get(f"{address}/deadlines")
        typed = browser.find_element(By.NAME, "prefix")
        typed.send_keys("rd")
        marked = typed.id
        wait_until(_passed(1.5), 10)
        assert browser.find_element(By.NAME, "prefix").id == marked  # the same page
        assert typed.get_attribute("value") == "rd"
    engine.abandon()


def _passed(seconds):
    end = Clock().monotonic() + seconds
    return lambda: Clock().monotonic() > end


# --- hostile text, secrets, writes ----------------------------------------------------


def crawled(browser, address):
    """Opens every page that can be come to by links, and gives their addresses."""
    waiting, seen = [address + "/?still"], set()
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            browser.get(at)
            yield at
            links = "return [...document.links].map(e => e.href)"
            waiting += browser.execute_script(links)
        assert len(seen) < 100


def test_hostile_text_is_text_and_secrets_are_nowhere(browser, synced):
    payload = {
        "password": SECRET,
        "deep": [{"n": HOSTILE[0], "api_key": [SECRET, {"x": SECRET}]}],
        "url": f"https://me:{SECRET}@example.org/",
    }
    reason = f"{HOSTILE[1]} password={SECRET} {HOSTILE[2]}"
    engine = world(synced, HOSTILE, payload, reason)
    run(synced, "UPDATE liveness_deadline SET state = 'parked' WHERE id = 1")
    with engine.connect() as connection:
        events = [
            Event(
                What.RESTARTED, HOSTILE[0], HOSTILE[1][:64], "timer", key, detail=reason
            )
            for key in HOSTILE
        ]
        fences = [
            Event(What.FENCED, None, each[:64], detail=reason) for each in HOSTILE
        ]
        EventLog(Clock()).add(connection, events + fences)
    with served(synced) as address:
        browser.set_window_size(*NARROW)
        single = 0
        for at in crawled(browser, address):
            single += "/deadline?" in at
            dom = browser.page_source
            for word in (SECRET, "\u202e", "\x1b"):
                assert word not in dom, at
            assert texts(browser, "script, img, [onerror]") == []
            assert len(texts(browser, "h1")) == 1
            assert browser.title.startswith("liveness")
            assert overflow(browser) <= 0, at
        assert single == len(HOSTILE)
        browser.get(f"{address}/deadlines")
        keys = texts(browser, "tbody td:nth-child(2)")
        assert keys[0] == HOSTILE[0]
        assert keys[2] == "right\\u202eleft\\u2066"
        assert keys[3] == "two\\nlines\\r\\tand\\x1b[2Jmore"
        assert keys[4] == HOSTILE[4]
    engine.abandon()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_its_server_refuses_to_write(synced, method):
    engine = world(synced, ["a"])
    with served(synced) as address:
        for path in ("/", "/deadline?kind=timer&key=a"):
            connection = http.client.HTTPConnection(
                urlsplit(address).netloc, timeout=20
            )
            connection.request(method, path, body="state=parked")
            assert connection.getresponse().status == 405
            connection.close()
    assert engine.live.find("timer", "a").state == "armed"
    engine.abandon()
