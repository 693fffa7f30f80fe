"""Where captions go. Every output has a manifest, which decides what is done; all but JSONL's, which
is the output, is a hidden file, and what it says is made into files from it.

Files appear whole or not at all, and none that is not ours is ever written over.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.options import Format
from crosslmm.captioning.results import Record
from crosslmm.captioning.worklist import Shard, Source
from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.files import check_replaceable, remove_scratch
from crosslmm.subtitles import SIDECARS

OUT: dict[str, str] = {
    "jsonl": "captions.jsonl",
    "parquet": "captions.parquet",
    "webdataset": "captions",
}


class Output:
    """One kind of output; this base writes nothing beside its manifest, as JSONL does.

    - name: what the user knows it by; manifest_path: its manifest.
    - keeps_superseded: the manifest is read by others, so a line that no longer counts is moved
      out of it before its video is done again.
    - hides_manifest: nobody named the manifest, so that only one of this process's user is believed.
    """

    keeps_superseded = True
    hides_manifest = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.manifest_path = path

    @property
    def locks(self) -> list[Path]:
        """Files to lock for a run."""
        return [lock_of(self.manifest_path)]

    @property
    def superseded_path(self) -> Path | None:
        if not self.keeps_superseded:
            return None
        return self.manifest_path.with_suffix(f".superseded{self.manifest_path.suffix}")

    def writes(self, source: Source) -> bool:
        """Whether a file is one that this run writes, however it was found: `caption *` names it."""
        return Path(source.path) in (Path(self.name), self.manifest_path, self.superseded_path)

    def is_own(self, source: Source) -> bool:
        """Whether a file found in a folder is one that we write, or may have written."""
        return self.writes(source)

    def begin(self, sources: Iterable[Source], manifest: Manifest, *, overwrite: bool) -> None:
        """Called once with all that is to be captioned. Raises CrossLMMError for files in the place
        of ours that the manifest does not know."""
        remove_scratch(self.manifest_path.parent)

    def conflict(self, source: Source, *, overwrite: bool) -> str | None:
        """Why this video's caption must not be written, None where it may."""
        return None

    def prepare(self, source: Source) -> None:
        """Called before the manifest says that the video is done. Raises OSError where its caption
        cannot be written; so do `write` and `restore`."""

    def note(self, source: Source, record: Record, manifest: Manifest) -> Record:
        """The record as the manifest keeps it."""
        return record

    def write(self, source: Source, record: Record) -> None:
        """Called after the manifest says so; `record` has a caption."""

    def restore(self, source: Source, manifest: Manifest) -> None:
        """Called for a video that is done, whose file may have been lost."""

    def finish(self, manifest: Manifest) -> None:
        """Called at the end of every run that was not killed."""


class TableOutput(Output):
    """A file made of the whole manifest at the end of a run: Parquet."""

    keeps_superseded = False
    hides_manifest = True

    def __init__(self, path: Path) -> None:
        super().__init__(path.with_name(f".{path.name}.manifest.jsonl"))
        self.name = str(path)
        self._path = path

    def begin(self, sources: Iterable[Source], manifest: Manifest, *, overwrite: bool) -> None:
        super().begin(sources, manifest, overwrite=overwrite)
        if not (overwrite or manifest.entries) and os.path.lexists(self._path):
            raise foreign(self._path)

    def finish(self, manifest: Manifest) -> None:
        from crosslmm.captioning.outputs.table import write_parquet

        if manifest.entries:  # an empty table would be taken for another's by the next run
            write_parquet(self._path, manifest.records())


def make_output(
    kind: Format, out: Path | None, *, sources: list[Source], shard: Shard | None
) -> Output:
    """The output of that kind at `out`, or at its usual place; `sources` are those of all shards.

    Raises UsageError where `out` cannot be one, and where what it needs is not installed.
    """
    part = "" if shard is None else f"-{shard.index:05}-of-{shard.count:05}"
    if kind in SIDECARS:
        from crosslmm.captioning.outputs.sidecar import SidecarOutput

        if out is not None and out.exists() and not out.is_dir():
            raise UsageError(f"{out}: a file; {kind} files go into a folder")
        return SidecarOutput(out and Path(os.path.abspath(out)), kind, part, sources=sources)
    path = Path(os.path.abspath(OUT[kind] if out is None else out))
    if kind == "webdataset":
        from crosslmm.captioning.outputs.webdataset import ShardOutput

        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: a file; the shards go into a folder")
        return ShardOutput(path, part)
    if path.is_dir():
        raise UsageError(f"{path}: a folder; give the {kind} file to write, such as {OUT[kind]}")
    path = path.with_name(f"{path.stem}{part}{path.suffix}")
    check_replaceable(path)
    if kind == "parquet":
        from crosslmm.captioning.outputs.table import require_pyarrow

        require_pyarrow()
        return TableOutput(path)
    return Output(path)


def foreign(path: Path) -> CrossLMMError:
    """What is said of a file that no record shows to be ours."""
    return CrossLMMError(
        f"{path}: no record beside it says that `crosslmm caption` wrote it; "
        "choose another --out, or give --overwrite"
    )


def lock_of(manifest: Path) -> Path:
    """The lock of the runs that write to a manifest."""
    name = manifest.name
    return manifest.with_name(f"{'' if name.startswith('.') else '.'}{name}.lock")
