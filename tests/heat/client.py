"""Requests to the driver process, and its answers."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from pathlib import Path
from typing import Any

from tests.heat.processes import Group, LabError
from tests.heat.venv import Venv


class RemoteError(Exception):
    """Heat refused, or no engine answered; `type` is the class it raised there."""

    def __init__(self, type_: str, message: str) -> None:
        super().__init__(f"{type_}: {message}")
        self.type = type_


class Client:
    def __init__(
        self, group: Group, venv: Venv, name: str, config: Path, auth_url: str
    ) -> None:
        self._group, self._name = group, name
        driver = str(Path(__file__).with_name("driver.py"))
        self._child = group.spawn(
            name,
            [*venv.python, driver, str(config), auth_url],
            stdin=-1,
            stdout=-1,
        )
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future] = {0: Future()}
        self._lock = threading.Lock()
        self._ready = self._waiting[0]
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, method: str, *args: Any, seconds: float = 90, **kwargs: Any) -> Any:
        return self.answer(self.begin(method, *args, **kwargs), seconds)

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Future:
        """Send a request whose answer may not come; `answer` waits for it."""
        self._wait_started()
        number, future = next(self._numbers), Future()
        self._waiting[number] = future
        request = {"id": number, "method": method, "args": args, "kwargs": kwargs}
        with self._lock:
            assert self._child.stdin is not None
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        return future

    def answer(self, future: Future, seconds: float = 90) -> Any:
        try:
            return future.result(seconds)
        except NoAnswer:
            raise RemoteError("NoAnswer", f"not within {seconds} s") from None

    def close(self) -> None:
        self._group.end(self._child)

    def _wait_started(self) -> None:
        try:
            self._ready.result(60)
        except (NoAnswer, LabError) as exc:
            raise LabError(
                f"the driver does not answer\n{self._group.tail(self._name)}"
            ) from exc

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if "error" in answer:
                error = answer["error"]
                future.set_exception(RemoteError(error["type"], error["message"]))
            else:
                future.set_result(answer["result"])
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(LabError(f"{self._name} has ended"))
