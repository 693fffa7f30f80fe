"""Where captions are written. An output is a module here with a function `make_output`, and a line in
`OUTPUTS` for each of its formats.

Every output has a manifest, which decides what is done. For JSONL it is the output itself; for others
it is a hidden file, and the output's files are made from it. Files appear complete or not at all, and
one that was not created by crosslmm is never overwritten without being asked to.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.options import Format
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Shard, Source
from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.files import HeldFolder, check_replaceable, remove_scratch

OUTPUTS: dict[Format, str] = {
    "jsonl": "crosslmm.captioning.outputs.jsonl",
    "txt": "crosslmm.captioning.outputs.sidecar",
    "srt": "crosslmm.captioning.outputs.sidecar",
    "vtt": "crosslmm.captioning.outputs.sidecar",
    "parquet": "crosslmm.captioning.outputs.table",
    "webdataset": "crosslmm.captioning.outputs.webdataset",
}


class CaptionOutput:
    """Writes captions in one format. This base writes nothing but its manifest.

    - name: the file or folder that the user knows it by.
    - is_manifest: the manifest is the output. Others read it, so a line that no longer counts is
      moved out of it before its video is captioned again. Where it is not, nobody named the manifest,
      and only one of this process's user is believed.

    - named: somebody named its folder, which may then be a link.

    Videos are given by their paths. `prepare`, `write` and `restore` raise OSError where a caption
    cannot be written.
    """

    is_manifest = False
    named = True

    def __init__(self, path: Path, manifest_path: Path) -> None:
        self.name = str(path)
        self.manifest_path = manifest_path
        self._root = HeldFolder(manifest_path.parent)

    @contextmanager
    def held(self) -> Iterator[HeldFolder]:
        """Hold the folder that everything is written to, for a run. Raises CrossLMMError."""
        folder = HeldFolder(self.manifest_path.parent, named=self.named)
        with ExitStack() as stack:
            try:
                stack.enter_context(folder)
            except OSError as error:
                raise CrossLMMError(
                    f"{folder.path}: captions and what they are resumed from cannot be written to this "
                    f"folder ({error.strerror}); choose another `out`"
                ) from error
            self._root = folder
            yield folder

    @property
    def lock_path(self) -> Path:
        """The lock of the runs that write to the manifest."""
        name = self.manifest_path.name
        return self.manifest_path.with_name(f"{'' if name.startswith('.') else '.'}{name}.lock")

    @property
    def superseded_path(self) -> Path | None:
        """Where captions go that no longer count; None where they are not kept."""
        if not self.is_manifest:
            return None
        return self.manifest_path.with_suffix(f".superseded{self.manifest_path.suffix}")

    def writes(self, path: str) -> bool:
        """Whether a run writes this file, however it was found: `caption *` names it."""
        return Path(path) in (Path(self.name), self.manifest_path, self.superseded_path)

    def recognizes(self, path: str) -> bool:
        """Whether a file found in a folder is one that this output writes, or may have written."""
        return self.writes(path)

    def wrote(self, path: str) -> bool:
        """Whether an earlier run wrote this file, once `begin` has read its record."""
        return False

    def begin(self, sources: Sequence[Source], manifest: Manifest, *, overwrite: bool) -> None:
        """Called once, with everything to be captioned. Raises CrossLMMError for existing files under
        the names of the output that the manifest does not know."""
        remove_scratch(self.manifest_path.parent, root=self._root)

    def conflict(self, path: str, *, overwrite: bool) -> str | None:
        """Why the caption of this video must not be written, None where it may."""
        return None

    def prepare(self, path: str) -> None:
        """Called before the manifest says that the video is captioned."""

    def note(self, record: Record, manifest: Manifest) -> Record:
        """The record as the manifest keeps it."""
        return record

    def write(self, record: Record) -> None:
        """Called after the manifest says that the video is captioned."""

    def restore(self, path: str, manifest: Manifest) -> None:
        """Called for a video that is done, whose file may have been lost."""

    def take_lost(self) -> list[Record]:
        """The records, now failures, of videos that were captioned and then could not be written, since
        this was last called."""
        return []

    def finish(self, manifest: Manifest) -> None:
        """Called at the end of every run that was not killed."""


def open_output(
    format: Format, out: Path | None, *, sources: Sequence[Source], shard: Shard | None
) -> CaptionOutput:
    """The output of that format at `out`, or at its default; `sources` are those of all shards.

    Raises UsageError for an unknown format, an `out` that is not possible, and a missing library.
    """
    if format not in OUTPUTS:
        raise UsageError(f"`format` must be one of {', '.join(OUTPUTS)}, not {format!r}")
    part = "" if shard is None else f"-{shard.index:05}-of-{shard.count:05}"
    make_output = import_module(OUTPUTS[format]).make_output
    output: CaptionOutput = make_output(format, out, part, sources)
    return output


def output_file(format: str, out: Path | None, part: str) -> Path:
    """The file to write, its name with the `part` of a shard. Raises UsageError for anything else."""
    default = f"captions.{format}"
    path = Path(os.path.abspath(default if out is None else out))
    if path.is_dir():
        raise UsageError(f"{path}: a folder; give the {format} file to write, such as {default}")
    path = path.with_name(f"{path.stem}{part}{path.suffix}")
    check_replaceable(path)
    return path


def output_folder(format: str, out: Path, *, default: bool = False) -> Path:
    """The folder to write to. Raises UsageError where a file is there, or, at a default that nobody
    named, a link."""
    if default and out.is_symlink():
        raise UsageError(f"{out.absolute()}: a link; give `out` to write to the folder behind it")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: a file; {format} files go into a folder")
    return Path(os.path.abspath(out))


def unknown_file(path: Path) -> CrossLMMError:
    """The error for a file under the name of an output, of which there is no record."""
    return CrossLMMError(
        f"{path}: no record beside it says that crosslmm wrote it; "
        "choose another `out`, or use `overwrite`"
    )
