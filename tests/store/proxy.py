"""A TCP proxy before a database server, for answers that get lost.

What a client sends is forwarded; the connection can be cut after the server has
answered a statement but before the client hears of it, and stalled as a network
stalls: nothing is closed, nothing arrives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import threading


@dataclasses.dataclass(eq=False)
class _Pair:
    """A client's connection, and the one to the server made for it."""

    client: socket.socket
    server: socket.socket
    doomed: bool = False  # what the server answers next is the last thing it says


class Proxy:
    """Forwards ``127.0.0.1:port`` to ``host:port`` until closed; to the socket of that
    path when ``host`` is one. All but cut_after_* take effect before they return."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.RLock()
        self._pairs: set[_Pair] = set()
        self._mark: bytes | None = None
        self._was_cut = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def point(self, host: str, port: int) -> None:
        """Forward new connections there; those that are open stay where they are."""
        with self._lock:
            self._target = (host, port)

    def cut(self) -> None:
        """Close every connection; new ones are accepted."""
        with self._lock:
            for pair in list(self._pairs):
                self._close(pair)

    def cut_after_next_commit(self) -> None:
        """Forward the next COMMIT, wait for its answer, and close instead of telling
        the client: it is committed, and the client cannot know."""
        self.cut_after_next(b"COMMIT")

    def cut_after_next(self, mark: bytes = b"") -> None:
        """The same for the next thing sent that contains ``mark``."""
        with self._lock:
            self._was_cut.clear()
            self._mark = mark

    def wait_cut(self, seconds: float = 10.0) -> bool:
        """True when an answer was lost since the last ``cut_after_*``."""
        return self._was_cut.wait(seconds)

    def stall(self) -> None:
        """Forward nothing, in no direction, until :meth:`resume`; close nothing.
        Connecting works, as the kernel answers for a server that hangs."""
        with self._lock:
            self._flowing.clear()

    def resume(self) -> None:
        """Go on, with all that has piled up."""
        self._flowing.set()

    def close(self) -> None:
        """End it for good."""
        self._closing = True
        self._flowing.set()
        self._thread.join(10)
        self.cut()
        self._listener.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._closing:
            self._flowing.wait()
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if not self._flowing.is_set():
                        break
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data in self._pairs:
                        self._forward(key.data, key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = self._reach(*self._target)
        except OSError:  # as if nobody listened here
            client.close()
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        for end in (client, server):
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end, selectors.EVENT_READ, pair)

    @staticmethod
    def _reach(host: str, port: int) -> socket.socket:
        if not host.startswith("/"):
            return socket.create_connection((host, port), 5)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(host)
        except OSError:
            made.close()
            raise
        return made

    def _forward(self, pair: _Pair, source: socket.socket) -> None:
        from_client = source is pair.client
        target = pair.server if from_client else pair.client
        try:
            data = source.recv(1 << 16)
            if not data:
                self._close(pair)
            elif not from_client and pair.doomed:
                self._close(pair)
                self._was_cut.set()
            else:
                if from_client and self._mark is not None and self._mark in data:
                    pair.doomed, self._mark = True, None
                target.sendall(data)
        except OSError:
            self._close(pair)

    def _close(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        for end in (pair.client, pair.server):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()
