"""Where evidence can be written."""

from pathlib import Path

from crosslmm.errors import UsageError
from crosslmm.files import check_writable

FORMATS = (".html", ".png", ".json")


def check_evidence_path(path: Path) -> None:
    """Before anything is computed: UsageError where evidence could not be written to `path`."""
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise UsageError(f"{path}: evidence is a file ending in {', '.join(most)} or {last}")
    check_writable(path)
