"""What is flushed to the disk, and when files get their names."""

import os
from typing import Any

import pytest

# In the order in which they came: ("flush", number of a file or folder), ("name", new name).
Events = list[tuple[str, Any]]


def record_flushes(patch: pytest.MonkeyPatch) -> Events:
    """Everything is done as before, and noted here."""
    found: Events = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        found.append(("flush", os.fstat(descriptor).st_ino))

    def noting(rename: Any) -> Any:
        def call(old: Any, new: Any, **options: Any) -> None:
            rename(old, new, **options)
            found.append(("name", os.path.basename(new)))

        return call

    patch.setattr("os.fsync", fsync)
    for name in ("replace", "rename"):
        patch.setattr(f"os.{name}", noting(getattr(os, name)))
    return found
