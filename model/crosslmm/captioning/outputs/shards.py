"""What is in a shard, which somebody else may have made: read with bounded effort.

Only plain files are read, whose names and sizes may be in an extended header of their own.
`tarfile` reads everything else as well, and some of it for ever.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_HEADER = 1 << 20  # bytes
_LONGEST_NAME = 4096  # characters
_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")
_KNOWN = (b"path", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname")
_SIZE = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True)
class ShardMember:
    """A file in a shard, from `offset` on."""

    name: str
    offset: int
    size: int


def read_members(file: IO[bytes]) -> Iterator[ShardMember]:
    """The files in a shard. Raises tarfile.TarError for anything else, and OSError."""
    end = file.seek(0, 2)
    offset = 0
    extended: dict[bytes, bytes] | None = None
    while True:
        file.seek(offset)
        try:
            header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise tarfile.ReadError(str(error)) from None
        offset += _BLOCK
        name, size = header.name, header.size
        is_extension = header.type == tarfile.XHDTYPE
        if extended is not None and not is_extension:
            name = extended.get(b"path", name.encode(errors="surrogateescape")).decode(
                errors="surrogateescape"
            )
            size = int(extended.get(b"size", size))
        if not 0 <= size <= end - offset:
            raise tarfile.ReadError("a size that is not possible")
        if is_extension:
            if extended is not None or size > _LONGEST_HEADER:
                raise tarfile.ReadError("an extended header that is not of a plain file")
            extended = _read_extended(file.read(size))
        elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and len(name) <= _LONGEST_NAME:
            extended = None
            yield ShardMember(name, offset, size)
        else:
            raise tarfile.ReadError("something other than regular files")
        offset += -(-size // _BLOCK) * _BLOCK


def _read_extended(data: bytes) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    start = 0
    while start < len(data):
        length = _LENGTH.match(data, start)
        record = data[start : start + int(length[1])] if length else b""
        key, _, value = record[len(length[0]) if length else 0 : -1].partition(b"=")
        is_known = key in _KNOWN or (key == b"size" and _SIZE.fullmatch(value))
        if not (is_known and record.endswith(b"\n")):
            raise tarfile.ReadError("an extended header that is not of a plain file")
        values[key] = value
        start += len(record)
    return values
