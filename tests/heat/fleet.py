"""heat-engine as an operator runs it: masters, and the workers that they fork."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.heat.processes import Group, LabError
from tests.heat.venv import Venv
from tests.proc import Process, until

START_SECONDS = 120
PLUGINS = Path(__file__).with_name("plugins")

# A worker says which engine it is in a line that holds its pid.
_STARTING = re.compile(
    r" (?P<pid>\d+) INFO heat\.engine\.worker .*"
    r"Starting engine_worker \([\d.]+\) in engine (?P<engine>[0-9a-f-]{36})\."
)


@dataclass(frozen=True)
class Worker:
    engine_id: str
    process: Process
    master: Master

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.alive

    def kill(self) -> None:
        self.process.send(signal.SIGKILL)

    def stop(self) -> None:
        self.process.send(signal.SIGSTOP)
        until(lambda: self.process.state in (None, "T"), 10, 0.01)

    def cont(self) -> None:
        self.process.send(signal.SIGCONT)


class Master:
    """One host: a heat-engine master with its configuration and its log."""

    def __init__(
        self,
        group: Group,
        venv: Venv,
        name: str,
        config: list[Path],
        cloud: Path,
        workers: int,
        program: str = "heat-engine",
    ) -> None:
        self._program = program
        self.name, self.workers_wanted = name, workers
        self._group, self._venv, self._config = group, venv, config
        self._cloud = cloud
        self._child: subprocess.Popen | None = None
        self._seen: dict[str, Worker] = {}
        self._read_to = 0

    def launch(self) -> None:
        """Start it, and do not wait."""
        command = self._venv.script(self._program)
        for path in self._config:
            command += ["--config-file", str(path)]
        self._child = self._group.spawn(
            self.name,
            command,
            {
                "LIVENESS_HEAT_CLOUD": str(self._cloud),
                "HOME": self._group.folder,
            },
        )

    @property
    def process(self) -> Process:
        assert self._child is not None, f"{self.name} was never started"
        return Process.of(self._child.pid)

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def workers(self) -> list[Worker]:
        """The living ones, the newest last."""
        self._read_log()
        return [worker for worker in self._seen.values() if worker.alive]

    def worker_of(self, engine_id: str) -> Worker | None:
        """Also one that is dead."""
        self._read_log()
        return self._seen.get(engine_id)

    def sigterm(self) -> None:
        """What systemctl stop sends, and then waits."""
        assert self._child is not None
        self._child.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """The master only: its workers notice, and drain."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def kill_host(self) -> None:
        """The master and all its workers, as when a host is lost."""
        assert self._child is not None
        self._child.kill()
        self._group.end(self._child)

    def wait_ended(self, seconds: float) -> bool:
        assert self._child is not None
        child = self._child
        return until(
            lambda: child.poll() is not None and not self._group.members(child), seconds
        )

    def _read_log(self) -> None:
        path = self._group.log(self.name)
        if not path.exists():
            return
        with open(path, "rb") as file:
            file.seek(self._read_to)
            text = file.read()
        # Half a line is read again when it is whole.
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            match = _STARTING.search(line)
            if match is not None:
                engine_id, pid = match["engine"], int(match["pid"])
                self._seen[engine_id] = Worker(engine_id, Process.of(pid), self)


class Fleet:
    """All masters that share one Heat database."""

    def __init__(self, group: Group, venv: Venv, config: Path, cloud: Path) -> None:
        self._group, self.venv, self._config, self._cloud = group, venv, config, cloud
        self.masters: list[Master] = []

    def add(
        self, workers: int = 1, program: str = "heat-engine", **options: object
    ) -> Master:
        """A further host; `options` are its own, of [DEFAULT] or `group__name`."""
        number = len(self.masters)
        name = f"{self._config.stem}-{number}"
        sections: dict[str, dict[str, object]] = {
            "DEFAULT": {"host": name, "num_engine_workers": workers}
        }
        for option, value in options.items():
            section, _, key = option.rpartition("__")
            sections.setdefault(section or "DEFAULT", {})[key] = value
        own = self._group.write(f"etc/{name}.conf", ini(sections))
        config = [self._config, own]
        master = Master(
            self._group, self.venv, name, config, self._cloud, workers, program
        )
        self.masters.append(master)
        master.launch()
        return master

    @property
    def running(self) -> list[Master]:
        return [master for master in self.masters if master.running]

    @property
    def workers(self) -> list[Worker]:
        return [worker for master in self.masters for worker in master.workers]

    def worker_of(self, engine_id: str) -> Worker | None:
        for master in self.masters:
            worker = master.worker_of(engine_id)
            if worker is not None:
                return worker
        return None

    def wait_ready(self, registered, seconds: float = START_SECONDS) -> None:
        """Until every running master has its workers and Heat knows them all."""

        def ready() -> bool:
            known = registered()
            return all(
                len(master.workers) >= master.workers_wanted
                and all(worker.engine_id in known for worker in master.workers)
                for master in self.running
            )

        until(lambda: not all(m.running for m in self.masters) or ready(), seconds)
        dead = [master.name for master in self.masters if not master.running]
        if dead or not ready():
            raise LabError(
                f"heat-engine is not ready after {seconds} s; ended: {dead}\n"
                + "\n".join(self._group.tail(m.name) for m in self.masters)
            )

    def end(self) -> None:
        """End every engine at once, without a chance to tidy up."""
        for master in self.masters:
            master.kill_host()
        self.masters.clear()


def ini(sections: dict[str, dict[str, object]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
        for name, options in sections.items()
    )
