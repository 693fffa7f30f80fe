"""What a video's file holds, as a hash of all its bytes, which is found while the video is decoded."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from crosslmm.files import open_readable
from crosslmm.fingerprint import complete_hash, file_state

_AT_ONCE = 8 << 20  # bytes that are hashed faster than it is looked up whether they were before
# A file that changed so shortly before it was looked at may change again without its dates showing it:
# some file systems count in steps of two seconds.
_SETTLED = 2 * 10**9  # nanoseconds


class FileContent:
    """A file as it was when this was made, and the hash of its content.

    known: the hash, where it is known already; else `start` finds it, and calls `on_found` for a large
    file that will be known by its state from now on.
    """

    def __init__(
        self,
        path: str,
        status: os.stat_result,
        *,
        known: str | None = None,
        on_found: Callable[["FileContent"], None] = lambda content: None,
    ) -> None:
        self.path = path
        self.size = status.st_size
        self.state = file_state(status)
        self.hash = known
        self._is_settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED
        self._on_found = on_found
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Find the hash, of a large file in the background."""
        if self.hash is not None or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._find, name="crosslmm-hash", daemon=True)
        if self.size <= _AT_ONCE:
            self._thread.run()
        else:
            self._thread.start()

    def wait(self, seconds: float | None = None) -> str | None:
        """The hash, None where it is not found in time, or the file changed meanwhile."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(seconds)
        return self.hash

    def is_current(self) -> bool:
        """Whether the file is still the same one, unchanged."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return status.st_size == self.size and file_state(status) == self.state

    def _find(self) -> None:
        with suppress(OSError, ValueError), open_readable(Path(self.path)) as file:
            states = [file_state(os.fstat(file.fileno()))]
            found = complete_hash(file)
            states.append(file_state(os.fstat(file.fileno())))
            if states == [self.state, self.state]:
                self.hash = found
                if self.size > _AT_ONCE and self.state is not None and self._is_settled:
                    self._on_found(self)
