"""Evidence of an answer, with its files."""

from pathlib import Path

from crosslmm.errors import UsageError
from crosslmm.evidence.maps import EvidenceMaps
from crosslmm.evidence.numbers import write_json
from crosslmm.evidence.page import draw_page
from crosslmm.evidence.paths import check_evidence_path
from crosslmm.evidence.sheet import draw_sheet
from crosslmm.files import atomic_write


class Evidence(EvidenceMaps):
    """`EvidenceMaps` that can be saved; `VideoSession.evidence` makes it."""

    def save(self, path: str | Path) -> None:
        """Write a page (.html), a contact sheet (.png) or all numbers (.json), by the file's suffix.

        Raises UsageError for another suffix, for a video itself, and where the file cannot be
        written; VideoError where frames, which a page and a sheet show, cannot be read again.
        """
        path = Path(path)
        check_evidence_path(path, [video.name for video in self.videos])
        match path.suffix.lower():
            case ".html":
                data = draw_page(self, path)
            case ".png":
                data = draw_sheet(self)
            case _:
                data = write_json(self)
        try:
            atomic_write(path, data)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
