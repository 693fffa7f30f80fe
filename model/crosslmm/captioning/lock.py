"""A lock that dies with its process, so that two runs never write to one output."""

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO

from crosslmm.errors import CrossLMMError


class Lock:
    """Holds `path` for this process until `release`; the file stays, which is no harm. A `shared`
    one may be held by several processes, but not while another holds it alone."""

    def __init__(self, path: Path, *, output: str, shared: bool = False) -> None:
        self._path = path
        self._output = output
        self._shared = shared
        self._file: IO[str] | None = None

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Raises CrossLMMError where another process holds it, and where files cannot be locked."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            _lock(file, shared=self._shared)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "a process that did not say which"
            file.close()
            raise CrossLMMError(
                f"{self._output}: another run is writing to it ({holder}); "
                "wait for it, or choose another --out"
            ) from None
        except OSError as error:
            file.close()
            raise CrossLMMError(
                f"{self._path}: files cannot be locked there ({error.strerror}), which keeps two runs "
                "apart; choose an --out on another disk"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()  # which lets go of it
            self._file = None


def _lock(file: IO[str], *, shared: bool) -> None:
    """Take the file's lock or raise BlockingIOError."""
    if os.name == "nt":  # where none can be shared
        import msvcrt

        try:
            file.seek(1 << 30)  # a byte beyond the text, since Windows forbids reading locked ones
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError from error
        return
    import fcntl

    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
