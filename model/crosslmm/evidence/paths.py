"""Where evidence can be written."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from crosslmm.errors import UsageError
from crosslmm.files import check_writable

FORMATS = (".html", ".png", ".json")


def check_evidence_path(path: Path, videos: Iterable[str | os.PathLike[str]]) -> None:
    """Before anything is computed: UsageError where evidence about `videos` could not be written to
    `path`, or would replace one of them."""
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise UsageError(f"{path}: evidence is a file ending in {', '.join(most)} or {last}")
    check_writable(path)
    for video in videos:
        with suppress(OSError, ValueError):
            if os.path.samefile(path, video):
                raise UsageError(f"{path}: the evidence would replace the image; give another name")
