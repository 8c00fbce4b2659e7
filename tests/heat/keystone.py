"""A private keystone under gunicorn."""

from __future__ import annotations

import base64
import http.client
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.heat.processes import Group, LabError
from tests.heat.venv import Venv
from tests.proc import until
from tests.servers import MariaDB, _free_port

START_SECONDS = 90


class Keystone:
    def __init__(self, group: Group, venv: Venv, database: MariaDB) -> None:
        self._group, self._venv, self._database = group, venv, database
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v3"
        self._child: subprocess.Popen | None = None

    def start(self) -> None:
        self._database.create_database("keystone")
        config = self._write_configuration()
        manage = [*self._venv.script("keystone-manage"), "--config-file", str(config)]
        self._group.run("keystone-db-sync", [*manage, "db_sync"])
        bootstrap = [*manage, "bootstrap", "--bootstrap-password", "admin"]
        bootstrap += ["--bootstrap-region-id", "RegionOne"]
        for interface in ("admin", "internal", "public"):
            bootstrap += [f"--bootstrap-{interface}-url", self.url]
        with ThreadPoolExecutor() as pool:
            done = pool.submit(self._group.run, "keystone-bootstrap", bootstrap)
            self._launch(config)
            done.result()
        self._wait_ready()
        entities = [*self._venv.python, str(Path(__file__).with_name("entities.py"))]
        self._group.run("keystone-entities", [*entities, self.url])

    def _launch(self, config: Path) -> None:
        # keystone reads sys.argv: gunicorn is given no arguments, but a file.
        self._group.write(
            "keystone/gunicorn.conf.py",
            "wsgi_app = 'keystone.wsgi.api:application'\n"
            f"bind = '127.0.0.1:{self.port}'\n"
            "workers = 1\n"
            "threads = 4\n"
            "control_socket_disable = True\n",
        )
        self._child = self._group.spawn(
            "keystone",
            self._venv.script("gunicorn"),
            {"OS_KEYSTONE_CONFIG_FILES": str(config)},
            cwd=self._group.path("keystone"),
        )

    def _wait_ready(self) -> None:
        assert self._child is not None
        child = self._child
        if (
            not until(
                lambda: child.poll() is not None or self._answers(), START_SECONDS, 0.1
            )
            or not self._answers()
        ):
            raise LabError(
                f"keystone is not up after {START_SECONDS} s\n"
                + self._group.tail("keystone", 40)
            )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/v3")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _write_configuration(self) -> Path:
        # What fernet_setup and credential_setup would write, without their starts.
        for name in ("fernet", "credential"):
            folder = self._group.path("keystone", name)
            folder.mkdir(parents=True, mode=0o700)
            for number in "01":
                key = base64.urlsafe_b64encode(os.urandom(32))
                (folder / number).write_bytes(key)
                (folder / number).chmod(0o600)
        folder = self._group.path("keystone")
        return self._group.write(
            "keystone/keystone.conf",
            "[DEFAULT]\n"
            f"[database]\nconnection = {self._database.url('keystone')}\n"
            f"[fernet_tokens]\nkey_repository = {folder}/fernet\n"
            f"[fernet_receipts]\nkey_repository = {folder}/fernet\n"
            f"[credential]\nkey_repository = {folder}/credential\n"
            "[cache]\nenabled = False\n"
            "[identity]\npassword_hash_rounds = 4\n",
        )
