"""A text file for each video, beside it or in a folder that mirrors the folders of the videos; or one
file for one video.

A record names its sidecar and the digest of what was written there. A sidecar was written by crosslmm
while it has that digest; any other file is left alone. Only this output's manifest and those of other
shards of it are believed, which lie in one folder, and none may name a file outside of that folder: it
may come from somebody else.
"""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from crosslmm.captioning.manifest import Manifest, read_records
from crosslmm.captioning.outputs import CaptionOutput, output_folder
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Source, looks_like_video
from crosslmm.errors import CrossLMMError
from crosslmm.files import (
    atomic_write,
    check_replaceable,
    exists,
    open_regular,
    remove_file,
    remove_scratch,
)
from crosslmm.subtitles import Cue, format_srt, format_vtt

_LONGEST = 64 << 20  # bytes of a sidecar
_BATCH = 1000  # records of other shards that are taken over at once


def format_text(record: Record) -> str:
    """The caption, as trainers of image and video generators read it."""
    return f"{record['caption']}\n"


def record_cues(record: Record) -> list[Cue]:
    """A cue for each segment."""
    return [(part["start"], part["end"], part["caption"] or "") for part in record["segments"]]


FORMATTERS: dict[str, Callable[[Record], str]] = {
    "txt": format_text,
    "srt": lambda record: format_srt(record_cues(record)),
    "vtt": lambda record: format_vtt(record_cues(record)),
}


class SidecarOutput(CaptionOutput):
    """- folder: where the sidecars go, None for beside the videos;
    - sources: those of all shards, since together they decide the names.
    """

    def __init__(
        self, folder: Path | None, format: str, part: str, *, sources: Sequence[Source]
    ) -> None:
        self._home = folder or _common_folder(sources)
        self._manifests = f".crosslmm-captions-{format}*.jsonl"
        super().__init__(self._home, self._home / self._manifests.replace("*", part))
        self._folder = folder
        self._extension = f".{format}"
        self._format = FORMATTERS[format]
        self._sources = [
            source for source in sources if source.named or not self.recognizes(source.path)
        ]
        # Of each video its sidecar, and of each sidecar its recorded digest; both below the home.
        self._names: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._written: set[str] = set()
        self._in_the_way: set[tuple[int, int]] = set()  # videos that may have the name of a sidecar

    def recognizes(self, path: str) -> bool:
        return path.lower().endswith(self._extension)

    def wrote(self, path: str) -> bool:
        file = Path(path)
        return (
            file.is_relative_to(self._home) and str(file.relative_to(self._home)) in self._digests
        )

    def begin(self, sources: Sequence[Source], manifest: Manifest, *, overwrite: bool) -> None:
        super().begin(sources, manifest, overwrite=overwrite)
        self._in_the_way = {
            status
            for source in self._sources
            if self.recognizes(source.path) and (status := _identity(Path(source.path)))
        }
        recorded: dict[str, str] = {}
        newer = self._read_other_shards({source.path for source in sources}, manifest, recorded)
        while batch := list(islice(newer, _BATCH)):
            manifest.append(batch)
        for video, entry in manifest.entries.items():
            if entry.sidecar is not None:
                name, digest = entry.sidecar
                if not self._is_inside(name):
                    raise CrossLMMError(
                        f"{self.manifest_path}: names {name!r}, which crosslmm did not write; "
                        "this record is not to be trusted, remove it"
                    )
                recorded[video] = name
                self._digests[name] = digest
            if entry.replaces is not None:
                self._written.add(entry.replaces)
        self._written.update(self._digests.values())
        self._assign_names(recorded)
        for folder in {(self._home / name).parent for name in self._names.values()}:
            remove_scratch(folder, root=self._root)

    def conflict(self, path: str, *, overwrite: bool) -> str | None:
        name = self._names.get(path)
        if name is None:
            return f"{path}: the caption of another video would have the same file"
        sidecar = self._home / name
        if self._digest_of(name) not in self._written and _identity(sidecar) in self._in_the_way:
            return f"{path}: its caption would replace {sidecar}, which is given as a video"
        # A digest recorded for another name counts: the sidecar was moved with its video.
        if (
            overwrite
            or not exists(sidecar, root=self._root)
            or self._digest_of(name) in self._written
        ):
            return None
        what = f"already exists and was not written by a run on {self._home}"
        if name in self._digests:
            what = "was changed after crosslmm wrote it"
        return (
            f"{path}: {sidecar.name} {what}; `exclude` the video, or move the file away and use "
            "`retry_failed`, or use `overwrite` to discard existing results and start over"
        )

    def prepare(self, path: str) -> None:
        name = self._names[path]
        if self._digest_of(name) not in self._written:
            # Nobody would know later that it is out of date.
            remove_file(self._home / name, root=self._root)

    def note(self, record: Record, manifest: Manifest) -> Record:
        if record["error"] is None:
            name, digest = self._names[record["path"]], _digest(self._data(record))
            noted = record | {"sidecar": [name, digest]}
            old = self._digest_of(name)
            return noted | {"replaces": old} if old not in ("", digest) else noted
        # The sidecar of a caption with other settings stays, and so does its digest.
        entry = manifest.entries.get(record["path"])
        noted = record | {"sidecar": entry and entry.sidecar}
        return noted | {"replaces": entry.replaces} if entry and entry.replaces else noted

    def write(self, record: Record) -> None:
        atomic_write(self._home / self._names[record["path"]], self._data(record), root=self._root)

    def restore(self, path: str, manifest: Manifest) -> None:
        name = self._names.get(path)
        if name is None:
            return
        sidecar, replaces = self._home / name, manifest.entries[path].replaces
        if not exists(sidecar, root=self._root) or (replaces and self._digest_of(name) == replaces):
            self.write(manifest.read_captioned(path))

    def _read_other_shards(
        self, wanted: set[str], manifest: Manifest, recorded: dict[str, str]
    ) -> Iterator[Record]:
        """Enter the sidecars that other shards have recorded; gives the records that count in place of
        this manifest's, which are those that agree with the sidecar that is there."""
        found = [name for name in self._root.names() if fnmatch(name, self._manifests)]
        for path in sorted({self._home / name for name in found} - {self.manifest_path}):
            for record in read_records(path, root=self._root):
                name, digest = sidecar = tuple(record.get("sidecar") or ("", ""))
                if not self._is_inside(name):
                    continue
                recorded[record["path"]] = name
                self._digests[name] = digest
                if record.get("replaces"):
                    self._written.add(record["replaces"])
                entry = manifest.entries.get(record["path"])
                is_news = record["path"] in wanted and not (entry and entry.sidecar == sidecar)
                if is_news and self._digest_of(name) == digest:
                    yield record

    def _digest_of(self, name: str) -> str:
        """Of the content of a file below the home; empty where it is not a regular file, cannot be read
        or is longer than any that is written."""
        try:
            with open_regular(self._home / name, os.O_RDONLY, root=self._root) as file:
                if os.fstat(file.fileno()).st_size > _LONGEST:
                    return ""
                return _digest(file.read(_LONGEST))
        except OSError:
            return ""

    def _is_inside(self, name: str) -> bool:
        """Whether a recorded name is one that this output gives: below the folder of the record."""
        inside = not os.path.isabs(name) and ".." not in Path(name).parts and "\0" not in name
        return inside and name.endswith(self._extension)

    def _assign_names(self, recorded: dict[str, str]) -> None:
        """Give each video its sidecar: the one it has, else one that no other video has."""
        several = len({source.root for source in self._sources if not source.named}) > 1
        owners = {name: video for video, name in recorded.items()}
        # The sidecar of movie.jpg is named after those of videos.
        for source in sorted(self._sources, key=lambda source: not looks_like_video(source.path)):
            base = Path(os.path.relpath(self._mirrored(source, several=several), self._home))
            choice = [str(base.with_suffix(self._extension)), f"{base}{self._extension}"]
            if source.path in recorded:
                choice = [recorded[source.path]]
            for name in choice:
                owner = owners.setdefault(name, source.path)
                if owner == source.path or not os.path.lexists(owner):
                    owners[name] = source.path
                    self._names[source.path] = name
                    break

    def _mirrored(self, source: Source, *, several: bool) -> Path:
        if self._folder is None:
            return Path(source.path)
        if source.named or not several:
            return self._folder / source.relative
        return self._folder / os.path.basename(source.root) / source.relative

    def _data(self, record: Record) -> bytes:
        return self._format(record).encode(errors="replace")


class SingleSidecarOutput(SidecarOutput):
    """The sidecar of one video, under the name that the user gave. Its record is a hidden file beside
    it."""

    def __init__(self, file: Path, format: str, source: Source) -> None:
        super().__init__(file.parent, format, "", sources=[source])
        self.name = str(file)
        self.manifest_path = file.with_name(f".{file.name}.manifest.jsonl")
        self._manifests = glob.escape(self.manifest_path.name)
        self._path = source.path
        self._file = file
        self._held: str | None = None  # the other video whose caption is there

    def begin(self, sources: Sequence[Source], manifest: Manifest, *, overwrite: bool) -> None:
        super().begin(sources, manifest, overwrite=overwrite)
        others = manifest.entries.keys() - {self._path}
        self._held = next((path for path in others if not overwrite), None)
        if overwrite:
            manifest.drop(others)

    def conflict(self, path: str, *, overwrite: bool) -> str | None:
        if self._held is not None:
            return (
                f"{path}: {self._file.name} holds the caption of {self._held}; choose another `out`, "
                "or use `overwrite`"
            )
        return super().conflict(path, overwrite=overwrite)

    def _assign_names(self, recorded: dict[str, str]) -> None:
        self._names = {self._path: self._file.name}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def make_output(
    format: str, out: Path | None, part: str, sources: Sequence[Source]
) -> SidecarOutput:
    if out is not None and _is_file_name(out, format, sources):
        check_replaceable(out)
        return SingleSidecarOutput(Path(os.path.abspath(out)), format, sources[0])
    return SidecarOutput(out and output_folder(format, out), format, part, sources=sources)


def _is_file_name(out: Path, format: str, sources: Sequence[Source]) -> bool:
    """Whether `out` means the file for the one video that was named, not a folder."""
    single = len(sources) == 1 and sources[0].named
    return single and out.suffix.lower() == f".{format}" and not out.is_dir()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _common_folder(sources: Sequence[Source]) -> Path:
    """The folder that holds all the videos, where their hidden manifest goes."""
    if not sources:
        return Path.cwd()
    try:
        return Path(os.path.commonpath([source.root for source in sources]))
    except ValueError as error:
        raise CrossLMMError(
            "the videos have no folder in common to keep the record of what is done; give `out`"
        ) from error
