"""What was encoded of videos, kept on disk for the next process; imports no torch.

The name of an entry says what it was made from: the content of the video, the sampling, the model.
The name of an empty file maps a large video, as it lies on the disk, to its content, so that it is not
hashed again. The folder is used only where it is this user's alone, and no link in it is followed.
"""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from platformdirs import user_cache_path

from crosslmm.checkpoints.cache import DISK_MARGIN
from crosslmm.errors import UsageError
from crosslmm.files import (
    HeldFolder,
    atomic_file,
    gigabytes,
    open_regular,
    parse_json,
    remove_file,
    remove_scratch,
)
from crosslmm.fingerprint import file_state, settings_hash
from crosslmm.inference.file_content import FileContent
from crosslmm.inference.own_folder import OwnFolder
from crosslmm.options import Sampling

CACHE_SIZE = 10_000_000_000  # bytes
LEAST_SECONDS = 1.0  # of decoding and encoding: less is not worth the disk
_HASH = "[0-9a-f]{32}"
_ENTRY = re.compile(rf"[0-9a-f]+\.{_HASH}-{_HASH}-{_HASH}\.safetensors")
_RECORD = re.compile(rf"({_HASH})-([0-9a-f]+\.{_HASH})\.known")
_RECORD_SECONDS = 24 * 3600  # that a record stays of a file of which nothing is kept
_LONGEST_HEADER = 64 << 20
_NOT_SAMPLING = ("deadline", "file_timeout")  # how long it may take, not what comes of it


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache; used: seconds since the epoch; video: the name of its file."""

    name: str
    size: int
    used: float
    video: str = ""
    frames: int = 0


def default_folder() -> Path:
    """`CROSSLMM_CACHE`, else crosslmm in the user's folder of caches."""
    if given := os.environ.get("CROSSLMM_CACHE"):
        return Path(os.path.expanduser(given))
    return user_cache_path("crosslmm", appauthor=False)


def sampling_key(sampling: Sampling) -> str:
    """The same for all that choose the same frames of a file."""
    chosen = {name: value for name, value in asdict(sampling).items() if name not in _NOT_SAMPLING}
    return settings_hash(chosen, digest_size=16)


class FeatureCache:
    """A folder of encoded videos, of at most `size` bytes; the least recently used go first.

    - folder: what is kept lies in `features` in it; None is `CROSSLMM_CACHE`, or the user's folder of
      caches.
    - least_seconds: a video that was decoded and encoded in less is not kept.

    Raises UsageError.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        size: int = CACHE_SIZE,
        least_seconds: float | None = None,
    ) -> None:
        if size < 1:
            raise UsageError(f"`cache_size` must be at least 1 byte, not {size}")
        self.folder = (default_folder() if folder is None else Path(folder)) / "features"
        self.size = size
        self.least_seconds = LEAST_SECONDS if least_seconds is None else least_seconds
        self._own = OwnFolder(self.folder)
        self._contents: dict[str, FileContent | None] = {}

    def __repr__(self) -> str:
        return f"<FeatureCache {self.folder}, at most {gigabytes(self.size)}>"

    def may_hold(self, path: str, sampling: Sampling) -> bool:
        """Whether something is kept of a file like this one, sampled so, by whatever model. Whoever
        then begins to decode it decodes what `claim` gives next."""
        content = self._contents[path] = self._look(path)
        return content is not None and self.may_hold_content(content, sampling)

    def may_hold_content(self, content: FileContent, sampling: Sampling) -> bool:
        """The same of a file that was looked at; its hash need not be known yet."""
        start, middle = f"{content.size:x}.{content.hash or ''}", f"-{sampling_key(sampling)}-"
        return any(
            _ENTRY.fullmatch(name) and name.startswith(start) and middle in name
            for name in self._names()
        )

    def claim(self, path: str) -> FileContent | None:
        """What a regular file holds; its hash is being found where it is not known. None where it
        changed since `may_hold`."""
        content = self._contents.pop(path, None)
        if content is None:
            return self._look(path)
        return content if content.is_current() else None

    def entry_name(self, content: FileContent, sampling: Sampling, model: str) -> str:
        """model: a hash of 32 digits, of all that tokens depend on besides the frames."""
        return f"{_content_name(content)}-{sampling_key(sampling)}-{model}.safetensors"

    def open_entry(self, name: str) -> IO[bytes] | None:
        """The file of an entry, which becomes the most recently used; None where there is none, or one
        that is larger than the whole cache may be."""
        try:
            with self._own.hold() as held:
                file = open_regular(self.folder / name, os.O_RDONLY, own=True, root=held)
        except OSError:
            return None
        if os.fstat(file.fileno()).st_size > self.size:
            file.close()
            return None
        if os.utime in os.supports_fd:
            with suppress(OSError):
                os.utime(file.fileno())
        return file

    def write_entry(self, name: str, size: int, write: Callable[[IO[bytes]], None]) -> None:
        """Write an entry of `size` bytes, and remove others where there is no room. Raises OSError."""
        if size > self.size:
            most = f"{gigabytes(size)}, more than the {gigabytes(self.size)} of `cache_size`"
            raise OSError(errno.EFBIG, most)
        with self._own.lock() as held:
            self._make_room(held, size, name)
            if shutil.disk_usage(self.folder).free < size + DISK_MARGIN:
                raise OSError(errno.ENOSPC, "the disk is nearly full", str(self.folder))
            path = self.folder / name
            with atomic_file(path, root=held, mode=0o600, sync=False) as file:
                write(file)

    def remove_entry(self, name: str) -> None:
        """Remove an entry that is not what it should be, if that is possible."""
        with suppress(OSError), self._own.hold() as held:
            remove_file(self.folder / name, root=held)

    def entries(self) -> list[CacheEntry]:
        """What is kept, the most recently used first; `video` is empty for what cannot be read."""
        found = []
        with suppress(OSError):
            if self.folder.is_dir():
                with self._own.hold() as held:
                    found = [self._described(held, entry) for entry in self._entries(held)]
        return found[::-1]

    def clear(self) -> list[CacheEntry]:
        """Remove everything; returns what was kept. Raises OSError."""
        if not self.folder.is_dir():
            return []
        with self._own.lock() as held:
            removed = self._entries(held)
            for name in held.names():
                is_ours = _ENTRY.fullmatch(name) or _RECORD.fullmatch(name)
                if is_ours and not stat.S_ISDIR(held.stat(name).st_mode):
                    remove_file(self.folder / name, root=held)
            remove_scratch(self.folder, root=held)
        return removed

    def _look(self, path: str) -> FileContent | None:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        known = self._known(file_state(status), status.st_size)
        content = FileContent(path, status, known=known, on_found=self._record)
        content.start()
        return content

    def _names(self) -> list[str]:
        with suppress(OSError):
            if self.folder.is_dir():
                with self._own.hold() as held:
                    return held.names()
        return []

    def _entries(self, held: HeldFolder) -> list[CacheEntry]:
        """The least recently used first."""
        found = []
        for name in filter(_ENTRY.fullmatch, held.names()):
            with suppress(OSError):
                status = held.stat(name)
                if not stat.S_ISDIR(status.st_mode):
                    found.append(CacheEntry(name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.name))

    def _described(self, held: HeldFolder, entry: CacheEntry) -> CacheEntry:
        try:
            path = self.folder / entry.name
            with open_regular(path, os.O_RDONLY, own=True, root=held) as file:
                description = read_description(read_header(file))
            video, frames = str(description["video"]), len(description["frames"])
        except (OSError, ValueError, KeyError, TypeError):
            return entry
        return CacheEntry(entry.name, entry.size, entry.used, video, frames)

    def _make_room(self, held: HeldFolder, size: int, name: str) -> None:
        remove_scratch(self.folder, root=held)
        entries = [entry for entry in self._entries(held) if entry.name != name]
        total = sum(entry.size for entry in entries)
        while entries and total + size > self.size:
            oldest = entries.pop(0)
            remove_file(self.folder / oldest.name, root=held)
            total -= oldest.size
        contents = {entry.name.partition("-")[0] for entry in entries}
        old = time.time() - _RECORD_SECONDS
        for record in filter(None, map(_RECORD.fullmatch, held.names())):
            if record[2] not in contents and held.stat(record[0]).st_mtime < old:
                remove_file(self.folder / record[0], root=held)

    def _known(self, state: str | None, size: int) -> str | None:
        """The hash of a file in this state, where there is a record of it that is ours."""
        for record in filter(None, map(_RECORD.fullmatch, self._names())):
            length, _, found = record[2].partition(".")
            if record[1] == state and length == f"{size:x}" and self._is_own(record[0]):
                return found
        return None

    def _is_own(self, name: str) -> bool:
        with (
            suppress(OSError),
            self._own.hold() as held,
            open_regular(self.folder / name, os.O_RDONLY, own=True, root=held),
        ):
            return True
        return False

    def _record(self, content: FileContent) -> None:
        name = f"{content.state}-{_content_name(content)}.known"
        with (
            suppress(OSError),
            self._own.hold() as held,
            open_regular(
                self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, own=True, root=held
            ),
        ):
            pass


def read_header(file: IO[bytes]) -> dict[str, Any]:
    """The header of a safetensors file from its start on. Raises ValueError, OSError."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size):
        raise ValueError("header longer than the file")
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("not a header")
    return header


def read_description(header: dict[str, Any]) -> dict[str, Any]:
    """What an entry's header says of it. Raises ValueError, KeyError, TypeError."""
    description = parse_json(header["__metadata__"]["entry"])
    if not isinstance(description, dict):
        raise ValueError("not a description")
    return description


def _content_name(content: FileContent) -> str:
    return f"{content.size:x}.{content.hash}"
