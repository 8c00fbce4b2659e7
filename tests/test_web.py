"""The page: what it shows, escapes, refuses; in a real browser where there is one."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import threading
from html.parser import HTMLParser
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import sqlalchemy as sa

from liveness import Settings
from liveness.clock import Clock
from liveness.cmd import web
from liveness.db import migration
from liveness.db.events import EventLog
from liveness.events import Event, What
from tests.commands import Command, one_line
from tests.fleet import Driven, Recorder
from tests.test_migrations import run

SCRIPT = "<script>alert('x')</script>\x1b[2J&\"'"
SECRET = "s3cr3t-" + "payload"


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(web, "FRESH", -1.0)


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
    """The elements of a page, and the text in cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self._open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")
        self._open = tag == "td" or (self._open and tag in ("meter", "span"))

    def handle_endtag(self, tag):
        self._open = self._open and tag != "td"

    def handle_data(self, data):
        if self._open:
            self.cells[-1] += data


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


def test_it_shows_engines_deadlines_takeovers_and_what_is_parked(schema_url):
    engine = hostile_world(schema_url)
    status, headers, body = get(page_of(schema_url), "/?state=armed")
    assert status == 200
    found = Tags(body)
    assert "engine-1" in found.cells
    assert ["timer", "2", "0", "1"] == found.cells[found.cells.index("timer") :][:4]
    assert "fenced" in found.cells
    assert "engine-1" in found.cells[found.cells.index("armed") :]
    assert found.tags.count("meter") == 1
    assert found.tags.count("rect") == 1
    assert 'http-equiv="refresh" content="5"' in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    engine.abandon()


def test_hostile_names_are_text_and_payloads_are_not_there(schema_url):
    engine = hostile_world(schema_url)
    for query in ("", "?state=armed", "?prefix=%3Cscript"):
        _, _, body = get(page_of(schema_url), f"/{query}")
        found = Tags(body)
        assert "script" not in found.tags
        assert any("<script>" in cell for cell in found.cells)
        assert "\x1b" not in body
        assert SECRET not in body
    engine.abandon()


def test_what_is_asked_is_escaped_and_bounded(synced):
    query = "/?kind=%22%3E%3Cscript%3E&state=%3Cb%3E&prefix=" + "x" * 5000
    status, _, body = get(page_of(synced), query)
    assert status == 200
    assert "script" not in Tags(body).tags
    assert "x" * 256 not in body


@pytest.mark.parametrize(
    ("query", "keys"),
    [
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
    _, _, body = get(page_of(synced), f"/?{query}")
    cells = Tags(body[body.index("Find deadlines") :]).cells
    assert [cell for cell in cells if re.fullmatch(r"[ab]\d", cell)] == keys
    engine.abandon()


def test_a_search_ends_somewhere(synced, monkeypatch):
    from liveness.db import report

    monkeypatch.setattr(report, "WINDOW", 2)
    monkeypatch.setattr(web, "WINDOWS", 2)
    engine = Driven(synced, handlers=(Recorder("timer"),))
    for n in range(6):
        engine.live.arm("timer", f"a{n}", due_in=600)
    _, _, body = get(page_of(synced), "/?kind=timer")
    cells = Tags(body[body.index("Find deadlines") :]).cells
    assert [c for c in cells if re.fullmatch(r"a\d", c)] == ["a0", "a1", "a2", "a3"]
    engine.abandon()


@pytest.mark.parametrize("count", [0, 3, 500])
def test_any_number_of_engines_is_shown(synced, count):
    fill = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
        " INSERT INTO liveness_engine (id, token, host, pid, binary, version, state,"
        " started_at, beat_seq, beat_at, ttl) SELECT 'e' || i, i, 'h', i, 'b', 'v',"
        " 'live', strftime('%Y-%m-%d %H:%M:%f', 'now'), 1,"
        f" strftime('%Y-%m-%d %H:%M:%f', 'now'), 30 FROM n WHERE i <= {count}"
    )
    run(synced, fill)
    _, _, body = get(page_of(synced))
    assert f"<h2>Engines ({count})</h2>" in body
    assert body.count("<meter") == count


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_refuses_to_write(synced, method):
    assert get(page_of(synced), "/", method)[0] == 405
    assert get(page_of(synced), "/other")[0] == 404
    status, _, body = get(page_of(synced), "/", "HEAD")
    assert (status, body) == (200, "")


def test_many_that_look_are_one_look(synced, monkeypatch):
    monkeypatch.setattr(web, "FRESH", 1000.0)
    page, looks = page_of(synced), []
    monkeypatch.setattr(page, "_look", lambda asked: looks.append(asked) or "no")
    threads = [threading.Thread(target=get, args=(page,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks == [web.Asked()]
    for n in range(3 * web.KEPT):
        get(page, f"/?kind={n}")
    assert len(page._looks) == web.KEPT


def test_an_outage_is_a_banner_and_ends(mariadb_url, mariadb):
    migration.sync(mariadb_url)
    page = page_of(mariadb_url)
    assert get(page)[0] == 200
    mariadb.stop()
    status, _, body = get(page)
    assert status == 503
    assert 'class="banner"' in body
    assert "not-a-secret" not in body
    mariadb.start()
    assert get(page)[0] == 200


@contextlib.contextmanager
def served(url):
    """The page as a program; gives its port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = Command(web.main, "--connection", url, "--listen", f"127.0.0.1:{port}")
    from tests.fleet import wait_until

    def answers():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/style.css")
            return connection.getresponse().status == 200
        except OSError:
            return False

    wait_until(answers, 60)
    yield port
    os.kill(command.pid, signal.SIGINT)
    assert command.result().code == 130


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_shows_it(synced, tmp_path):
    engine = hostile_world(synced)
    picture = tmp_path / "page.png"
    with served(synced) as port:
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={tmp_path}/profile",
                f"--screenshot={picture}",
                "--dump-dom",
                f"http://127.0.0.1:{port}/?state=armed",
            ],
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert "<h2>Engines (1)</h2>" in done.stdout, done.stderr
    assert "engine-1" in done.stdout
    assert "<script>" not in done.stdout
    if picture.exists():
        assert picture.read_bytes().startswith(b"\x89PNG")
    engine.abandon()


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
