"""The page: what it shows, escapes and refuses, read as HTML. In a browser it is looked
at by ``test_web_browser``."""

from __future__ import annotations

import dataclasses
import re
import threading
from html.parser import HTMLParser
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import sqlalchemy as sa

from liveness import Settings
from liveness.clock import Clock
from liveness.cmd import glance, recent, web
from liveness.cmd.output import span
from liveness.cmd.web import app, html, look
from liveness.db import events as db_events
from liveness.db import migration, report, tables
from liveness.db.events import EventLog
from liveness.events import Event, What
from tests.commands import Command, one_line
from tests.fleet import Driven, Recorder
from tests.test_lateness import minute
from tests.test_migrations import run

SCRIPT = "<script>alert('x')</script>\x1b[2J&\"'\u202e"
SECRET = "s3cr3t-" + "payload"


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(app, "FRESH", -1.0)
    monkeypatch.setattr(app, "SHARE", 0.0)


def get(page, path="/", method="GET"):
    said = {}

    def start_response(status, headers, exc_info=None):
        said.update(status=int(status[:3]), headers=dict(headers))

    environ = {}
    setup_testing_defaults(environ)
    path, _, query = path.partition("?")
    environ.update(REQUEST_METHOD=method, PATH_INFO=path, QUERY_STRING=query)
    answer = validator(page)(environ, start_response)
    body = b"".join(answer).decode()
    answer.close()
    return said["status"], said["headers"], body


class Tags(HTMLParser):
    """The elements of a page, the text in cells, and where links lead."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.links, self._open = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "td":
            self.cells.append("")
            self._open = True

    def handle_endtag(self, tag):
        self._open = self._open and tag != "td"

    def handle_data(self, data):
        if self._open:
            self.cells[-1] += data


def section(body, title):
    """The part of the page under that heading."""
    return re.split(r"<h2>", body[body.index(f"<h2>{title} <small>") + 4 :])[0]


def page_of(url, **options):
    return web.Page(Settings.of(connection=url, **options))


def hostile_world(url):
    """An engine, deadlines and events whose names are an attack."""
    engine = Driven(url, handlers=(Recorder("timer"),), engine_id="engine-1")
    for n in range(3):
        engine.live.arm("timer", f"k{n}", due_in=600, payload={"password": SECRET})
    set_ = sa.text(
        "UPDATE liveness_deadline SET state = 'parked', owner_id = NULL,"
        " last_error = :text WHERE id = 1"
    )
    made = sa.create_engine(url)
    column = "`key`" if url.startswith("mysql") else "key"
    with made.begin() as connection:
        connection.execute(set_, {"text": SCRIPT})
        connection.execute(
            sa.text(f"UPDATE liveness_deadline SET {column} = :text WHERE id = 2"),
            {"text": SCRIPT},
        )
    made.dispose()
    with engine.connect() as connection:
        event = Event(What.FENCED, None, "dead-1", detail=SCRIPT)
        EventLog(Clock()).add(connection, [event])
    return engine


# --- what it shows --------------------------------------------------------------------


def test_it_shows_engines_deadlines_and_what_is_parked(schema_url):
    engine = hostile_world(schema_url)
    status, headers, body = get(page_of(schema_url))
    assert status == 200
    found = Tags(body)
    assert "engine-1" in found.cells
    assert ["timer", "2", "0", "1"] == found.cells[found.cells.index("timer") :][:4]
    assert "fenced" in Tags(section(body, "Latest events")).cells
    assert body.count('<svg class="bar"') == 1
    assert 'http-equiv="refresh" content="5"' in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    engine.abandon()


def taken(what, heir, victim, key):
    return Event(what, heir, victim, "timer", key, 2, 0)


def test_takeovers_say_who_fenced_whom_and_who_has_what_now(schema_url):
    engine = Driven(schema_url, engine_id="heir-1")
    fence = Event(What.FENCED, "heir-1", "dead-1", detail="host h, pid 7: silent")
    moved = [taken(What.RESTARTED, "heir-1", "dead-1", f"a{n}") for n in range(3)]
    moved += [taken(What.RETRIGGERED, "heir-2", "dead-1", "b")]
    moved += [taken(What.EXPIRED, "heir-2", "lazy-1", "c")]
    moved += [taken(What.RESTARTED, "heir-1", None, "d")]
    moved += [Event(What.PARKED, "heir-1", None, "timer", "e")]
    stop = Event(What.STOPPED, "quiet-1", "quiet-1")
    with engine.connect() as connection:
        EventLog(Clock()).add(connection, [fence, *moved, stop])
    _, _, body = get(page_of(schema_url))
    cells = Tags(section(body, "Takeovers")).cells
    rows = {row[1]: list(row[2:6]) for row in zip(*[iter(cells)] * 7, strict=True)}
    assert rows == {
        "dead-1": [
            "fenced by heir-1: host h, pid 7: silent",
            "4",
            "3 to heir-1, 1 to heir-2",
            "3 restarted, 1 retriggered",
        ],
        "lazy-1": ["it let them lie, or ended before", "1", "1 to heir-2", "1 expired"],
        "no owner (handed back)": ["", "1", "1 to heir-1", "1 restarted"],
    }
    drawn = section(body, "Takeovers")
    assert drawn.count('<circle class="taken"') == 4  # and one in the legend
    assert "dead-1 fenced at" in drawn
    assert "by heir-1: 3 to heir-1, 1 to heir-2" in drawn  # for who cannot see it
    engine.abandon()


def test_lateness_is_drawn_and_told_minute_by_minute(schema_url):
    engine = Driven(schema_url, handlers=(Recorder("timer"),), engine_id="e")
    with engine.connect() as connection:
        now = report.Report(Clock()).now(connection)
        start = now.replace(second=0, microsecond=0)
        lines = [minute(0.002, 0.02, 4.5).line(start), minute(0.02).line(start), "junk"]
        made = [Event(What.LATENESS, "e", "e", detail=line) for line in lines]
        EventLog(Clock()).add(connection, made)
    engine.live.arm("timer", "k", due_in=600)
    _, _, body = get(page_of(schema_url))
    part = section(body, "Lateness")
    assert Tags(part).cells == [f"{start:%H:%M}", "4", "30 ms", "4.5 s", "4.5 s"]
    assert part.count('<rect class="most"') == 2  # and one in the legend
    assert "4 deadlines claimed in the last hour, the latest 4.5 s after" in part
    assert "now nothing is due" in part
    run(schema_url, "UPDATE liveness_deadline SET due_at = '2026-01-01 00:00:00'")
    _, _, body = get(page_of(schema_url))
    assert re.search(r"now one is due for [\d.]+ d", body)
    assert '<li class="wrong">due and not claimed' in body
    assert "1 for longer than the head start of 6 s" in body
    engine.abandon()


def test_an_empty_database_is_shown_as_one(synced):
    _, _, body = get(page_of(synced))
    assert "No engine." in body
    assert "<b>0</b><small>nobody does the work" in body
    assert "Nothing was claimed in the last hour." in body
    assert "No deadline." in body


@pytest.mark.parametrize("count", [0, 3, 500])
def test_any_number_of_engines_is_shown(synced, count):
    fleet_of(synced, count)
    _, _, body = get(page_of(synced), "/engines")
    assert f"{count} alive, 0 ended" in body
    assert body.count('<svg class="bar"') == count
    _, _, first = get(page_of(synced))
    assert first.count('<svg class="bar"') == min(count, 20)
    assert ('href="/engines">All 500 engines' in first) is (count == 500)


def fleet_of(url, count, state="live", beat="'now'"):
    fill = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
        " INSERT INTO liveness_engine (id, token, host, pid, binary, version, state,"
        " started_at, beat_seq, beat_at, ttl) SELECT 'e' || i, i, 'h', i, 'b', 'v',"
        f" '{state}', strftime('%Y-%m-%d %H:%M:%f', 'now'), 1,"
        f" strftime('%Y-%m-%d %H:%M:%f', {beat}), 30 FROM n WHERE i <= {count}"
    )
    run(url, fill)


def test_engines_in_trouble_come_first(synced):
    fleet_of(synced, 30)
    run(
        synced,
        "UPDATE liveness_engine SET beat_at = '2020-01-01 00:00:00' WHERE id = 'e30'",
        "UPDATE liveness_engine SET state = 'draining' WHERE id = 'e29'",
    )
    _, _, body = get(page_of(synced))
    cells = Tags(section(body, "Engines")).cells
    assert [cells[3], cells[0]] == ["e30", "lapsed"]
    assert [cells[10], cells[7]] == ["e29", "draining"]
    assert "1 of them with a lapsed lease" in body


# --- hostile text, and secrets --------------------------------------------------------


def pages_of(body):
    """The page, and what it links to."""
    return sorted({each for each in Tags(body).links if each.startswith("/")})


def test_hostile_names_are_text_and_secrets_are_not_there(schema_url):
    engine = hostile_world(schema_url)
    page = page_of(schema_url)
    _, _, body = get(page)
    paths = pages_of(body) + ["/deadlines?prefix=%3Cscript"]
    paths += pages_of(get(page, "/deadlines?state=armed")[2])
    seen = 0
    for path in dict.fromkeys(paths):
        status, _, body = get(page, path)
        assert status == 200, path
        found = Tags(body)
        assert "script" not in found.tags
        assert "\x1b" not in body
        assert "\u202e" not in body
        assert SECRET not in body
        seen += "&lt;script&gt;" in body
    assert seen > 3
    engine.abandon()


def test_a_deadline_is_shown_with_its_payload_but_for_secrets(schema_url):
    engine = Driven(schema_url, handlers=(Recorder("timer"),), engine_id="engine-1")
    payload = {
        "user": "u1",
        "deep": [{"db_password": SECRET, "n": 7}],
        "url": f"mysql://u:{SECRET}@h/db",
        "args": ["--token", SECRET],
    }
    engine.live.arm("timer", "a/b ?&=%", due_in=600, payload=payload)
    run(schema_url, f"UPDATE liveness_deadline SET last_error = 'token={SECRET} no'")
    with engine.connect() as connection:
        event = taken(What.RESTARTED, "engine-1", "dead", "a/b ?&=%")
        event = dataclasses.replace(event, detail=f"password: {SECRET}")
        EventLog(Clock()).add(connection, [event])
    page = page_of(schema_url)
    (path,) = (
        link
        for link in Tags(get(page, "/deadlines")[2]).links
        if link.startswith("/deadline?")
    )
    assert path == "/deadline?" + urlencode({"kind": "timer", "key": "a/b ?&=%"})
    status, _, body = get(page, path)
    assert status == 200
    for word in ("u1", "&quot;n&quot;: 7", "mysql://u:***@h/db", "token=*** no"):
        assert word in body
    assert "It is handled in" in body
    assert "restarted" in section(body, "What befell it")
    for each in (body, get(page)[2]):
        assert SECRET not in each
    body = get(page_of(schema_url, redacted=["user"]), path)[2]
    assert "u1" not in body
    assert SECRET in body  # the list is the operator's
    engine.abandon()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "kind=timer",
        "kind=timer&key=none",
        "kind=timer&key=%00",
        "kind=%ff&key=%ed%a0%80",
    ],
)
def test_a_deadline_that_is_not_there_is_said_not_to_be(schema_url, query):
    status, _, body = get(page_of(schema_url), f"/deadline?{query}")
    assert status == 404
    assert "There is no deadline" in body


def test_what_is_asked_is_escaped_and_bounded(schema_url):
    query = "?kind=%22%3E%3Cscript%3E&state=%3Cb%3E&prefix=%00" + "x" * 5000
    status, _, body = get(page_of(schema_url), f"/deadlines{query}")
    assert status == 200
    assert "script" not in Tags(body).tags
    assert "x" * 256 not in body
    many = "&".join(f"a{n}=1" for n in range(1000))
    assert get(page_of(schema_url), f"/deadlines?{many}")[0] == 200


# --- finding --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", ["a1", "a2", "b1"]),
        ("state=armed", ["a1", "b1"]),
        ("state=parked", ["a2"]),
        ("kind=timer&prefix=a", ["a1", "a2"]),
        ("kind=none", []),
        ("prefix=a&state=parked", ["a2"]),
    ],
)
def test_every_filter_chooses(synced, query, keys):
    engine = Driven(synced, handlers=(Recorder("timer"),))
    for key in ("a1", "a2", "b1"):
        engine.live.arm("timer", key, due_in=600)
    run(synced, "UPDATE liveness_deadline SET state = 'parked' WHERE id = 2")
    _, _, body = get(page_of(synced), f"/deadlines?{query}")
    assert [c for c in Tags(body).cells if re.fullmatch(r"[ab]\d", c)] == keys
    assert "http-equiv" not in body  # what is typed into is not loaded again
    engine.abandon()


def test_a_search_ends_somewhere(synced, monkeypatch):
    monkeypatch.setattr(report, "WINDOW", 2)
    monkeypatch.setattr(look, "WINDOWS", 2)
    engine = Driven(synced, handlers=(Recorder("timer"),))
    for n in range(6):
        engine.live.arm("timer", f"a{n}", due_in=600)
    _, _, body = get(page_of(synced), "/deadlines?kind=timer")
    cells = [c for c in Tags(body).cells if re.fullmatch(r"a\d", c)]
    assert cells == ["a0", "a1", "a2", "a3"]
    engine.abandon()


def statements(url, page, path="/"):
    """What a look sends."""
    sent = []

    def note(conn, cursor, statement, parameters, context, many):
        sent.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert get(page, path)[0] == 200
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return [each for each in sent if "liveness_event" in each]


def test_a_million_events_are_read_no_further_than_said(synced, monkeypatch):
    monkeypatch.setattr(db_events, "WINDOW", 10)
    monkeypatch.setattr(recent, "WINDOWS", 4)
    engine = Driven(synced)
    with engine.connect() as connection:
        for n in range(90):
            event = taken(What.RESTARTED, "heir", "dead", f"k{n}")
            EventLog(Clock()).add(connection, [event])
    sent = statements(synced, page_of(synced))
    assert len(sent) == 4
    for each in sent:
        assert "ORDER BY liveness_event.id DESC" in each
        assert "LIMIT" in each
    _, _, body = get(page_of(synced))
    assert "More happened than is read here" in body
    assert "<b>40</b><small>from 1 owners" in body
    engine.abandon()


def test_history_is_read_by_its_primary_key(schema_url, backend):
    engine = Driven(schema_url)
    row = {"at": Clock().database_now(), "what": "fired"}
    with engine.connect() as connection:
        for _ in range(3):
            connection.execute(sa.insert(tables.event).values([row] * 1000))
        page = (
            sa.select(tables.event)
            .where(tables.event.c.id < 2500)
            .order_by(tables.event.c.id.desc())
            .limit(db_events.WINDOW)
        )
        text = str(
            page.compile(connection.engine, compile_kwargs={"literal_binds": True})
        )
        word = "EXPLAIN QUERY PLAN" if backend == "sqlite" else "EXPLAIN"
        plan = str(connection.exec_driver_sql(f"{word} {text}").all())
    wanted = {"sqlite": "PRIMARY KEY", "mariadb": "PRIMARY", "postgresql": "_pkey"}
    assert wanted[backend] in plan
    assert "filesort" not in plan.lower()
    assert "Sort" not in plan
    engine.abandon()


# --- what it refuses, and bears -------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_refuses_to_write(synced, method):
    for path in ("/", "/engines", "/deadlines", "/deadline?kind=a&key=b"):
        status, headers, _ = get(page_of(synced), path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert get(page_of(synced), "/other")[0] == 404
    status, _, body = get(page_of(synced), "/", "HEAD")
    assert (status, body) == (200, "")


def test_it_can_be_told_to_hold_still(synced):
    assert "http-equiv" in get(page_of(synced))[2]
    assert "http-equiv" not in get(page_of(synced), "/?still")[2]


def test_many_that_look_are_one_look(synced, monkeypatch):
    monkeypatch.setattr(app, "FRESH", 1000.0)
    page, looks = page_of(synced), []
    one = glance.fleet

    def fleet(connection, settings):
        looks.append(1)
        return one(connection, settings)

    monkeypatch.setattr(glance, "fleet", fleet)
    threads = [threading.Thread(target=get, args=(page,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1
    for n in range(2 * app.KEPT):
        get(page, f"/deadlines?kind={n}")
    assert len(page._others._kept) == app.KEPT


def test_a_look_that_takes_long_serves_for_longer(synced, monkeypatch):
    monkeypatch.setattr(app, "SHARE", 10.0)
    now, looks = [100.0], []
    monkeypatch.setattr(app.time, "monotonic", lambda: now[0])

    def slow(connection):
        looks.append(now[0])
        now[0] += 2.0

    kept = app.Looks(Settings.of(connection=synced))
    for moment in (100.0, 121.9, 122.0):
        now[0] = moment
        kept.get("x", slow)
    assert looks == [100.0, 122.0]


def test_an_outage_is_a_banner_over_what_was_seen_last_and_ends(mariadb_url, mariadb):
    migration.sync(mariadb_url)
    engine = Driven(mariadb_url, engine_id="engine-1")
    page, late_comer = page_of(mariadb_url), page_of(mariadb_url)
    assert get(page)[0] == 200
    mariadb.stop()
    for path in ("/", "/engines"):
        status, _, body = get(page, path)
        assert status == 503
        assert 'class="banner"' in body
        assert re.search(r"What is below was seen [\d.]+ (ms|s) ago, at <time", body)
        assert "engine-1" in body
        assert 'http-equiv="refresh"' in body
        assert "not-a-secret" not in body
    for path in ("/deadlines?state=armed", "/deadline?kind=a&key=b"):
        status, _, body = get(page, path)
        assert (status, 'class="banner"' in body) == (503, True)
    status, _, body = get(late_comer)
    assert status == 503
    assert "Nothing has been seen yet." in body
    mariadb.start()
    status, _, body = get(page)
    assert (status, "banner" in body) == (200, False)
    engine.abandon()


# --- words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1000 ms"),
        (1.0, "1 s"),
        (67.3, "67.3 s"),
        (120.0, "2 min"),
        (9000.0, "2.5 h"),
        (7 * 86400.0, "7 d"),
        (-3.25, "-3.2 s"),
    ],
)
def test_a_time_span_in_words(value, text):
    assert span(value) == text


def test_an_engine_is_named_by_as_much_as_tells_it_from_others():
    assert html.short("0b6f5b0e-1111-4222-8333-444455556666") == "0b6f5b0e"
    assert html.short("heat-engine-1") == "heat-engine-1"
    assert html.short("<" + "x" * 40 + "y") == "&lt;xxxxx…" + "x" * 12 + "y"
    assert html.short(None) == "nobody"


# --- the program ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--listen", "nowhere"], ["nowhere", "HOST:PORT"]),
        (["--listen", "192.0.2.1:80"], ["assign requested address"]),
        (["--refresh", "often"], ["often"]),
        (["--connection", "sqlite:////nowhere/x"], ["cannot be used"]),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(synced, argv, words):
    text = one_line(Command(web.main, "--connection", synced, *argv).result())
    assert text.startswith("liveness-web: ")
    for word in words:
        assert word in text
