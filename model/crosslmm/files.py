"""Files that are there whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosslmm.errors import UsageError


def check_writable(path: Path) -> None:
    """Before hours of work: UsageError where their result could not be written to `path`."""
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"{path}: a folder; give a file's name in it")
    if not folder.is_dir():
        raise UsageError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: its folder may not be written to")


def check_empty(folder: Path) -> None:
    """UsageError where something is in the way of a new folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already and not empty; give another folder")


def check_ours(folder: Path, marker: str) -> bool:
    """Whether `folder` is one that we began, by a file in it that says so; UsageError where something
    else is there."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; --out is the run's folder")
    if (folder / marker).exists():
        return True
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty and holds no run; give another folder")
    return False


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a kill on the way leaves what was there before."""
    with replacing(path) as scratch:
        scratch.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, of the same ending, which takes the place of `path` when the block ends well;
    a kill or an error on the way leaves what was there before."""
    path = Path(os.path.realpath(path))  # of a link the file is replaced, not the link
    # A short name, since one as long as names may be leaves no room for more.
    name = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    scratch = path.with_name(f".{name}.new{path.suffix}")
    try:
        yield scratch
        with open(scratch, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
