"""A text file for each video, beside it or in a folder that mirrors the videos'.

Each record names its sidecar and the digest of what was written there. A sidecar is ours while it has
that digest, whichever run recorded it: this one's manifest counts, and those of other shards and of
runs over the videos' own folders. Records in folders above are not believed, and none may name a file
outside of its own folder: a folder may come from somebody else.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from crosslmm.captioning.manifest import Manifest, recorded
from crosslmm.captioning.outputs import Output, lock_of
from crosslmm.captioning.results import Record
from crosslmm.captioning.worklist import Source, looks_like_video
from crosslmm.errors import CrossLMMError
from crosslmm.files import atomic_write, open_regular, remove_file, remove_scratch
from crosslmm.subtitles import SIDECARS

_ADOPTED_AT_ONCE = 1000
_LONGEST = 64 << 20  # bytes read of a sidecar


class SidecarOutput(Output):
    """- folder: where the sidecars go, None for beside the videos;
    - sources: all there are, with those of other shards, since together they decide the names.
    """

    keeps_superseded = False
    hides_manifest = True

    def __init__(
        self, folder: Path | None, ending: str, shard: str, *, sources: list[Source]
    ) -> None:
        self._home = folder or _common(sources)
        hidden = f".crosslmm-captions-{ending}"
        super().__init__(self._home / f"{hidden}{shard}.jsonl")
        self.name = str(self._home)
        self._folder = folder
        self._ending = ending
        self._render = SIDECARS[ending]
        self._sources = [source for source in sources if source.named or not self.is_own(source)]
        searched = {self._home}
        if folder is None:
            searched |= {Path(os.path.dirname(source.path)) for source in sources}
        found = {path for place in searched for path in place.glob(f"{hidden}*.jsonl")}
        self._others = sorted(found - {self.manifest_path})
        self._paths: dict[str, Path] = {}
        self._ours: dict[str, str] = {}

    @property
    def locks(self) -> list[Path]:
        same = (other for other in self._others if other.name == self.manifest_path.name)
        return [*super().locks, *map(lock_of, same)]

    def is_own(self, source: Source) -> bool:
        return source.path.lower().endswith(f".{self._ending}")

    def begin(self, sources: Iterable[Source], manifest: Manifest, *, overwrite: bool) -> None:
        super().begin(sources, manifest, overwrite=overwrite)
        names: dict[str, str] = {}
        adopted = self._read_others({source.path for source in sources}, manifest, names)
        while some := list(islice(adopted, _ADOPTED_AT_ONCE)):
            manifest.append(some)
        for video, entry in manifest.entries.items():
            if entry.sidecar is not None:
                name, digest = entry.sidecar
                if not self._may_be_ours(name):
                    raise CrossLMMError(
                        f"{self.manifest_path}: names {name!r}, which `crosslmm caption` did not write; "
                        "this record is not to be trusted, remove it"
                    )
                names[video] = os.path.join(self._home, name)
                self._ours[names[video]] = digest
        self._digests = set(self._ours.values())
        self._assign(names)
        for folder in {path.parent for path in self._paths.values()}:
            remove_scratch(folder, root=self._home)

    def conflict(self, source: Source, *, overwrite: bool) -> str | None:
        path = self._paths.get(source.path)
        if path is None:
            return f"{source.path}: another video's caption would have the same file"
        # One of another name is ours too: it was moved with its video.
        if overwrite or not os.path.exists(path) or _digest_of(path) in self._digests:
            return None
        what = "is there already and was not written by us"
        if str(path) in self._ours:
            what = "was changed since we wrote it"
        return (
            f"{source.path}: {path.name} {what}; move it away and give --retry-failed, "
            "or --overwrite to do everything anew"
        )

    def note(self, source: Source, record: Record, manifest: Manifest) -> Record:
        if record["error"] is None:
            name = os.path.relpath(self._paths[source.path], self._home)
            return record | {"sidecar": [name, _digest(self._data(record))]}
        # The sidecar of a caption that other settings made stays, and stays ours.
        entry = manifest.entries.get(source.path)
        return record | {"sidecar": entry and entry.sidecar}

    def prepare(self, source: Source) -> None:
        # With the old file gone, a kill from here on leaves nothing that is out of date.
        remove_file(self._paths[source.path], root=self._home)

    def write(self, source: Source, record: Record) -> None:
        path = self._paths[source.path]
        self._home.mkdir(parents=True, exist_ok=True)
        atomic_write(path, self._data(record), root=self._home)

    def restore(self, source: Source, manifest: Manifest) -> None:
        path = self._paths.get(source.path)
        if path is not None and not os.path.exists(path):
            self.write(source, manifest.read(source.path))

    def _read_others(
        self, wanted: set[str], manifest: Manifest, names: dict[str, str]
    ) -> Iterator[Record]:
        """Note what other manifests record; gives the records that count in place of our own, being
        those that agree with the sidecar that is there."""
        for other in self._others:
            for record in recorded(other):
                if not record.get("sidecar"):
                    continue
                name, digest = record["sidecar"]
                if not self._may_be_ours(name):
                    continue
                path = os.path.join(other.parent, name)
                names[record["path"]] = path
                self._ours[path] = digest
                if record["path"] in wanted:
                    entry = manifest.entries.get(record["path"])
                    sidecar = (os.path.relpath(path, self._home), digest)
                    if not (entry and entry.sidecar == sidecar) and _digest_of(path) == digest:
                        yield record | {"sidecar": sidecar}

    def _may_be_ours(self, name: str) -> bool:
        """Whether a recorded name is one that we give: below the folder of the record."""
        parts = Path(name).parts
        inside = not os.path.isabs(name) and ".." not in parts and "\0" not in name
        return inside and name.endswith(f".{self._ending}")

    def _assign(self, names: dict[str, str]) -> None:
        """Give each video its sidecar: the one it has, else one that no other video has."""
        several = len({source.root for source in self._sources if not source.named}) > 1
        owners = {path: video for video, path in names.items()}
        # A movie.jpg's comes after those of videos.
        for source in sorted(self._sources, key=lambda source: not looks_like_video(source.path)):
            base = self._base(source, several=several)
            choice = [
                base.with_suffix(f".{self._ending}"),
                base.with_name(f"{base.name}.{self._ending}"),
            ]
            if source.path in names:
                choice = [Path(names[source.path])]
            for path in choice:
                owner = owners.setdefault(str(path), source.path)
                if owner == source.path or not os.path.lexists(owner):
                    owners[str(path)] = source.path
                    self._paths[source.path] = path
                    break

    def _base(self, source: Source, *, several: bool) -> Path:
        if self._folder is None:
            return Path(source.path)
        if source.named or not several:
            return self._folder / source.relative
        return self._folder / os.path.basename(source.root) / source.relative

    def _data(self, record: Record) -> bytes:
        return self._render(record).encode(errors="replace")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _digest_of(path: str | Path) -> str:
    """Of a file's content; empty where it is not a regular file, or cannot be read."""
    try:
        with open_regular(Path(path), os.O_RDONLY) as file:
            return _digest(file.read(_LONGEST))
    except OSError:
        return ""


def _common(sources: list[Source]) -> Path:
    """The folder that holds all the videos, where their hidden manifest goes."""
    if not sources:
        return Path.cwd()
    try:
        return Path(os.path.commonpath([source.root for source in sources]))
    except ValueError as error:
        raise CrossLMMError(
            "the videos have no folder in common to keep the record of what is done; give --out"
        ) from error
