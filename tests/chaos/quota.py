"""A disk that can be full: a server's folder on a file system of its own.

The run has a mount namespace to itself, so that nothing stays mounted when it ends,
however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess

from tests import servers

CLONE_NEWNS = 0x00020000


def own_namespace() -> str | None:
    """From now on what this process mounts is seen by it and its children alone. None,
    or why that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        return f"no mount namespace of its own: {os.strerror(ctypes.get_errno())}"
    made = _mount("--make-rprivate", "/")
    return None if made is None else f"mount: {made}"


def _mount(*words: str) -> str | None:
    """None, or what is wrong."""
    try:
        result = subprocess.run(["mount", *words], capture_output=True, text=True)
    except FileNotFoundError:
        return "there is no mount"
    return None if result.returncode == 0 else " ".join(result.stderr.split())


class OnQuota(servers.Server):
    """A server whose folder holds so many megabytes."""

    megabytes: int
    quota: bool = False  # whether it has one

    def _make_folder(self) -> None:
        super()._make_folder()
        assert self.folder is not None
        owner = os.stat(self.folder)
        options = f"size={self.megabytes}m,mode=700,uid={owner.st_uid}"
        options += f",gid={owner.st_gid}"
        kind = ("-t", "tmpfs", "-o", options, "liveness-chaos", self.folder)
        self.quota = _mount(*kind) is None

    def close(self) -> None:
        folder = self.folder
        if not self.quota or folder is None:
            return super().close()
        super().close()  # what is in it goes, the folder itself is in use
        subprocess.run(["umount", "--lazy", folder], capture_output=True)
        with contextlib.suppress(OSError):
            os.rmdir(folder)

    def fill(self) -> None:
        """Leave no room at all."""
        with open(self._path("filler"), "wb", buffering=0) as file:
            with contextlib.suppress(OSError):  # there is no more
                while True:
                    file.write(bytes(1 << 16))

    def empty(self) -> None:
        """There is room again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path("filler"))
