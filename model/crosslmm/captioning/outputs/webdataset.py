"""Captions and their videos as WebDataset shards: tar files with a video, a text and a JSON each.

What a shard holds is read from the shard itself, so that no record can disagree with it: at the end of
a run the shards hold what the manifest says, once, whatever was killed before.
"""

import glob
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from crosslmm.captioning.manifest import Manifest, parse_record
from crosslmm.captioning.outputs import CaptionOutput, output_folder, unknown_file
from crosslmm.captioning.outputs.shards import ShardMember, read_members
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Source
from crosslmm.errors import CrossLMMError
from crosslmm.files import (
    LONGEST_LINE,
    Root,
    atomic_file,
    open_regular,
    remove_file,
    remove_scratch,
)
from crosslmm.fingerprint import open_content_identity

_NUMBER = "[0-9]" * 6  # of a shard, as a pattern
_LAST = 999_999
# As of `_member_key`; earlier versions wrote no name in front.
_NAME = re.compile(r"(?:[^.]*-)?(\w+-\w+)\.")
_LONGEST_NAME = 64  # characters of a file's name in a key


class _LostVideo(Exception):
    """Why a captioned video cannot go into its shard."""


class _NothingToWrite(Exception):
    """There is no sample for a shard."""


class WebDatasetOutput(CaptionOutput):
    """Shards in a folder, a new one as soon as there are enough samples or bytes for it."""

    shard_samples = 1000
    shard_bytes = 1 << 30

    def __init__(self, folder: Path, part: str) -> None:
        super().__init__(folder, folder / f".crosslmm-captions{part}.jsonl")
        self._folder = folder
        self._prefix = f"captions{part}-"
        self._held: dict[str, Path] = {}
        # A sample that is not in a shard yet: the files of that content, any of which will do.
        self._pending: dict[str, list[str]] = {}
        self._lost: list[Record] = []
        self._bytes = 0

    def recognizes(self, path: str) -> bool:
        return Path(path).parent == self._folder and path.endswith(".tar")

    def begin(self, sources: Sequence[Source], manifest: Manifest, *, overwrite: bool) -> None:
        shards = self._shards()
        if shards and not (overwrite or manifest.entries):
            raise unknown_file(shards[0])
        self._next_number()  # an error before hours of work
        self._manifest = manifest
        remove_scratch(self._folder, root=self._root)
        for shard in shards:
            with _open_shard(shard, self._root) as (_, members):
                self._held |= dict.fromkeys((_key_of(member.name) for member in members), shard)
        # A record of a file that nobody named must not put that file into a shard.
        named = {source.path for source in sources}
        for path, entry in manifest.entries.items():
            if path in named and not entry.failed:
                self._add(path, _sample_key(entry.content, entry.settings_hash))

    def write(self, record: Record) -> None:
        self._add(record["path"], _sample_key(record["content"], record["settings_hash"]))
        if len(self._pending) >= self.shard_samples or self._bytes >= self.shard_bytes:
            self._flush()

    def finish(self, manifest: Manifest) -> None:
        self._flush()
        wanted = {
            _sample_key(entry.content, entry.settings_hash)
            for entry in manifest.entries.values()
            if not entry.failed
        }
        for shard in {shard for key, shard in self._held.items() if key not in wanted}:
            self._rewrite(shard, wanted)

    def take_lost(self) -> list[Record]:
        lost, self._lost = self._lost, []
        return lost

    def _add(self, path: str, key: str) -> None:
        if key in self._held:
            return
        if key not in self._pending:
            self._bytes += os.path.getsize(path) if os.path.exists(path) else 0
        self._pending.setdefault(key, []).append(path)

    def _flush(self) -> None:
        pending, self._pending, self._bytes = self._pending, {}, 0
        held: list[str] = []
        lost: list[Record] = []

        def fill(tar: tarfile.TarFile) -> None:
            for key, paths in pending.items():
                failed: list[Record] = []
                for path in paths:
                    record = self._manifest.read_captioned(path)
                    current = _sample_key(record["content"], record["settings_hash"])
                    if record["error"] is not None or current != key:
                        continue  # captioned again since, or no longer readable
                    try:
                        with _open_video(path, record["content"]) as video:
                            _add_sample(tar, _member_key(path, key), record, video)
                    except _LostVideo as error:
                        reason = f"{path}: {error}"
                        failed.append(record | {"caption": None, "error": reason, "segments": []})
                    else:
                        held.append(key)
                        break
                else:
                    lost.extend(failed)
            if not held:
                raise _NothingToWrite

        if not pending:
            return
        shard = self._folder / f"{self._prefix}{self._next_number():06}.tar"
        try:
            with suppress(_NothingToWrite):
                _write_tar(shard, fill, self._root)
        except OSError as error:  # of many videos, so that the result of none could say it
            raise CrossLMMError(f"{shard}: {error.strerror or error}") from error
        self._manifest.append(lost)
        self._lost += lost
        self._held |= dict.fromkeys(held, shard)

    def _rewrite(self, shard: Path, wanted: set[str]) -> None:
        """Remove the samples that no longer count; those of videos that the manifest does not know
        stay."""
        with _open_shard(shard, self._root) as (old, found):
            stale = {
                key
                for member in found
                if (key := _key_of(member.name))
                and key not in wanted
                and _video_of(old, member) in self._manifest.entries
            }
            members = [member for member in found if _key_of(member.name) not in stale]
            if members and stale:

                def copy(new: tarfile.TarFile) -> None:
                    for member in members:
                        copied = tarfile.TarInfo(member.name)
                        copied.size = member.size
                        old.seek(member.offset)
                        new.addfile(copied, old)

                _write_tar(shard, copy, self._root)
        if not members:
            remove_file(shard, root=self._root)

    def _shards(self) -> list[Path]:
        pattern = f"{glob.escape(self._prefix)}{_NUMBER}.tar"
        return [self._folder / name for name in self._root.names() if fnmatch(name, pattern)]

    def _next_number(self) -> int:
        shards = self._shards()
        number = int(shards[-1].stem[-6:]) + 1 if shards else 0
        if number > _LAST:
            raise CrossLMMError(
                f"{shards[-1]}: there is no shard number after it; move it away, or choose another "
                "`out`"
            )
        return number


def make_output(
    format: str, out: Path | None, part: str, sources: Sequence[Source]
) -> WebDatasetOutput:
    folder = output_folder(format, out or Path("captions"), default=out is None)
    output = WebDatasetOutput(folder, part)
    output.named = out is not None
    return output


def _sample_key(content: str | None, settings_hash: str) -> str:
    """What identifies a sample: the same content with the same settings is the same sample."""
    return f"{content}-{settings_hash}"


def _member_key(path: str, key: str) -> str:
    """The key under which readers see a sample: after the name of its file, which need not be
    unique."""
    name = re.sub(r"\W+", "_", os.path.splitext(os.path.basename(path))[0])
    return f"{name[:_LONGEST_NAME]}-{key}"


@contextmanager
def _open_video(path: str, content: str) -> Iterator[IO[bytes]]:
    """The video that was captioned, by its content: a link, a pipe or another file may have taken its
    place since. Raises _LostVideo."""
    changed = "changed before its shard was written"
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)  # NONBLOCK: a pipe would be waited for
    except OSError as error:
        reason = f"gone before its shard was written ({error.strerror})"
        raise _LostVideo(reason) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _LostVideo(changed)
    with os.fdopen(descriptor, "rb") as video:
        try:
            is_same = open_content_identity(video) == content
        except OSError as error:
            raise _LostVideo(f"unreadable when its shard was written ({error.strerror})") from None
        if not is_same:
            raise _LostVideo(changed)
        video.seek(0)
        yield video


def _add_sample(tar: tarfile.TarFile, key: str, record: Record, video: IO[bytes]) -> None:
    # One extension for all: readers take it for the name of a column that every sample has. Decoders go
    # by the content, and the file's own name is in the JSON.
    member = tarfile.TarInfo(f"{key}.mp4")
    member.size = os.fstat(video.fileno()).st_size
    tar.addfile(member, video)
    texts = {"txt": record["caption"], "json": json.dumps(record)}
    for name, text in texts.items():
        data = text.encode(errors="replace")
        member = tarfile.TarInfo(f"{key}.{name}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


@contextmanager
def _open_shard(path: Path, root: Root) -> Iterator[tuple[IO[bytes], list[ShardMember]]]:
    """A shard and what is in it. Raises CrossLMMError."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path, os.O_RDONLY, root=root))
            members = list(read_members(file))
        except (tarfile.TarError, OSError) as error:
            raise CrossLMMError(
                f"{path}: this shard cannot be read ({error}); move it away, "
                "or choose another `out`"
            ) from error
        yield file, members


def _write_tar(path: Path, fill: Callable[[tarfile.TarFile], object], root: Root) -> None:
    with (
        atomic_file(path, root=root) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        fill(tar)


def _video_of(shard: IO[bytes], member: ShardMember) -> str | None:
    """The path of the video of the sample, where this is its JSON."""
    if not (member.name.endswith(".json") and member.size <= LONGEST_LINE):
        return None
    shard.seek(member.offset)
    record = parse_record(shard.read(member.size))
    return None if record is None else str(record["path"])


def _key_of(name: str) -> str:
    """The `_sample_key` that a file of that name belongs to, empty where it has another name."""
    match = _NAME.match(name)
    return match[1] if match else ""
