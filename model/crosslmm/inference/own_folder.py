"""A folder of caches that is used only where it is this user's alone; no link in it is followed."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from crosslmm.files import HeldFolder, open_regular

_LOCK = "lock"
_LOCK_SECONDS = 10.0


class OwnFolder:
    """Made, for this user, when it is first held."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def hold(self) -> Iterator[HeldFolder]:
        """The folder, made where it is missing. Raises OSError, also where others may write to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        with HeldFolder(self.path, named=False) as held:
            if held.descriptor is not None:
                status = os.fstat(held.descriptor)
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    problem = "others may write to it"
                    raise OSError(errno.EPERM, problem, str(self.path))
            yield held

    @contextmanager
    def lock(self) -> Iterator[HeldFolder]:
        """The folder, for one writer at a time. Raises OSError, also where another does not end."""
        with (
            self.hold() as held,
            open_regular(self.path / _LOCK, os.O_RDWR | os.O_CREAT, own=True, root=held) as file,
        ):
            until = time.monotonic() + _LOCK_SECONDS
            while not lock_descriptor(file.fileno(), blocking=False):
                if time.monotonic() > until:
                    raise OSError(errno.EAGAIN, "another process is writing", str(self.path))
                time.sleep(0.05)
            yield held
