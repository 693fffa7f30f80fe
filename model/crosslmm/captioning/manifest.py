"""What has been captioned: one line of JSON per video, appended and flushed to the disk.

The last line of a path counts. A line that a kill cut off is removed when the file is next opened, so
that nothing else is lost. For JSONL output the manifest is the output itself.
"""

import errno
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from crosslmm.captioning.results import CAPTION_FIELDS, Record, is_usable
from crosslmm.errors import CrossLMMError
from crosslmm.files import (
    LONGEST_LINE,
    Root,
    atomic_file,
    exists,
    open_regular,
    read_lines,
    remove_file,
)

_FIELDS = ("path", "content", "settings_hash", "error")
_BEGINNING = b'{"path"'  # of every line


@dataclass(frozen=True)
class ManifestEntry:
    """Where the line of a video is, and what decides whether it is current.

    sidecar: the name of the file made from it, relative to the folder of the manifest, and the digest
    of what was written there. replaces: the digest of the caption that it takes the place of, which is
    still there after a kill in between.
    """

    offset: int
    content: str | None
    settings_hash: str
    failed: bool
    sidecar: tuple[str, str] | None = None
    replaces: str | None = None


class Manifest:
    """The lines of one file, of which only an index is held in memory; `open` makes one.

    repaired: whether a line that was cut off has been removed.
    """

    def __init__(
        self, path: Path, file: IO[bytes], *, longest_line: int, root: Root | None = None
    ) -> None:
        self.path = path
        self._root = root
        self.entries: dict[str, ManifestEntry] = {}
        self.repaired = False
        self._file = file
        self._longest_line = longest_line
        self._size = self._superseded = 0
        self._created = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        own: bool = False,
        longest_line: int = LONGEST_LINE,
        root: Root | None = None,
    ) -> "Manifest":
        """Open the file, a new one where there is none, and read its index.

        own: only a file of this process's user counts. longest_line: in bytes. root: the folder of
        the file, where it is held. Raises CrossLMMError
        for a file that holds anything else, or that is not a regular file.
        """
        try:
            if root is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            appending = os.O_RDWR | os.O_CREAT | os.O_APPEND
            created = not exists(path, root=root or path.parent)
            file = open_regular(path, appending, own=own, single=True, root=root)
        except OSError as error:
            raise CrossLMMError(
                f"{path}: cannot be written to ({error.strerror}); choose another `out`"
            ) from error
        manifest = cls(path, file, longest_line=longest_line, root=root)
        manifest._created = created
        try:
            manifest._load()
        except BaseException:
            manifest.close()
            raise
        return manifest

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.discard_empty()
        self.close()

    def discard_empty(self) -> None:
        """Remove the file where `open` created it and no line was added, as where a run is stopped."""
        if os.name == "nt" or self._file.closed:  # Windows removes no open file
            return
        if self._created and not os.fstat(self._file.fileno()).st_size:
            remove_file(self.path, root=self._root or self.path.parent)

    def append(self, records: Sequence[Record]) -> None:
        """Add lines and flush them to the disk."""
        lines = [_encode(record) for record in records]
        if not lines:
            return
        _write_all(self._file, b"".join(lines))
        os.fsync(self._file.fileno())
        for record, line in zip(records, lines, strict=True):
            self._enter(record, self._size)
            self._size += len(line)

    def check(self, record: Record) -> None:
        """Raises OSError for a record that is too long for a line."""
        if len(_encode(record)) > self._longest_line:
            size = f"{self._longest_line >> 20} MiB"
            reason = f"its record is longer than {size}; ask for fewer segments"
            raise OSError(errno.EFBIG, reason)

    def read(self, path: str) -> Record:
        """The record of a video."""
        with open_regular(self.path, os.O_RDONLY, root=self._root) as file:
            file.seek(self.entries[path].offset)
            record: Record = json.loads(file.readline())
            return record

    def read_captioned(self, path: str) -> Record:
        """The same of a video that has a caption. Raises CrossLMMError where it lacks a part of it."""
        record = self.read(path)
        missing = [name for name in CAPTION_FIELDS if name not in record]
        if record["error"] is None and missing:
            raise CrossLMMError(
                f"{self.path}: the record of {path} has no {missing[0]}, so crosslmm did not write it; "
                "remove it, or choose another `out`"
            )
        return record

    def records(self) -> Iterator[Record]:
        """Every video's record, in the order in which they were made."""
        offsets = sorted(entry.offset for entry in self.entries.values())
        with open_regular(self.path, os.O_RDONLY, root=self._root) as file:
            for offset in offsets:
                file.seek(offset)
                yield json.loads(file.readline())

    def drop(self, paths: Collection[str], *, keep_in: Path | None = None) -> int:
        """Remove the lines of videos; those with captions are moved to `keep_in`, if it is given.

        Returns how many lines have captions.
        """
        gone = [entry for path, entry in self.entries.items() if path in paths]
        captioned = sorted(entry.offset for entry in gone if not entry.failed)
        if keep_in is not None and captioned:
            appending = os.O_RDWR | os.O_CREAT | os.O_APPEND
            with (
                open_regular(self.path, os.O_RDONLY, root=self._root) as file,
                closing(open_regular(keep_in, appending, own=True, root=self._root)) as kept,
            ):
                self._remove_torn_line(kept)
                for offset in captioned:
                    file.seek(offset)
                    _write_all(kept, file.readline())
                os.fsync(kept.fileno())
        for path in paths:
            if self.entries.pop(path, None) is not None:
                self._superseded += 1
        self.compact()
        return len(captioned)

    def compact(self) -> None:
        """Remove the lines that no longer count, if there are any."""
        if not self._superseded:
            return
        entries = sorted(self.entries.items(), key=lambda pair: pair[1].offset)
        with (
            open_regular(self.path, os.O_RDONLY, root=self._root) as old,
            atomic_file(self.path, root=self._root) as new,
        ):
            for path, entry in entries:
                old.seek(entry.offset)
                self.entries[path] = replace(entry, offset=new.tell())
                new.write(old.readline())
            self._file.close()
        self._file = open_regular(self.path, os.O_RDWR | os.O_APPEND, root=self._root)
        self._size = self._file.seek(0, os.SEEK_END)
        self._superseded = 0

    def close(self) -> None:
        self._file.close()

    def _load(self) -> None:
        offset = 0
        with open_regular(self.path, os.O_RDONLY, root=self._root) as file:
            for number, line in enumerate(read_lines(file, longest=self._longest_line), start=1):
                record = parse_record(line)
                if record is None:
                    if self._is_torn(line):
                        break
                    raise CrossLMMError(
                        f"{self.path}: line {number} was not written by crosslmm; "
                        "choose another `out`"
                    )
                if line.endswith(b"\n"):
                    self._enter(record, offset)
                    offset += len(line)
        if offset < os.fstat(self._file.fileno()).st_size:
            os.ftruncate(self._file.fileno(), offset)
            self.repaired = True
        self._size = offset

    def _remove_torn_line(self, file: IO[bytes]) -> None:
        """Remove what a kill has left at the end of a file that lines are appended to."""
        end, line = 0, b""
        file.seek(0)
        for line in read_lines(file, longest=self._longest_line):
            end += len(line)
        if line and self._is_torn(line):
            os.ftruncate(file.fileno(), end - len(line))

    def _is_torn(self, line: bytes) -> bool:
        """Whether this last line is the beginning of a record; a machine that died may have left NULs
        in place of the rest."""
        left = line.rstrip(b"\0")
        if len(line) > self._longest_line:
            return False
        if _is_json(left) and parse_record(left) is None:
            return False  # complete, and not a record
        return not line.endswith(b"\n") and (
            left.startswith(_BEGINNING) or _BEGINNING.startswith(left)
        )

    def _enter(self, record: Record, offset: int) -> None:
        self._superseded += record["path"] in self.entries
        sidecar = record.get("sidecar")
        self.entries[record["path"]] = ManifestEntry(
            offset,
            record["content"],
            record["settings_hash"],
            record["error"] is not None,
            sidecar and tuple(sidecar),
            record.get("replaces"),
        )


def _encode(record: Record) -> bytes:
    """One line. A file name that is not valid text is escaped, as JSON allows."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True).encode() + b"\n"


def read_records(path: Path, *, root: Root | None = None) -> Iterator[Record]:
    """The records of a manifest of this process's user that another run may be writing to; other
    lines are skipped."""
    with suppress(OSError), open_regular(path, os.O_RDONLY, own=True, root=root) as file:
        yield from filter(None, map(parse_record, read_lines(file)))


def index_by_content(entries: Mapping[str, ManifestEntry]) -> dict[tuple[str, str], str]:
    """Captioned paths by content and settings."""
    return {
        (entry.content, entry.settings_hash): path
        for path, entry in entries.items()
        if entry.content is not None and not entry.failed
    }


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Write to an unbuffered file, which may write less than it is given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def parse_record(line: bytes) -> Record | None:
    """The record in a line, None where it holds anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(name in record for name in _FIELDS):
        return None
    return record if is_usable(record) else None
