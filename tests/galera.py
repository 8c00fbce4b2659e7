"""A private Galera cluster: three real nodes in a network of their own.

The nodes have the addresses 127.0.0.1 to 127.0.0.3 in a network namespace that only
they and this process are in, so that whatever is cut there is cut nowhere else, and is
gone with the run, however that ends. Clients reach a node by its socket in the file
system. Nothing but ``mariadbd`` and Galera's library is needed: a node that was away
gets what it missed from a donor's cache, and the one script that the server wants to
call for more is written here.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from tests.proc import until
from tests.servers import MariaDB, Server, ServerError, _program

SIZE = 3
PORT = 3306

# How long a silent node is waited for: shorter than by default (5, 15 and 7.5 s), so
# that a test sees in two seconds what operators see in six.
IMPATIENT = (
    "evs.keepalive_period=PT0.5S;evs.inactive_check_period=PT0.2S;"
    "evs.suspect_timeout=PT1.5S;evs.inactive_timeout=PT4S;evs.install_timeout=PT4S"
)

# The server calls it wsrep_sst_METHOD. A joiner says where it can be reached, then
# from where on it has everything; a donor is told (--bypass) that its cache suffices.
TRANSFER = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    --role) role=$2 ;;
    --address) address=$2 ;;
    --gtid) gtid=$2 ;;
    --gtid-domain-id) domain=$2 ;;
    --parent) parent=$2 ;;
    --bypass) bypass=1 ;;
    esac
    shift
done
if [ "$role" = joiner ]; then
    echo "ready $address/$$"
    until [ -e "$LIVENESS_TRANSFER/$$" ]; do
        kill -0 "$parent" || exit 1
        sleep 0.05
    done
    cat "$LIVENESS_TRANSFER/$$"
    rm "$LIVENESS_TRANSFER/$$"
elif [ "$bypass" ]; then
    file=$LIVENESS_TRANSFER/${address##*/}
    echo continue
    echo "$gtid $domain" >"$file.new"
    mv "$file.new" "$file"
    echo "done $gtid"
else
    echo "only what is in a donor's cache can be transferred here" >&2
    exit 95
fi
"""


class Network:
    """A network namespace without any process in it but those that :meth:`command`
    starts; it ends with the last of them and with this process."""

    def __init__(self) -> None:
        # As root the namespace is all there is to make; others need to be root in it.
        self._rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        holder = subprocess.Popen(
            ["unshare", "--net", *self._rootless, "sh", "-c", "echo; read end"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._files = []
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline():
            names = ["net", "user"] if self._rootless else ["net"]
            self._files = [
                os.open(f"/proc/{holder.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                for name in names
            ]
        _, error = holder.communicate()
        if not self._files:
            raise ServerError(f"no network namespace: {error.decode().strip()}")
        self.run("ip", "link", "set", "lo", "up")

    @property
    def files(self) -> tuple[int, ...]:
        """What a command of :meth:`command` has to inherit."""
        return tuple(self._files)

    def command(self, *command: str) -> list[str]:
        """``command``, to be run in this network."""
        net, *user = self._files
        inside = [f"--net=/proc/self/fd/{net}"]
        for file in user:
            inside += [f"--user=/proc/self/fd/{file}", "--preserve-credentials"]
        return ["nsenter", *inside, *command]

    def run(self, *command: str) -> None:
        result = subprocess.run(
            self.command(*command),
            pass_fds=self.files,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise ServerError(f"{' '.join(command)}: {result.stderr.strip()}")

    def cut(self, one: str, other: str) -> None:
        """Nothing gets through between two addresses; nobody is told."""
        for source, target in ((one, other), (other, one)):
            rule = ["-s", source, "-d", target, "-j", "DROP"]
            self.run(_firewall(), "-w", "-A", "INPUT", *rule)

    def heal(self) -> None:
        """Everything gets through."""
        self.run(_firewall(), "-w", "-F", "INPUT")

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []


def _firewall() -> str:
    name = _program("iptables-legacy") or _program("iptables")
    assert name is not None
    return name


class Node(MariaDB):
    """One node; everything that a :class:`Server` can, in a cluster."""

    label = "Galera"

    def __init__(self, cluster: Galera, number: int) -> None:
        super().__init__()
        self.cluster = cluster
        self.number = number
        self.address = f"127.0.0.{number}"
        self._bootstrap = False
        self._position: str | None = None

    def __str__(self) -> str:
        return f"node {self.number} of Galera"

    def url(
        self, name: str = "", user: str | None = None, password: str | None = None
    ) -> str:
        url = super().url(name, user, password)
        return f"{url}&unix_socket={quote(self.socket, safe='')}"

    @property
    def socket(self) -> str:
        return self._path("sock")

    def status(self, name: str) -> str:
        """A status variable; "" while the node does not answer."""
        with contextlib.suppress(Exception):
            return str(self.admin(f"SHOW STATUS LIKE '{name}'")[0][1])
        return ""

    @property
    def _state(self) -> str:
        return self._path("data", "grastate.dat")

    @property
    def synced(self) -> bool:
        return self.status("wsrep_local_state_comment") == "Synced"

    @property
    def primary(self) -> bool:
        """It is in the part of the cluster that decides."""
        return self.status("wsrep_cluster_status") == "Primary"

    @property
    def sees(self) -> int:
        """How many nodes are in its part of the cluster, itself among them."""
        return int(self.status("wsrep_cluster_size") or 0)

    def conflicts(self) -> int:
        """Transactions of its clients that lost against another node's, so far: at
        their commit, and before it."""
        names = ("wsrep_local_cert_failures", "wsrep_local_bf_aborts")
        return sum(int(self.status(name) or 0) for name in names)

    def bootstrap(self) -> None:
        """Start as the first node of the cluster, whatever the others may have."""
        self._bootstrap = True
        if self.folder and os.path.exists(self._state):
            with open(self._state) as file:
                text = file.read()
            with open(self._state, "w") as file:
                file.write(text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        try:
            self.start()
        finally:
            self._bootstrap = False

    def position(self) -> tuple[str, int]:
        """Up to where a node that does not run has everything: history, number."""
        with open(self._state) as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        history, number = lines["uuid"].strip(), int(lines["seqno"])
        if number < 0:  # it did not stop by itself
            log = self._path("recovered.log")
            self._initialise_with(
                [*self._plainly(), "--wsrep-recover", f"--log-error={log}"]
            )
            with open(log) as text:
                found = [ln for ln in text if "WSREP: Recovered position" in ln]
            os.unlink(log)
            history, _, last = found[-1].split()[-1].partition(":")
            number = int(last.split(",")[0])
        return history, number

    def set_clock(self, seconds: float) -> None:
        """Its clock (not its monotonic one) is so far ahead of this machine's."""
        self.cluster.need_clocks()
        self._write_clock(seconds)

        def shown() -> bool:
            (row,) = self.admin("SELECT UNIX_TIMESTAMP(NOW(6))")
            return abs(float(row[0]) - time.time() - seconds) < 1.0

        if self.running and not until(shown, 15):
            raise ServerError(f"the clock of {self} cannot be set")

    def _write_clock(self, seconds: float) -> None:
        with open(self._path("clock.new"), "w") as file:
            file.write(f"{seconds:+.3f}\n")
        os.replace(self._path("clock.new"), self._path("clock"))

    # --- what it is to a Server ---------------------------------------------------

    def _make_folder(self) -> None:
        super()._make_folder()
        self.port = PORT + self.number
        self._write_clock(0)
        self._own(self._path())

    def _own(self, path: str) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(path, user.pw_uid, user.pw_gid)

    def _run_as(self) -> dict:
        path = os.pathsep.join([self.cluster.folder, os.environ.get("PATH", "")])
        env = {**os.environ, "PATH": path, "LIVENESS_TRANSFER": self.cluster.folder}
        library = self.cluster.clock_library
        if library:
            env.update(
                LD_PRELOAD=library,
                FAKETIME_TIMESTAMP_FILE=self._path("clock"),
                FAKETIME_CACHE_DURATION="1",
                FAKETIME_DONT_FAKE_MONOTONIC="1",
            )
        return {"pass_fds": self.cluster.network.files, "env": env}

    def _settings(self) -> list[str]:
        settings = [s for s in super()._settings() if not s.startswith("--user=")]
        settings += [f"--user={'nobody' if os.geteuid() == 0 else 'root'}"]
        return [s.replace("log-file-size=64M", "log-file-size=16M") for s in settings]

    def _plainly(self) -> list[str]:
        """The command but for where to start from."""
        away = ("--bind-address=", "--port=")
        command = [c for c in super()._command() if not c.startswith(away)]
        members = ",".join(node.address for node in self.cluster.nodes)
        options = (
            f"gmcast.listen_addr=tcp://{self.address}:4567;"
            f"ist.recv_addr={self.address}:4568;gcache.size=32M;"
            f"{self.cluster.timeouts}"
        )
        return self.cluster.network.command(
            *command,
            f"--bind-address={self.address}",
            f"--port={self.port}",
            "--server-id=1",  # one for all nodes, as MariaDB's manual wants it
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={_library()}",
            "--wsrep-cluster-name=liveness",
            f"--wsrep-cluster-address=gcomm://{members}",
            f"--wsrep-node-name=node{self.number}",
            f"--wsrep-node-address={self.address}",
            f"--wsrep-node-incoming-address={self.address}",
            "--wsrep-sst-method=liveness",
            f"--wsrep-sst-receive-address={self.address}",
            f"--wsrep-provider-options={options}",
        )

    def _command(self) -> list[str]:
        command = self._plainly()
        if self._bootstrap:
            command.append("--wsrep-new-cluster")
        if self._position:
            command.append(f"--wsrep-start-position={self._position}")
        return command

    def _initialise(self) -> None:
        if self is self.cluster.nodes[0]:
            super()._initialise()
        else:
            source = self.cluster.nodes[0]._path("data")
            subprocess.run(
                ["cp", "--archive", "--sparse=always", source, self._path("data")],
                check=True,
            )
            for name in ("gvwstate.dat", "galera.cache"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path("data", name))

    def _create_user(self) -> None:
        if self is self.cluster.nodes[0]:
            super()._create_user()

    def _launch(self) -> None:
        self._position = None
        if os.path.exists(self._state):
            self._position = "{}:{}".format(*self.position())
        super()._launch()

    def _check_ready(self) -> None:
        state = self.status("wsrep_local_state_comment")
        if state != "Synced":
            raise ServerError(f"its state is {state or 'unknown'}")


class Galera:
    """Three nodes. Whatever a test does to them, :meth:`restore` undoes."""

    def __init__(self, timeouts: str = IMPATIENT) -> None:
        self.timeouts = timeouts
        self._cut = False
        self.folder = ""
        self.clock_library = _clock_library()
        self.nodes = [Node(self, number) for number in range(1, SIZE + 1)]

    @classmethod
    def available(cls) -> str | None:
        """None, or why no cluster can be had and what to install."""
        reason = MariaDB.available()
        if reason is not None:
            return reason
        needed = {"nsenter": "util-linux", "ip": "iproute2"}
        for name, package in needed.items():
            if _program(name) is None:
                return f"Galera: no {name} here (apt-get install {package})"
        if not (_program("iptables-legacy") or _program("iptables")):
            return "Galera: no iptables here (apt-get install iptables)"
        if _library() is None:
            return "Galera: no libgalera_smm.so here (apt-get install galera-4)"
        return None

    def __enter__(self) -> Galera:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def need_clocks(self) -> None:
        if self.clock_library is None:
            raise ServerError("no libfaketime here (apt-get install libfaketime)")

    def start(self) -> None:
        self.network = Network()
        try:
            first, *others = self.nodes
            first._make_folder()
            self._write_transfer(first)
            first._initialise()
            first.bootstrap()
            first._create_user()
            first.stop()  # its data, users included, is what the others begin with
            for node in others:
                node._make_folder()
                node._initialise()
            first.bootstrap()
            self._join(others)
        except BaseException:
            self.close()
            raise

    def _join(self, nodes: list[Node]) -> None:
        """One after another: of two that join at once, Galera may end one."""
        for node in nodes:
            node.start()

    def _write_transfer(self, node: Node) -> None:
        """In a folder of a node, so that it goes when that goes."""
        self.folder = node._path("transfer")
        os.mkdir(self.folder)
        node._own(self.folder)
        script = os.path.join(self.folder, "wsrep_sst_liveness")
        with open(script, "w") as file:
            file.write(TRANSFER)
        os.chmod(script, 0o755)

    def close(self) -> None:
        together(Server.close, self.nodes)
        self.network.close()

    # --- what happens to clusters -------------------------------------------------

    def partition(self, *nodes: Node) -> None:
        """Cut the network between these nodes and the others."""
        for node in nodes:
            for other in self.nodes:
                if other not in nodes:
                    self.cut(node, other)

    def cut(self, one: Node, other: Node) -> None:
        """Cut the network between two nodes; a third may still see both."""
        self._cut = True
        self.network.cut(one.address, other.address)

    def heal(self) -> None:
        """The network is whole again."""
        if self._cut:
            self.network.heal()
        self._cut = False

    def restore(self) -> None:
        """Have all nodes running, in one cluster, at the right time, and synced."""
        self.heal()
        for node in self.nodes:
            node.resume()
        if not any(node.running for node in self.nodes):
            max(self.nodes, key=lambda node: node.position()[1]).bootstrap()
        self._join([node for node in self.nodes if not node.running])
        if self.clock_library:
            for node in self.nodes:
                node._write_clock(0)
        self.wait_whole()

    @property
    def whole(self) -> bool:
        """Every node works, and sees the others."""
        return all(node.sees == SIZE and node.synced for node in self.nodes)

    def wait_whole(self, seconds: float = 60) -> None:
        if not until(lambda: self.whole, seconds):
            states = [
                (str(n), n.running, n.status("wsrep_local_state_comment"))
                for n in self.nodes
            ]
            raise ServerError(f"Galera is not whole after {seconds:g} s: {states}")

    # --- what is in it ------------------------------------------------------------

    def create_database(self, name: str) -> None:
        self.nodes[0].create_database(name)

    def drop_database(self, name: str) -> None:
        for node in self.nodes[1:]:
            _cut_sessions(node, name)
        self.nodes[0].drop_database(name)

    def urls(self, name: str) -> list[str]:
        """The URL of the database on each node."""
        return [node.url(name) for node in self.nodes]


def together(do, servers: list) -> None:
    """``do`` to all of them at once; the first error is raised when all are done."""
    if servers:
        with ThreadPoolExecutor(len(servers)) as executor:
            for done in [executor.submit(do, server) for server in servers]:
                done.result()


def _cut_sessions(node: Node, name: str) -> None:
    query = f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
    for (session,) in node.admin(query):
        with contextlib.suppress(Exception):  # it may have left by itself
            node.admin(f"KILL {session}")


def _library() -> str | None:
    places = ("/usr/lib/galera", "/usr/lib64/galera", "/usr/lib64/galera-4")
    for place in places:
        path = os.path.join(place, "libgalera_smm.so")
        if os.path.exists(path):
            return path
    return None


def _clock_library() -> str | None:
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    return found[0] if found else None
