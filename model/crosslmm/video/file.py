"""The file that a video is read from: checked and read through one descriptor.

What lies under its name may be replaced at any moment, by a pipe or by another file. So it is opened
once, what was opened is looked at, and both FFmpeg and Pillow read through it. That is also where
the bytes are counted that a library reads without ever coming to a frame.
"""

import os
import stat
import time
from collections.abc import Callable
from typing import Any

from crosslmm.errors import VideoError
from crosslmm.limits import DEADLINE, MAX_FRAME_BYTES
from crosslmm.video.worker import STOPPED

HEAD = 4096  # bytes that tell images, text and playlists from videos

# A pipe without a writer would block; a terminal would become this process's own.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

# Device and number of a file: the same for the same file, whatever its name.
Identity = tuple[int, int]


class VideoFile:
    """A non-empty regular file, open for reading; close it, or use `with`.

    It has what FFmpeg and Pillow ask of a Python file. After `expect_frame` reading ends, as if the
    file did, once `MAX_FRAME_BYTES` have been read, `deadline` seconds have passed, or `cancelled`
    gives true; `check` then raises why. `head` holds the first bytes.
    """

    head: bytes
    status: os.stat_result

    def __init__(
        self,
        path: str,
        *,
        deadline: float = DEADLINE,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path, self.deadline, self._cancelled = path, deadline, cancelled
        # Libraries guess the format by it; FFmpeg takes "%03d" in it for a numbered sequence.
        self.name = "file:" + os.path.abspath(path).replace("%", "_") if "\0" not in path else path
        self._descriptor: int | None = None
        self._problem: str | None = None

    def open(self) -> None:
        """Open and check it. Raises `VideoError`."""
        self._descriptor = _open(self.path)
        try:
            self.status = _checked(self.path, os.fstat(self._descriptor))
            self.head = os.read(self._descriptor, HEAD)
            self.seek(0)
        except OSError as error:
            self.close()
            raise VideoError(f"{self.path}: cannot be read ({error.strerror})") from error
        except BaseException:
            self.close()
            raise
        self.expect_frame()

    @property
    def identity(self) -> Identity:
        return self.status.st_dev, self.status.st_ino

    @property
    def size(self) -> int:
        return self.status.st_size

    def expect_frame(self, *, limited: bool = True) -> None:
        """Count bytes and seconds from here on; not `limited` while FFmpeg seeks by itself, in what
        has been read before."""
        self._left = MAX_FRAME_BYTES if limited else 1 << 62
        self._spent, self._looked = 0.0, time.monotonic()

    def check(self) -> None:
        """Raise `VideoError` where reading was ended."""
        if self._problem is not None:
            raise VideoError(f"{self.path}: {self._problem}")

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = max(0, self.size - self.tell())
        if self._problem is None and self._left <= 0:
            self._problem = (
                f"over {MAX_FRAME_BYTES >> 20} MiB without a frame, the most that is read"
            )
        now = time.monotonic()
        # Between two reads there is little work, unless this process was stopped: Ctrl-Z.
        self._spent += min(now - self._looked, STOPPED)
        self._looked = now
        if self._problem is None and self._spent > self.deadline:
            self._problem = f"no frame was found within {self.deadline:g} s; raise `deadline`"
        if self._problem is not None or self._cancelled():
            return b""
        try:
            data = os.read(self.fileno(), size)
        except OSError as error:  # of the disk, or of the network that it lies on
            self._problem = f"cannot be read ({error.strerror})"
            return b""
        self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self.fileno(), offset, whence)

    def tell(self) -> int:
        return os.lseek(self.fileno(), 0, os.SEEK_CUR)

    def fileno(self) -> int:
        if self._descriptor is None:
            raise ValueError("the file is not open")
        return self._descriptor

    def close(self) -> None:
        """Close it; harmless when it is closed."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> "VideoFile":
        if self._descriptor is None:
            self.open()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def check_identity(file: VideoFile, identity: Identity | None) -> None:
    """Close the file and raise `VideoError` where it is not the one of this identity."""
    if identity is not None and file.identity != identity:
        file.close()
        raise VideoError(f"{file.path}: the file was replaced while it was read")


def _open(path: str) -> int:
    try:
        _checked(path, os.stat(path))  # a device may do something when it is opened
    except (OSError, ValueError) as error:
        if "://" in path:
            raise VideoError(
                f"{path}: this is a URL; only local files are supported, download it first"
            ) from error
        if isinstance(error, PermissionError):
            raise VideoError(f"{path}: permission denied") from error
        raise VideoError(f"{path}: no such file") from error
    try:
        return os.open(path, _FLAGS)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error


def _checked(path: str, status: os.stat_result) -> os.stat_result:
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{path}: this is a folder; give a video file in it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: not a regular file ({_kind(status.st_mode)})")
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    return status


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
