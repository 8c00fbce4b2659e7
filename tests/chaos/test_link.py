"""A link's faults, each seen from both ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.link import ANSWERS, QUESTIONS, Link


class Echo:
    """Answers every question with itself, and remembers it."""

    def __init__(self) -> None:
        self.asked = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(end,), daemon=True).start()

    def _answer(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := end.recv(1000):
                self.asked += data
                end.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    made = Link("127.0.0.1", echo.port)
    yield made
    made.close()


def ask(client: socket.socket, question: bytes, patience: float = 10.0) -> bytes | None:
    """The answer; nothing at the end of the connection; None: no answer in time."""
    client.settimeout(patience)
    try:
        client.sendall(question)
        return client.recv(1000)
    except TimeoutError:
        return None
    except OSError:
        return b""


def until(true, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def client(link: Link) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", link.port)) as made:
        yield made


def test_it_forwards(link: Link, client: socket.socket):
    assert ask(client, b"one") == b"one"


def test_cut(link: Link, client: socket.socket):
    assert ask(client, b"one") == b"one"
    link.cut()
    assert ask(client, b"two") == b""
    with socket.create_connection(("127.0.0.1", link.port)) as other:
        assert ask(other, b"three") == b"three"


def test_no_questions_arrive_and_then_they_do(link, echo, client):
    link.stall(QUESTIONS)
    assert ask(client, b"late", 0.2) is None
    assert echo.asked == b""
    client.close()  # its end is late as well
    link.heal()
    until(lambda: echo.asked == b"late")


def test_no_answers_arrive_and_then_they_do(link, echo, client):
    link.stall(ANSWERS)
    assert ask(client, b"late", 0.2) is None
    assert echo.asked == b"late"
    link.heal()
    client.settimeout(10)
    assert client.recv(1000) == b"late"


def test_an_answer_is_lost_after_it_was_given(link, echo, client):
    link.lose_answers(b"COMMIT")
    assert ask(client, b"SELECT") == b"SELECT"
    assert ask(client, b"COMMIT") == b""
    assert echo.asked == b"SELECTCOMMIT"
    assert link.lost == 1


def test_a_statement_is_held_back_and_executed_when_its_client_is_gone(
    link, echo, client
):
    link.hold(b"UPDATE")
    assert ask(client, b"SELECT") == b"SELECT"
    assert ask(client, b"UPDATE", 0.2) is None
    client.close()
    assert echo.asked == b"SELECT"
    link.heal()
    until(lambda: echo.asked == b"SELECTUPDATE")


def test_delay(link: Link, client: socket.socket):
    link.delay(0.2, ANSWERS)
    began = time.monotonic()
    assert ask(client, b"one") == b"one"
    assert time.monotonic() - began >= 0.2
