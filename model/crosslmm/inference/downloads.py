"""Videos from the network, where that is asked for: downloaded, and kept for the next time.

The name of a kept file says where it is from and which version of it this is, so that only what the
server still has is used. What cannot be kept lies in a temporary file.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeGuard
from urllib.parse import unquote, urlsplit

from crosslmm.checkpoints.cache import DISK_MARGIN
from crosslmm.errors import VideoError
from crosslmm.files import (
    HeldFolder,
    atomic_file,
    gigabytes,
    open_regular,
    remove_file,
    remove_scratch,
)
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.https import RemoteFile, WebPage, check_address, open_url
from crosslmm.inference.named_file import NamedFile
from crosslmm.inference.own_folder import OwnFolder
from crosslmm.inference.web_page import find_video
from crosslmm.options import Sampling

Report = Callable[[str, int, int], None]

_ADDRESS = re.compile(r"(?!file:)[a-zA-Z][a-zA-Z0-9+.-]*://", re.IGNORECASE)
_KEPT = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")


def is_address(video: object) -> TypeGuard[str]:
    """Whether this names something on a network, and no file here."""
    return isinstance(video, str) and bool(_ADDRESS.match(video)) and not os.path.lexists(video)


def label_of(url: str) -> str:
    """What a prompt about several videos calls the one at this address."""
    return os.path.basename(unquote(urlsplit(url).path))


@contextmanager
def download(
    url: str,
    sampling: Sampling,
    *,
    allow_network: bool,
    cache: FeatureCache | None = None,
    on_progress: Report | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Iterator[NamedFile]:
    """The file at an https address, or the video of a page: kept beside the features of `cache` where
    there is one, else until this ends. Raises VideoError, also where the network is not allowed."""
    check_address(url, url)
    if not allow_network:
        raise VideoError(f"{url}: this is a URL; `allow_network` downloads it")
    with ExitStack() as stack:
        try:
            remote = stack.enter_context(open_url(url, sampling))
        except WebPage:
            remote = stack.enter_context(open_url(url, sampling, find_video(url, sampling)))

        def report(copied: int) -> None:
            if on_progress:
                on_progress("download", copied, remote.size)

        report(0)
        path = None
        if cache is not None and remote.size:  # of what cannot be known to be small nothing is kept
            try:
                path = _keep(remote, cache, report)
            except OSError as error:
                if on_notice:
                    on_notice(f"{url}: could not be kept ({error.strerror or error})")
        stays = path is not None
        if path is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="crosslmm-"))
            path = Path(folder) / "video"
            with _writing(url), path.open("xb") as file:
                remote.copy(file, report)
        yield NamedFile(str(path), url, label_of(url), stays)


def downloaded(cache: FeatureCache) -> list[int]:
    """The sizes of what is kept."""
    own = _folder(cache)
    if not own.path.is_dir():
        return []
    with own.hold() as held:
        return [held.stat(name).st_size for name in filter(_KEPT.fullmatch, held.names())]


def clear_downloads(cache: FeatureCache) -> None:
    """Remove all that is kept. Raises OSError."""
    own = _folder(cache)
    if own.path.is_dir():
        with own.lock() as held:
            for name in filter(_KEPT.fullmatch, held.names()):
                remove_file(own.path / name, root=held)
            remove_scratch(own.path, root=held)


def _folder(cache: FeatureCache) -> OwnFolder:
    return OwnFolder(cache.folder.with_name("videos"))


def _keep(remote: RemoteFile, cache: FeatureCache, report: Callable[[int], None]) -> Path:
    """Where a video is kept, copied there unless it is. Raises OSError where it cannot be, before
    anything is read of it, and VideoError."""
    own = _folder(cache)
    of_url, of_version = _hash(remote.url), _hash(remote.version)
    path = own.path / f"{of_url}-{of_version}"
    with own.lock() as held:
        if remote.version:
            with suppress(OSError), open_regular(path, os.O_RDONLY, own=True, root=held) as file:
                if os.utime in os.supports_fd:
                    os.utime(file.fileno())
                return path
        _make_room(held, remote.size, cache.size, of_url)
        if shutil.disk_usage(own.path).free < remote.size + DISK_MARGIN:
            raise OSError(errno.ENOSPC, "the disk is nearly full", str(own.path))
        with _writing(remote.url), atomic_file(path, root=held, mode=0o600) as file:
            remote.copy(file, report)
    return path


def _make_room(held: HeldFolder, size: int, most: int, of_url: str) -> None:
    """Remove what was kept of this address, and of others, the least recently used first, until there is
    room for `size` bytes of `most`. Raises OSError."""
    if size > most:
        raise OSError(
            errno.EFBIG, f"{gigabytes(size)}, more than the {gigabytes(most)} of `cache_size`"
        )
    remove_scratch(held.path, root=held)
    kept = []
    for name in filter(_KEPT.fullmatch, held.names()):
        if name.startswith(of_url):
            remove_file(held.path / name, root=held)
        else:
            status = held.stat(name)
            kept.append((status.st_mtime, name, status.st_size))
    total = sum(length for _, _, length in kept)
    for _, name, length in sorted(kept):
        if total + size > most:
            remove_file(held.path / name, root=held)
            total -= length


@contextmanager
def _writing(url: str) -> Iterator[None]:
    """Turns an error of the disk into VideoError."""
    try:
        yield
    except OSError as error:
        raise VideoError(f"{url}: cannot be written to the disk ({error.strerror})") from None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
