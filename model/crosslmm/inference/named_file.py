"""Videos that lie in a file which the user did not name: copied of a file object, or downloaded."""

import os
from dataclasses import dataclass
from time import monotonic
from typing import IO

from crosslmm.errors import UsageError, VideoError
from crosslmm.limits import MAX_GIVEN_BYTES
from crosslmm.options import Sampling
from crosslmm.video.source import over_time

_PIECE = 2**20  # bytes of a file object that are read at once


@dataclass(frozen=True)
class NamedFile(os.PathLike[str]):
    """name: what the user knows the file by; label: what a prompt about several videos calls it; stays:
    whether it is there when this process has ended."""

    path: str
    name: str
    label: str = ""
    stays: bool = False

    def __fspath__(self) -> str:
        return self.path

    def renamed(self, error: VideoError) -> VideoError:
        """The error with the name that the user knows."""
        return VideoError(str(error).replace(self.path, self.name))


def copy_file(source: IO[bytes], target: IO[bytes], name: str, sampling: Sampling) -> None:
    """Copy what is left of a binary file object, within `MAX_GIVEN_BYTES` and `file_timeout`. Raises
    UsageError for one of text, VideoError."""
    copied, began = 0, monotonic()
    while piece := _read(source, name):
        copied += len(piece)
        if copied > MAX_GIVEN_BYTES:
            raise VideoError(
                f"{name}: holds over {MAX_GIVEN_BYTES / 2**30:g} GiB, the most that is copied of "
                "a file object; give the path of a file"
            )
        if monotonic() - began > sampling.file_timeout:
            raise over_time(name, sampling)
        target.write(piece)


def _read(source: IO[bytes], name: str) -> bytes:
    read = getattr(source, "read1", source.read)  # what is there, without waiting for all of it
    piece: bytes = read(_PIECE)
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise UsageError(f"{name}: the file must be opened in binary mode")
    return piece
