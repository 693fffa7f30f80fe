"""A lock that dies with its process, so that two runs never write to one output."""

import os
import socket
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from crosslmm.errors import CrossLMMError
from crosslmm.files import Root, is_same_file, open_regular, remove_file

_LONGEST_NAME = 300  # bytes; of the name of a holder


class Lock:
    """Holds `path`, a file of this process's user, until `release`, which removes it."""

    def __init__(self, path: Path, *, output: str, root: Root | None = None) -> None:
        self._path = path
        self._root = root
        self._output = output
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Raises CrossLMMError where another process holds it, and where files cannot be locked."""
        try:
            if self._root is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._file is None:
                self._try()
        except OSError as error:
            if not os.path.lexists(self._path):
                folder = self._path.parent
                raise CrossLMMError(f"{folder}: cannot be written to ({error.strerror})") from error
            raise CrossLMMError(
                f"{self._path}: this file cannot be used as a lock ({error.strerror}), which keeps two "
                "runs apart; remove it, or choose another `out`"
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._file.flush()

    def release(self) -> None:
        file, self._file = self._file, None  # another thread may end the process meanwhile
        if file is not None:
            if os.name != "nt":  # where an open file cannot be removed
                remove_file(self._path, root=self._root or self._path.parent)
            file.close()  # which unlocks it

    def _try(self) -> None:
        file = open_regular(self._path, os.O_RDWR | os.O_CREAT, own=True, root=self._root)
        try:
            held = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            file.close()
            raise CrossLMMError(
                f"{self._path}: files cannot be locked there ({error.strerror}), which keeps two runs "
                "apart; choose an `out` on another disk"
            ) from error
        if not held:
            try:
                holder = file.read(_LONGEST_NAME).decode(errors="replace").strip()
            except OSError:  # Windows does not let others read it
                holder = ""
            file.close()
            raise CrossLMMError(
                f"{self._output}: another run is writing to it "
                f"({holder or 'an unknown process'}); wait for it, or choose another `out`"
            )
        if is_same_file(file, self._path, root=self._root):
            self._file = file
        else:  # its last holder removed it after it was opened here
            file.close()
