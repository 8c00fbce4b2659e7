"""One engine's way to the database: a TCP proxy whose two directions fail apart.

What a client sends are questions, what the server sends are answers. Either can be
late, or stand still while the connection seems to live. What was sent into a direction
that stands still arrives when it goes on, the end of the connection included: that is
how a statement is executed long after its engine has given it up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time

QUESTIONS, ANSWERS = "questions", "answers"


@dataclasses.dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    doomed: bool = False  # its next answer is lost, and the connection with it

    def cut(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self.client, self.server):
            end.close()


class Link:
    """Forwards ``127.0.0.1:port`` to ``host:port`` until closed."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.lost = 0
        self._flowing = {QUESTIONS: threading.Event(), ANSWERS: threading.Event()}
        self._released = threading.Event()
        self._delays = {QUESTIONS: 0.0, ANSWERS: 0.0}
        self._mark: bytes | None = None
        self._held: bytes | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection; new ones are accepted."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()

    def stall(self, *directions: str) -> None:
        """Forward nothing in these directions until :meth:`heal`; close nothing."""
        for direction in directions:
            self._flowing[direction].clear()

    def delay(self, seconds: float, *directions: str) -> None:
        """From now on everything in these directions is late by so much."""
        for direction in directions:
            self._delays[direction] = seconds

    def lose_answers(self, mark: bytes) -> None:
        """Until :meth:`heal`: whoever asks something with ``mark`` in it is answered by
        the end of the connection, after the server has answered."""
        self._mark = mark

    def hold(self, mark: bytes) -> None:
        """Until :meth:`heal`: whatever is asked with ``mark`` in it waits, and arrives
        then, whether its client is still there or not. All else flows."""
        self._released.clear()
        self._held = mark

    def heal(self) -> None:
        """Everything flows, what has piled up first."""
        self._mark = self._held = None
        self._released.set()
        for direction in (QUESTIONS, ANSWERS):
            self._delays[direction] = 0.0
            self._flowing[direction].set()

    def close(self) -> None:
        """End it for good."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()
        self.heal()
        self.cut()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, 5)
        except OSError:  # as if nobody listened here
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.add(pair)
        answers = threading.Thread(
            target=self._forward, args=(pair, ANSWERS), daemon=True
        )
        answers.start()
        self._forward(pair, QUESTIONS)
        answers.join()
        with self._lock:
            self._pairs.discard(pair)
        pair.close()

    def _forward(self, pair: _Pair, direction: str) -> None:
        asking = direction == QUESTIONS
        source, target = pair.client, pair.server
        if not asking:
            source, target = target, source
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asking and self._mark is not None and self._mark in data:
                    pair.doomed = True
                elif not asking and pair.doomed:
                    self.lost += 1
                    break
                if asking and self._held is not None and self._held in data:
                    self._released.wait()
                self._pass(direction)
                target.sendall(data)
        self._pass(direction)
        pair.cut()

    def _pass(self, direction: str) -> None:
        if delay := self._delays[direction]:
            time.sleep(delay)
        self._flowing[direction].wait()
