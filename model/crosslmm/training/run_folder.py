"""Whether a folder holds a run that can go on there, and that no other does."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosslmm.captioning.lock import Lock
from crosslmm.errors import UsageError

_LOCK = ".lock"


def holds_run(folder: Path, marker: str) -> bool:
    """Whether a run was started in `folder`, by the file `marker` in it; False where the folder is
    empty or absent. UsageError where it holds anything else, also what no run writes, such as links:
    libraries that save checkpoints would write through them."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; `out` is the folder of a run")
    if (folder / marker).exists():
        _refuse_special_files(folder)
        return True
    if folder.exists() and any(path.name != _LOCK for path in folder.iterdir()):
        raise UsageError(f"{folder}: is not empty and holds no run; give another folder")
    return False


@contextmanager
def hold_run(folder: Path, *, first: bool) -> Iterator[None]:
    """Keep other runs out of a folder, which is made where it is missing; the `first` process of a run
    does. Raises CrossLMMError where one is going on there."""
    if not first:
        yield
        return
    with Lock(folder / _LOCK, output=str(folder)):
        yield


def _refuse_special_files(folder: Path) -> None:
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:  # another process of the run clears up
                continue
            if stat.S_ISLNK(mode):
                raise UsageError(f"{path}: a link, and links are not followed; give another `out`")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UsageError(f"{path}: not a regular file; give another `out`")
