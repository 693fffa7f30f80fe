"""What has been captioned: one line of JSON per video, appended whole and flushed to the disk.

The last line of a path counts. A line torn by a kill is taken off when the file is next opened, so
that nothing more than it is lost. For JSONL output this is the output itself.
"""

import errno
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from crosslmm.captioning.results import Record
from crosslmm.errors import CrossLMMError
from crosslmm.files import atomic_file, open_regular

_FIELDS = ("path", "content", "settings_hash", "error")
_BEGINNING = b'{"path"'  # of every line
LONGEST_LINE = 64 << 20  # bytes


@dataclass(frozen=True)
class Entry:
    """Where a video's line is, and what tells whether it still holds; `sidecar` is the name of the
    file made of it, from the manifest's folder, and the digest of what was written there."""

    offset: int
    content: str | None
    settings_hash: str
    failed: bool
    sidecar: tuple[str, str] | None = None


class Manifest:
    """The lines of one file. Only its index is held in memory."""

    def __init__(self, path: Path, *, own: bool = False) -> None:
        """own: only a file of this process's user counts. Raises CrossLMMError for a file that holds
        anything else, or that is none."""
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.repaired = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._superseded = 0
        try:
            self._file = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, own=own)
        except OSError as error:
            raise CrossLMMError(
                f"{path}: cannot be written to ({error.strerror}); choose another --out"
            ) from error
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise
        self._size = self._file.seek(0, os.SEEK_END)

    def append(self, records: Sequence[Record]) -> None:
        """Add lines and see them on the disk."""
        lines = [encode(record) for record in records]
        if not lines:
            return
        _write_all(self._file, b"".join(lines))
        os.fsync(self._file.fileno())
        for record, line in zip(records, lines, strict=True):
            self._enter(record, self._size)
            self._size += len(line)

    def check(self, record: Record) -> None:
        """Raises OSError for a record that is too long for a line."""
        if len(encode(record)) > LONGEST_LINE:
            reason = f"its record is longer than {LONGEST_LINE >> 20} MiB; ask for fewer segments"
            raise OSError(errno.EFBIG, reason)

    def read(self, path: str) -> Record:
        """The record of a video."""
        with open_regular(self.path, os.O_RDONLY) as file:
            file.seek(self.entries[path].offset)
            record: Record = json.loads(file.readline())
            return record

    def records(self) -> Iterator[Record]:
        """Every video's record, in the order in which they were made."""
        places = sorted(entry.offset for entry in self.entries.values())
        with open_regular(self.path, os.O_RDONLY) as file:
            for place in places:
                file.seek(place)
                yield json.loads(file.readline())

    def drop(self, paths: Collection[str], *, keep_in: Path | None = None) -> int:
        """Take videos' lines out; those with captions are kept in a file beside, if one is named.

        Returns how many lines it kept there.
        """
        gone = [entry for path, entry in self.entries.items() if path in paths]
        good = sorted(entry.offset for entry in gone if not entry.failed)
        if keep_in is not None and good:
            appending = os.O_RDWR | os.O_CREAT | os.O_APPEND
            with (
                open_regular(self.path, os.O_RDONLY) as file,
                closing(open_regular(keep_in, appending)) as kept,
            ):
                _take_off_half_line(kept)
                for place in good:
                    file.seek(place)
                    _write_all(kept, file.readline())
                os.fsync(kept.fileno())
        for path in paths:
            if self.entries.pop(path, None) is not None:
                self._superseded += 1
        self.compact()
        return len(good)

    def compact(self) -> None:
        """Leave out the lines that no longer count; nothing is done where there are none."""
        if not self._superseded:
            return
        entries = sorted(self.entries.items(), key=lambda pair: pair[1].offset)
        with open_regular(self.path, os.O_RDONLY) as old, atomic_file(self.path) as new:
            for path, entry in entries:
                old.seek(entry.offset)
                self.entries[path] = replace(entry, offset=new.tell())
                new.write(old.readline())
            self._file.close()
        self._file = open_regular(self.path, os.O_RDWR | os.O_APPEND)
        self._size = self._file.seek(0, os.SEEK_END)
        self._superseded = 0

    def close(self) -> None:
        self._file.close()

    def _load(self) -> None:
        offset = 0
        with open_regular(self.path, os.O_RDONLY) as file:
            for number, line in enumerate(_lines(file), start=1):
                record = parse(line)
                if record is None:
                    if _is_torn(line):
                        break
                    raise CrossLMMError(
                        f"{self.path}: line {number} was not written by `crosslmm caption`; "
                        "choose another --out"
                    )
                if line.endswith(b"\n"):
                    self._enter(record, offset)
                    offset += len(line)
        if offset < os.fstat(self._file.fileno()).st_size:
            os.ftruncate(self._file.fileno(), offset)
            self.repaired = True

    def _enter(self, record: Record, offset: int) -> None:
        self._superseded += record["path"] in self.entries
        sidecar = record.get("sidecar")
        self.entries[record["path"]] = Entry(
            offset,
            record["content"],
            record["settings_hash"],
            record["error"] is not None,
            sidecar and tuple(sidecar),
        )


def encode(record: Record) -> bytes:
    """One line. A file name that is no valid text is escaped, as JSON allows."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True).encode() + b"\n"


def recorded(path: Path) -> Iterator[Record]:
    """The lines of a manifest of this process's user that another run may be writing to; what is none
    is passed over."""
    with suppress(OSError), open_regular(path, os.O_RDONLY, own=True) as file:
        yield from filter(None, map(parse, _lines(file)))


def by_content(entries: Iterable[tuple[str, Entry]]) -> dict[tuple[str, str], str]:
    """Captioned paths by content and settings."""
    return {
        (entry.content, entry.settings_hash): path
        for path, entry in entries
        if entry.content is not None and not entry.failed
    }


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, the last one given short where it is longer than a record may be."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line
        if len(line) > LONGEST_LINE:
            return


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Write to a file without a buffer, which may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _take_off_half_line(file: IO[bytes]) -> None:
    """As a kill leaves it at the end of a file that lines are added to."""
    end, line = 0, b""
    file.seek(0)
    for line in _lines(file):
        end += len(line)
    if line and _is_torn(line):
        os.ftruncate(file.fileno(), end - len(line))


def _is_torn(line: bytes) -> bool:
    """Whether this last line is the beginning of one of ours; a machine that died may have left NULs
    in place of the rest."""
    left = line.rstrip(b"\0")
    if len(line) > LONGEST_LINE:
        return False
    if _is_json(left) and parse(left) is None:
        return False  # somebody else's, whole
    return not line.endswith(b"\n") and (left.startswith(_BEGINNING) or _BEGINNING.startswith(left))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def parse(line: bytes) -> Record | None:
    """The record in a line, None where there is none of ours."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(name in record for name in _FIELDS):
        return None
    texts = [record["path"], record["settings_hash"]]
    texts += [record[name] for name in ("content", "error") if record[name] is not None]
    sidecar = record.get("sidecar")
    if sidecar is not None:
        texts += sidecar if isinstance(sidecar, list) and len(sidecar) == 2 else [None]
    return record if all(isinstance(text, str) for text in texts) else None
