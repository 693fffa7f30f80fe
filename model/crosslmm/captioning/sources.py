"""Which files to caption: named ones, and those found in folders.

Whether a file is a video is decided by its content, when it is read; its extension only decides how a
file that no reader opens is reported. A file with several names (links, overlapping folders) is found
once.
"""

import codecs
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from crosslmm.errors import UsageError
from crosslmm.files import open_readable
from crosslmm.fingerprint import content_identity

_HASHING_THREADS, _WAITING = 8, 1024
_HEAD = 4096  # bytes read of what may be text

_EXTENSIONS = (
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mjpeg"),
    *(".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm"),
    *(".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
_MAGIC = (b"\x1aE\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"YUV4MPEG")


def is_video_name(name: str) -> bool:
    """Whether this ends as files of videos do."""
    return name.lower().endswith(_EXTENSIONS)


@dataclass(frozen=True)
class Source:
    """A file to caption.

    - path: absolute; root: the folder it was found under, or its own.
    - named: given itself, not found in a folder.
    - content: identifies its content once `identify` has read it, None where that cannot be read.
    """

    path: str
    root: str
    named: bool
    content: str | None = None

    @property
    def relative(self) -> str:
        return os.path.relpath(self.path, self.root)


@dataclass(frozen=True)
class Shard:
    """The `index`-th (from 1) of `count` parts; the part of a file depends on its name alone."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"shard {self.index}/{self.count}: the first number goes from 1 to the second"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UsageError(f"shard {text!r} is not of the form I/N, such as 1/8")
        return cls(int(index), int(count))

    def holds(self, source: Source) -> bool:
        name = source.relative.replace(os.sep, "/").encode(errors="surrogateescape")
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1


def find(
    paths: Iterable[str | os.PathLike[str]],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_unreadable: Callable[[OSError], object] | None = None,
    on_linked: Callable[[str], object] | None = None,
) -> Iterator[Source]:
    """The files at `paths` and in the folders there, each file once, in a stable order.

    Hidden files and folders are skipped, and links to folders, which may lead anywhere, unless they
    are in `paths`. `include` and `exclude` are globs for files in folders: one with a slash is matched
    against the path below the folder, one without against the name alone. `on_unreadable` is called
    for each folder that cannot be searched, `on_linked` for each link to a folder.
    """
    seen: set[tuple[int, int]] = set()
    for given in paths:
        path = os.path.abspath(os.fsdecode(given))
        if os.path.isdir(path):
            found: Iterable[Source] = _walk(path, include, exclude, on_unreadable, on_linked)
        else:
            found = [Source(path, os.path.dirname(path), named=True)]
        for source in found:
            identity = _identity(source.path)
            if identity is None or identity not in seen:
                yield source
            if identity is not None:
                seen.add(identity)


def explain_linked(folders: Sequence[str]) -> str:
    """What to tell of links to folders that were not followed."""
    if len(folders) == 1:
        return f"{folders[0]}: a link to a folder, which is not followed; name it to include it"
    return (
        f"{len(folders):,} links to folders, such as {folders[0]}, are not followed; name them to "
        "include them"
    )


def identify(sources: Sequence[Source]) -> list[Source]:
    """The sources with the identities of their contents."""
    identified = []
    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        # Of a million files, those that wait would take a gigabyte.
        for start in range(0, len(sources), _WAITING):
            part = sources[start : start + _WAITING]
            contents = threads.map(content_identity, [source.path for source in part])
            identified += [
                replace(source, content=content)
                for source, content in zip(part, contents, strict=True)
            ]
    return identified


def looks_like_video(path: str) -> bool:
    """Whether a file that could not be read was probably meant to be a video."""
    if is_video_name(path):
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open_readable(Path(path)) as file:
            head = file.read(16)
    except OSError:
        return False
    in_riff = head.startswith(b"RIFF") and head[8:12] == b"AVI "
    return in_riff or head[4:8] == b"ftyp" or head.startswith(_MAGIC)


def is_plain_text(path: str) -> bool:
    """Whether a file begins as text and nothing says that it was meant to be a video; False for one
    that cannot be read."""
    if looks_like_video(path):
        return False
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open_readable(Path(path)) as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    try:  # a character may be cut off at the end
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)


def _walk(
    root: str,
    include: Sequence[str],
    exclude: Sequence[str],
    on_unreadable: Callable[[OSError], object] | None,
    on_linked: Callable[[str], object] | None,
) -> Iterator[Source]:
    for folder, folders, files in os.walk(root, onerror=on_unreadable):
        kept = []
        for name in sorted(folders):
            path = os.path.join(folder, name)
            if name.startswith(".") or _matches(path, root, exclude):
                continue
            if not os.path.islink(path):
                kept.append(name)
            elif on_linked is not None:
                on_linked(path)
        folders[:] = kept
        for name in sorted(files):
            path = os.path.join(folder, name)
            if name.startswith(".") or _matches(path, root, exclude):
                continue
            if not include or _matches(path, root, include):
                yield Source(path, root, named=False)


def _matches(path: str, root: str, patterns: Sequence[str]) -> bool:
    below = os.path.relpath(path, root).replace(os.sep, "/")
    name = os.path.basename(path)
    bare = (pattern.rstrip("/") for pattern in patterns)  # `drafts/` means the folder as well
    return any(fnmatch(below if "/" in pattern else name, pattern) for pattern in bare)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
