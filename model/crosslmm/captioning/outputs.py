"""Where captions go. Every output has a manifest, which decides what is done; all but JSONL's, which
is the output, is a hidden file, and what it says is made into files from it.

Files appear whole or not at all, and none that is not ours is ever written over.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from crosslmm.captioning.formats import SIDECARS
from crosslmm.captioning.manifest import Manifest, write_whole
from crosslmm.captioning.options import Format
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Shard, Source, looks_like_video
from crosslmm.errors import CrossLMMError, UsageError

OUT: dict[str, str] = {
    "jsonl": "captions.jsonl",
    "parquet": "captions.parquet",
    "webdataset": "captions",
}
_HIDDEN = ".crosslmm-captions"


class Output:
    """One kind of output; this base writes nothing beside its manifest, as JSONL does.

    - name: what the user knows it by; manifest_path: its manifest.
    - keeps_superseded: the manifest is read by others, so a line that no longer counts is moved
      out of it before its video is done again.
    """

    keeps_superseded = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.manifest_path = path

    @property
    def lock_path(self) -> Path:
        name = self.manifest_path.name
        return self.manifest_path.with_name(f"{'' if name.startswith('.') else '.'}{name}.lock")

    @property
    def superseded_path(self) -> Path | None:
        if not self.keeps_superseded:
            return None
        return self.manifest_path.with_suffix(f".superseded{self.manifest_path.suffix}")

    def is_own(self, source: Source) -> bool:
        """Whether a file found in a folder is one that we write."""
        return Path(source.path) in (self.manifest_path, self.superseded_path)

    def begin(self, sources: Iterable[Source], manifest: Manifest) -> None:
        """Called once with all that is to be captioned."""

    def conflict(self, source: Source, manifest: Manifest) -> str | None:
        """Why this video's caption cannot be written, None where it can."""
        return None

    def prepare(self, source: Source) -> None:
        """Called before the manifest says that the video is done."""

    def write(self, source: Source, record: Record) -> None:
        """Called after the manifest says so; `record` has a caption."""

    def restore(self, source: Source, manifest: Manifest) -> None:
        """Called for a video that is done, whose file may have been lost."""

    def finish(self, manifest: Manifest) -> None:
        """Called at the end of every run that was not killed."""


class SidecarOutput(Output):
    """A text file for each video, beside it or in a folder that mirrors the videos'."""

    keeps_superseded = False

    def __init__(self, folder: Path | None, home: Path, ending: str, shard: str) -> None:
        self._folder = folder
        self._ending = ending
        self._render = SIDECARS[ending]
        self._paths: dict[str, Path] = {}
        super().__init__((folder or home) / f"{_HIDDEN}-{ending}{shard}.jsonl")
        self.name = f"{folder or home}"

    def is_own(self, source: Source) -> bool:
        return source.path.lower().endswith(f".{self._ending}")

    def begin(self, sources: Iterable[Source], manifest: Manifest) -> None:
        sources = list(sources)
        roots = {source.root for source in sources if not source.named}
        taken: set[Path] = set()
        # movie.mp4 and movie.mkv: the second one's is movie.mkv.txt, and a movie.jpg's comes last.
        for source in sorted(sources, key=lambda source: not looks_like_video(source.path)):
            base = self._base(source, several=len(roots) > 1)
            path = base.with_suffix(f".{self._ending}")
            if path in taken:
                path = base.with_name(f"{base.name}.{self._ending}")
            if path not in taken:
                self._paths[source.path] = path
                taken.add(path)

    def conflict(self, source: Source, manifest: Manifest) -> str | None:
        path = self._paths.get(source.path)
        if path is None:
            return f"{source.path}: another video's caption would have the same file"
        if not path.exists():
            return None
        entry = manifest.entries.get(source.path)
        if entry is None or entry.failed:
            what = "is there already and was not written by us"
        elif path.read_bytes() != self._data(manifest.read(source.path)):
            what = "was changed since we wrote it"
        else:
            return None
        return f"{source.path}: {path.name} {what}; --overwrite replaces it"

    def prepare(self, source: Source) -> None:
        # With the old file gone, a kill from here on leaves nothing that is out of date.
        self._paths[source.path].unlink(missing_ok=True)

    def write(self, source: Source, record: Record) -> None:
        path = self._paths[source.path]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self._data(record))

    def restore(self, source: Source, manifest: Manifest) -> None:
        path = self._paths.get(source.path)
        if path is not None and not path.exists():
            self.write(source, manifest.read(source.path))

    def _base(self, source: Source, *, several: bool) -> Path:
        if self._folder is None:
            return Path(source.path)
        if source.named or not several:
            return self._folder / source.relative
        return self._folder / os.path.basename(source.root) / source.relative

    def _data(self, record: Record) -> bytes:
        return self._render(record).encode(errors="replace")


class TableOutput(Output):
    """A file made of the whole manifest at the end of a run: Parquet."""

    keeps_superseded = False

    def __init__(self, path: Path) -> None:
        super().__init__(path.with_name(f".{path.name}.manifest.jsonl"))
        self.name = str(path)
        self._path = path

    def is_own(self, source: Source) -> bool:
        return Path(source.path) == self._path

    def finish(self, manifest: Manifest) -> None:
        from crosslmm.captioning.parquet import write_parquet

        write_parquet(self._path, manifest.records())


def make_output(
    kind: Format, out: Path | None, *, sources: list[Source], shard: Shard | None
) -> Output:
    """The output of that kind at `out`, or at its usual place.

    Raises UsageError where `out` cannot be one, and where what it needs is not installed.
    """
    part = "" if shard is None else f"-{shard.index:05}-of-{shard.count:05}"
    if kind in SIDECARS:
        if out is not None and out.exists() and not out.is_dir():
            raise UsageError(f"{out}: a file; {kind} files go into a folder")
        return SidecarOutput(out and Path(os.path.abspath(out)), _home(sources), kind, part)
    path = Path(os.path.abspath(OUT[kind] if out is None else out))
    if kind == "webdataset":
        from crosslmm.captioning.webdataset import ShardOutput

        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: a file; the shards go into a folder")
        return ShardOutput(path, part)
    if path.is_dir():
        raise UsageError(f"{path}: a folder; give the {kind} file to write, such as {OUT[kind]}")
    path = path.with_name(f"{path.stem}{part}{path.suffix}")
    if kind == "parquet":
        from crosslmm.captioning.parquet import require_pyarrow

        require_pyarrow()
        return TableOutput(path)
    return Output(path)


def _home(sources: list[Source]) -> Path:
    """The folder that holds all the videos, where their hidden manifest goes."""
    if not sources:
        return Path.cwd()
    try:
        return Path(os.path.commonpath([source.root for source in sources]))
    except ValueError as error:
        raise CrossLMMError(
            "the videos have no folder in common to keep the record of what is done; give --out"
        ) from error
