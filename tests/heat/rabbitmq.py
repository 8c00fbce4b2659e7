"""A private RabbitMQ: own ports, own node name, own folder, own epmd."""

from __future__ import annotations

import base64
import glob
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess

from tests.heat.processes import Group, LabError
from tests.proc import until
from tests.servers import _free_port

USER = "heat"
PASSWORD = "not-a-secret-77ab"
START_SECONDS = 120
# The broker asks for a protocol header and answers with Connection.Start.
_HELLO = b"AMQP\x00\x00\x09\x01"


def _hash(password: str) -> str:
    """As `rabbit_password_hashing_sha256` writes it."""
    salt = b"salt"
    return base64.b64encode(
        salt + hashlib.sha256(salt + password.encode()).digest()
    ).decode()


class RabbitMQ:
    """`vhosts` virtual hosts, vhost0 to vhost<n-1>, for one user. It may be stopped,
    killed and started again: ports and virtual hosts stay, queued messages do not."""

    install = "apt-get install --no-install-recommends rabbitmq-server"

    def __init__(self, group: Group, vhosts: int) -> None:
        self._group = group
        self.port, self._dist_port, self._epmd_port = (_free_port() for _ in range(3))
        self._child: subprocess.Popen | None = None
        folder = group.path("rabbitmq")
        folder.mkdir()
        self._write_configuration(vhosts)
        epmd = shutil.which("epmd")
        assert epmd is not None, self.available()
        # In the foreground and before the broker, which else starts a daemon.
        group.spawn(
            "epmd", [epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)]
        )
        if not until(lambda: self._connects(self._epmd_port), 30):
            raise LabError(f"epmd does not listen\n{group.tail('epmd')}")

    @classmethod
    def available(cls) -> str | None:
        """None, or why it cannot be had and what to install."""
        if cls._program() is None or shutil.which("epmd") is None:
            return f"RabbitMQ: no rabbitmq-server here ({cls.install})"
        return None

    @staticmethod
    def _program() -> str | None:
        # The wrapper in /usr/sbin changes to a user of its own and its folders.
        found = sorted(glob.glob("/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server"))
        return found[-1] if found else None

    def url(self, vhost: int) -> str:
        return f"rabbit://{USER}:{PASSWORD}@127.0.0.1:{self.port}/vhost{vhost}"

    def launch(self) -> None:
        """Start it, and do not wait."""
        program = self._program()
        assert program is not None, self.available()
        self._child = self._group.spawn("rabbitmq", [program], self._environment())

    def wait_ready(self) -> None:
        until(lambda: not self.running or self._answers(), START_SECONDS, 0.1)
        if not (self.running and self._answers()):
            raise LabError(
                f"RabbitMQ is not up after {START_SECONDS} s\n"
                + self._group.tail("rabbitmq", 40)
            )

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """Stop cleanly: connections are closed, not dropped."""
        assert self._child is not None
        # The shell around the broker hands the signal on.
        self._child.send_signal(signal.SIGTERM)
        until(lambda: not self.running, 30)
        self.kill()

    def kill(self) -> None:
        assert self._child is not None
        self._group.end(self._child)

    def restart(self) -> None:
        self.stop()
        self.launch()
        self.wait_ready()

    def _connects(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 2).close()
        except OSError:
            return False
        return True

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as sock:
                sock.settimeout(2)
                sock.sendall(_HELLO)
                return sock.recv(1) == b"\x01"
        except OSError:
            return False

    def _write_configuration(self, vhosts: int) -> None:
        write = self._group.write
        names = [f"vhost{number}" for number in range(vhosts)]
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "rabbit_version": "3.10.0",
            "users": [
                {
                    "name": USER,
                    "password_hash": _hash(PASSWORD),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": "",
                }
            ],
            "vhosts": [{"name": name} for name in names],
            "permissions": [
                {"user": USER, "vhost": name, **everything} for name in names
            ],
        }
        path = write("rabbitmq/definitions.json", json.dumps(definitions))
        write(
            "rabbitmq/rabbitmq.conf",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"load_definitions = {path}\n"
            "disk_free_limit.absolute = 1MB\n",
        )
        write("rabbitmq/enabled_plugins", "[].\n")
        write("rabbitmq/none.conf", "")

    def _environment(self) -> dict[str, str]:
        folder = self._group.folder + "/rabbitmq"
        return {
            "HOME": folder,
            "RABBITMQ_NODENAME": "lab@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_BASE": folder,
            "RABBITMQ_MNESIA_BASE": os.path.join(folder, "mnesia"),
            "RABBITMQ_LOG_BASE": os.path.join(folder, "log"),
            "RABBITMQ_PID_FILE": os.path.join(folder, "pid"),
            "RABBITMQ_CONFIG_FILE": os.path.join(folder, "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": os.path.join(folder, "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(folder, "enabled_plugins"),
            "RABBITMQ_LOGS": "-",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            # Few schedulers, and none that spins while it waits for work.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }
