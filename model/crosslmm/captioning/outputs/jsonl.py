"""Captions as lines of JSON: the manifest itself, under the name that the user gave."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.outputs import CaptionOutput, output_file
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Source
from crosslmm.errors import CrossLMMError
from crosslmm.files import Root, atomic_write, open_regular, parse_json

_LONGEST_SETTINGS = 64 << 20  # bytes
_SHARED = ("model", "prompt", "settings", "versions")


class JSONLinesOutput(CaptionOutput):
    """A line for each video.

    compact: lines leave out what all videos of the same settings have in common. It is in a file
    beside them, by `settings_hash`, and is there before the first line that needs it.
    """

    is_manifest = True
    compact = False

    @property
    def settings_path(self) -> Path:
        return self.manifest_path.with_suffix(".settings.json")

    def writes(self, path: str) -> bool:
        return super().writes(path) or Path(path) == self.settings_path

    def begin(self, sources: Sequence[Source], manifest: Manifest, *, overwrite: bool) -> None:
        super().begin(sources, manifest, overwrite=overwrite)
        self._check_superseded()
        self._shared = _read_shared(self.settings_path, self._root) if self.compact else {}

    def _check_superseded(self) -> None:
        """Before the model is loaded: CrossLMMError where lines could not be moved there."""
        path = self.superseded_path
        assert path is not None
        try:
            open_regular(path, os.O_RDWR, own=True, root=self._root).close()
        except FileNotFoundError:
            return
        except OSError as error:
            raise CrossLMMError(
                f"{path}: cannot be written to ({error.strerror}), and captions that no longer count "
                "are moved there; move it away, or choose another `out`"
            ) from error

    def note(self, record: Record, manifest: Manifest) -> Record:
        if not self.compact:
            return record
        known = record["settings_hash"]
        if known not in self._shared:
            shared = self._shared | {known: {name: record[name] for name in _SHARED}}
            text = json.dumps(shared, ensure_ascii=True, indent=2)
            atomic_write(self.settings_path, f"{text}\n".encode(), root=self._root)
            self._shared = shared
        return {name: value for name, value in record.items() if name not in _SHARED}


def make_output(
    format: str, out: Path | None, part: str, sources: Sequence[Source]
) -> JSONLinesOutput:
    path = output_file(format, out, part)
    return JSONLinesOutput(path, path)


def _read_shared(path: Path, root: Root) -> dict[str, Record]:
    """What earlier runs have written there. Raises CrossLMMError where it is something else."""
    try:
        with open_regular(path, os.O_RDONLY, root=root) as file:
            shared = parse_json(file.read(_LONGEST_SETTINGS))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CrossLMMError(f"{path}: not readable as JSON; move it away") from error
    entries = shared.values() if isinstance(shared, dict) else [None]
    if not all(isinstance(entry, dict) and entry.keys() == set(_SHARED) for entry in entries):
        raise CrossLMMError(f"{path}: was not written by crosslmm; move it away")
    return dict(shared)
