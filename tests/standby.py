"""A PostgreSQL primary with a streaming standby, and the address that clients use.

The address is a TCP proxy, as a virtual IP or HAProxy would be: at a failover it leads
to the other server. The stream of changes goes through one as well, which can be
stalled: what the primary acknowledges meanwhile is lost when the standby is promoted.
"""

from __future__ import annotations

import os
import shutil

from tests.proc import until
from tests.servers import PostgreSQL, ServerError
from tests.store.proxy import Proxy

STREAM = "liveness_stream"


class Member(PostgreSQL):
    """One of the two servers; ``source`` is where it gets its data from, if it is to
    be a standby."""

    source: Member | None = None
    stream: Proxy | None = None

    @classmethod
    def available(cls) -> str | None:
        reason = super().available()
        if reason is None and cls._binary("pg_basebackup") is None:
            return f"{cls.label}: no pg_basebackup here ({cls.install})"
        return reason

    def follow(self, source: Member) -> None:
        """Throw away what is there and start as a standby of ``source``."""
        self.kill()
        self.source = source
        if self.stream is None:
            self.stream = Proxy("127.0.0.1", source.port)
        self.stream.point("127.0.0.1", source.port)
        self.stream.resume()
        self.stream.cut()
        if self.folder is None:
            self.start()
        else:
            shutil.rmtree(self._path("data"), ignore_errors=True)
            self._initialise()
            self.start()
        self.wait_for_stream()

    def promote(self) -> None:
        """From now on it takes writes; what it has not received is lost."""
        self.admin("SELECT pg_promote()")
        if not until(lambda: not self.is_standby, 20):
            raise ServerError(f"{self} cannot be promoted")

    @property
    def is_standby(self) -> bool:
        return bool(self.admin("SELECT pg_is_in_recovery()")[0][0])

    def wait_for_stream(self) -> None:
        """Return when it has all that its source has now."""
        assert self.source is not None
        ((target,),) = self.source.admin("SELECT pg_current_wal_lsn()")

        def arrived() -> bool:
            return bool(
                self.admin(f"SELECT pg_last_wal_replay_lsn() >= '{target}'")[0][0]
            )

        if not until(arrived, 20):
            raise ServerError(f"{self} does not get the changes of {self.source}")

    def close(self) -> None:
        super().close()
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _initialise(self) -> None:
        if self.source is None:
            super()._initialise()
            return
        program = self._binary("pg_basebackup")
        assert program is not None and self.stream is not None, self.available()
        self._initialise_with(
            [
                program,
                f"--pgdata={self._path('data')}",
                f"--host={self.source.folder}",
                f"--port={self.source.port}",
                f"--username={self.system_user}",
                "--checkpoint=fast",
                "--no-sync",
            ]
        )
        conninfo = (
            f"host=127.0.0.1 port={self.stream.port} user={STREAM}"
            f" password={self.password} application_name=standby"
        )
        self._write("postgresql.auto.conf", f"primary_conninfo = '{conninfo}'\n")
        self._write("standby.signal", "")

    def _write(self, name: str, text: str) -> None:
        path = self._path("data", name)
        with open(path, "w") as file:
            file.write(text)
        run_as = self._run_as()
        if run_as:
            os.chown(path, run_as["user"], run_as["group"])

    def _create_user(self) -> None:
        if self.source is None:
            super()._create_user()
            self.admin(
                f"CREATE ROLE {STREAM} LOGIN REPLICATION PASSWORD '{self.password}'"
            )


class Pair:
    """A primary, its standby, and the address. :meth:`restore` undoes what a test did;
    the roles may be changed afterwards."""

    label = "PostgreSQL with a standby"

    def __init__(self) -> None:
        self.primary, self.standby = Member(), Member()
        self._wanted = False

    @classmethod
    def available(cls) -> str | None:
        return Member.available()

    def __enter__(self) -> Pair:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        try:
            self.primary.start()
            self.standby.follow(self.primary)
            self.address = Proxy("127.0.0.1", self.primary.port)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for member in (self.primary, self.standby):
            member.close()
        if hasattr(self, "address"):
            self.address.close()

    def url(self, name: str) -> str:
        """The database at the address."""
        direct = self.primary.url(name)
        return direct.replace(f":{self.primary.port}/", f":{self.address.port}/")

    def create_database(self, name: str) -> None:
        self.primary.create_database(name)

    def drop_database(self, name: str) -> None:
        self.primary.drop_database(name)

    # --- what happens to pairs ----------------------------------------------------

    def synchronous(self, wanted: bool) -> None:
        """Whether the primary acknowledges only what the standby has as well."""
        names = "*" if wanted else ""
        self.primary.admin(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.primary.admin("SELECT pg_reload_conf()")

        def so() -> bool:
            ((now,),) = self.primary.admin("SHOW synchronous_standby_names")
            return bool(now == names)

        if not until(so, 10):
            raise ServerError("synchronous_standby_names did not change")

    def always_synchronous(self) -> None:
        """The same, and :meth:`restore` comes back to it."""
        self._wanted = True
        self.synchronous(True)

    def stop_stream(self) -> None:
        """The standby gets nothing from now on; nobody is told."""
        assert self.standby.stream is not None
        self.standby.wait_for_stream()
        self.standby.stream.stall()

    def fail_over(self, fenced: bool = True) -> None:
        """Promote the standby and lead the address there. ``fenced``: the primary is
        killed first, as it should be; else it goes on for those who can reach it, and
        connections that are open stay."""
        if fenced:
            self.primary.kill()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary
        self.address.point("127.0.0.1", self.primary.port)
        if fenced:
            self.address.cut()

    def restore(self) -> None:
        """Have a primary that works and a standby that follows it."""
        self.address.resume()
        for member in (self.primary, self.standby):
            if member.running:
                member.resume()
        if not self.primary.running:
            self.primary.start()
        self.address.point("127.0.0.1", self.primary.port)
        self.address.cut()
        if not self._wanted:
            self.synchronous(False)
        if self._follows:
            assert self.standby.stream is not None
            self.standby.stream.resume()
            self.standby.wait_for_stream()
        else:
            self.standby.follow(self.primary)
        self.synchronous(self._wanted)

    @property
    def _follows(self) -> bool:
        return (
            self.standby.running
            and self.standby.source is self.primary
            and self.standby.is_standby
        )
