"""Files and folders that are complete or absent, and never written through a link.

A folder may come from somebody else, with links under the names that we write. So files are opened
relative to the descriptor of their folder where the platform allows it, without following a link, and
new content goes into a scratch file of an unpredictable name that then replaces the old one.
"""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from crosslmm.errors import UsageError

_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_HAS_DIR_FD = {os.open, os.mkdir, os.unlink, os.stat, os.rename} <= os.supports_dir_fd
_SCRATCH = re.compile(r"\.crosslmm-[0-9a-f]{16}\.new")
_LINK = "a link, and links are not followed"
LONGEST_LINE = 64 << 20  # bytes of a line of JSON
_LONGEST_TEXT = 256 << 20  # bytes of a file that is read at once


class HeldFolder:
    """A folder that stays the same one while this block holds it, whatever takes its place by name.

    It is made where it is missing; with `named` False it may not be a link. Raises OSError. Without
    descriptors of folders it is a path.
    """

    def __init__(self, path: Path, *, named: bool = True) -> None:
        self.path, self.named = path, named
        self.descriptor: int | None = None

    def __enter__(self) -> "HeldFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        nofollow = 0 if self.named else _NOFOLLOW
        if not self.named and self.path.is_symlink():
            raise OSError(errno.ELOOP, _LINK, str(self.path))
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        if _HAS_DIR_FD:
            flags = os.O_RDONLY | os.O_DIRECTORY | _FLAGS | nofollow
            self.descriptor = os.open(self.path, flags)
        return self

    def __exit__(self, *error: object) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def names(self) -> list[str]:
        """What is in it, sorted. Raises OSError."""
        return sorted(os.listdir(self.path if self.descriptor is None else self.descriptor))

    def stat(self, name: str) -> os.stat_result:
        """Of a file in it, or of the link in its place. Raises OSError."""
        if self.descriptor is None:
            return os.stat(self.path / name, follow_symlinks=False)
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)


Root = Path | HeldFolder


def check_writable(path: Path) -> None:
    """Before hours of work: UsageError where their result could not be written to `path`."""
    folder = path.absolute().parent
    check_replaceable(path)
    if not folder.is_dir():
        raise UsageError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: its folder may not be written to")


def check_replaceable(path: Path) -> None:
    """UsageError where `path` is neither a regular file nor a new one."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: a folder; give a file's name in it")
    if stat.S_ISLNK(mode):
        raise UsageError(f"{path}: {_LINK}; give the file itself")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: not a regular file; give a file")


def check_empty(folder: Path) -> None:
    """UsageError where something is in the way of a new folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: already exists and is not empty; give another folder")


def atomic_write(path: Path, data: bytes, *, root: Root | None = None) -> None:
    """Write `data` to `path`; a kill on the way leaves what was there before. See `atomic_file`."""
    with atomic_file(path, root=root) as file:
        file.write(data)


@contextmanager
def atomic_file(
    path: Path, *, root: Root | None = None, mode: int = 0o666, sync: bool = True
) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` when the block ends well; a kill or an error on the
    way leaves what was there before.

    root: a folder above `path`, held or by its path; folders between the two are made where they are
    missing, and none of them may be a link. mode: permissions of the file, less the umask. sync: False
    for what is checked when it is read; after a crash of the machine it may be damaged. Raises OSError,
    also where a link stands at `path`.
    """
    with _folder(path, root) as (name, folder):
        scratch = f".crosslmm-{secrets.token_hex(8)}.new"
        at = _at(folder)
        both: Any = {} if folder is None else {"src_dir_fd": folder, "dst_dir_fd": folder}
        if folder is None:
            scratch = str(Path(name).with_name(scratch))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _FLAGS
        try:
            descriptor = os.open(scratch, flags, mode, **at)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            _refuse_link(path, name, at)
            os.replace(scratch, name, **both)
        except BaseException:
            with suppress(OSError):
                os.unlink(scratch, **at)
            raise
        if folder is not None and sync:
            os.fsync(folder)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well; a kill or an error on the way
    leaves what was there before.

    `path` may be an empty folder, or, with `replace`, any folder; folders above it are created.
    Raises OSError, also where a link or a file stands at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_folder_target(path, replace=replace)
    scratch = path.with_name(f".crosslmm-{secrets.token_hex(8)}.partial")
    scratch.mkdir()
    try:
        yield scratch
        sync_folder(scratch)
        _check_folder_target(path, replace=replace)
        old = _move_aside(path) if path.exists() else None
        os.rename(scratch, path)
        sync_entry(path.parent)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder and all that is in it to the disk, as before a rename. Raises OSError."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_entry(Path(parent, name))
        sync_entry(Path(parent))


def remove_folder(path: Path) -> None:
    """Remove a folder at once, or a link to one: an interrupted removal leaves none by its name that
    is incomplete. Raises OSError."""
    if path.is_symlink():
        path.unlink()
        return
    shutil.rmtree(_move_aside(path))


def open_regular(
    path: Path, mode: int, *, own: bool = False, single: bool = False, root: Root | None = None
) -> IO[bytes]:
    """Open a regular file, never through a link. Raises OSError.

    mode: as for `os.open`; single: only a file with no second name; own: the same, and only one of
    this process's user. Of `root` see `atomic_file`.
    """
    with _folder(path, root, make=False) as (name, folder):
        at = _at(folder)
        if not _NOFOLLOW:
            _refuse_link(path, name, at)
        try:
            # Without NONBLOCK a pipe would be waited for.
            flags = mode | _NOFOLLOW | _FLAGS | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(name, flags, 0o666, **at)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                error = OSError(errno.ELOOP, _LINK)
            raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if own and hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "belongs to another user", str(path))
        if (own or single) and status.st_nlink > 1:
            raise OSError(errno.EPERM, "has a second name elsewhere", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    kind = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(mode & (os.O_WRONLY | os.O_RDWR), "r+b")
    if mode & os.O_APPEND:
        kind = "a+b" if mode & os.O_RDWR else "ab"
    return os.fdopen(descriptor, kind, buffering=0 if mode & os.O_APPEND else -1)


def open_readable(path: Path) -> IO[bytes]:
    """Open a regular file to read it, through links too. Raises OSError, without waiting for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, longest: int = _LONGEST_TEXT) -> bytes:
    """The content of a regular file. Raises OSError, and ValueError with a reason."""
    with open_readable(path) as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise ValueError(f"longer than {longest:,} bytes")
    return data


def read_text(path: Path, *, longest: int = _LONGEST_TEXT) -> str:
    """UTF-8 text of at most `longest` bytes. Raises OSError, and ValueError with a reason."""
    try:
        return read_regular(path, longest=longest).decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def read_json(path: Path, *, longest: int = _LONGEST_TEXT) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError with a reason."""
    return parse_json(read_text(path, longest=longest))


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError, where JSON is nested too deeply as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_lines(file: IO[bytes], *, longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """The lines of an open file; one of more than `longest` bytes is cut, and is the last."""
    while line := file.readline(longest + 1):
        yield line
        if len(line) > longest:
            return


def exists(path: Path, *, root: Root) -> bool:
    """Whether there is something at `path`, a link counting as what it points to; False where its
    folder cannot be reached without a link."""
    with suppress(OSError), _folder(path, root, make=False) as (name, folder):
        os.stat(name, **_at(folder))
        return True
    return False


def is_same_file(file: IO[bytes], path: Path, *, root: Root | None = None) -> bool:
    """Whether the open `file` is what is at `path`, not through a link. Raises OSError."""
    with suppress(FileNotFoundError), _folder(path, root, make=False) as (name, folder):
        there = os.stat(name, follow_symlinks=False, **_at(folder))
        return os.path.samestat(os.fstat(file.fileno()), there)
    return False


def remove_file(path: Path, *, root: Root) -> None:
    """Remove a file or a link, if there is one; of `root` see `atomic_file`. Raises OSError."""
    missing = (FileNotFoundError, FileExistsError)  # the latter where its folder is a file
    with suppress(*missing), _folder(path, root, make=False) as (name, folder):
        os.unlink(name, **_at(folder))


def remove_scratch(folder: Path, *, root: Root | None = None) -> None:
    """Remove what killed writers left in `folder`; only while nobody else can be writing there."""
    with suppress(OSError), _folder(folder / "any", root, make=False) as (_, descriptor):
        for name in os.listdir(folder if descriptor is None else descriptor):
            if _SCRATCH.fullmatch(name):
                os.unlink(folder / name if descriptor is None else name, **_at(descriptor))


def gigabytes(size: float) -> str:
    """Bytes for a reader: 1.7 GB."""
    return f"{size / 1e9:,.1f} GB"


def _move_aside(folder: Path) -> Path:
    return folder.rename(folder.with_name(f".crosslmm-{secrets.token_hex(8)}.removed"))


def _check_folder_target(path: Path, *, replace: bool) -> None:
    if path.is_symlink():
        raise OSError(errno.ELOOP, _LINK, str(path))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if path.exists() and not replace and any(path.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))


def sync_entry(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk, where the platform can."""
    on_windows = os.name == "nt"
    if path.is_symlink() or (on_windows and path.is_dir()):
        return
    descriptor = os.open(path, (os.O_RDWR if on_windows else os.O_RDONLY) | _FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _at(folder: int | None) -> Any:
    return {} if folder is None else {"dir_fd": folder}


@contextmanager
def _folder(
    path: Path, root: Root | None, *, make: bool = True
) -> Iterator[tuple[str, int | None]]:
    """What to open `path` by: a name and the descriptor of its folder, or a path and None."""
    held = root.descriptor if isinstance(root, HeldFolder) else None
    root = root.path if isinstance(root, HeldFolder) else root or path.parent
    between = path.relative_to(root).parts[:-1]
    if ".." in between:
        raise OSError(errno.EINVAL, f"not below {root}", str(path))
    if not _HAS_DIR_FD:
        yield str(_plain_folder(root, between, make=make) / path.name), None
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | _FLAGS
    descriptor = os.open(root, flags) if held is None else os.dup(held)
    try:
        reached = root
        for part in between:
            reached /= part
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            try:
                inner = os.open(part, flags | _NOFOLLOW, dir_fd=descriptor)
            except OSError as error:
                raise _not_a_folder(reached, error) from None
            os.close(descriptor)
            descriptor = inner
        yield path.name, descriptor
    finally:
        os.close(descriptor)


def _plain_folder(root: Path, between: tuple[str, ...], *, make: bool) -> Path:
    """The folder, on a platform without descriptors of folders."""
    folder = root
    for part in between:
        folder /= part
        if folder.is_symlink():
            raise OSError(errno.ELOOP, _LINK, str(folder))
        if make:
            folder.mkdir(exist_ok=True)
    return folder


def _not_a_folder(path: Path, error: OSError) -> OSError:
    if path.is_symlink():
        return OSError(errno.ELOOP, _LINK, str(path))
    if error.errno == errno.ENOTDIR:
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return OSError(error.errno or 0, error.strerror, str(path))


def _refuse_link(path: Path, name: str, at: Any) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(name, follow_symlinks=False, **at).st_mode):
            raise OSError(errno.ELOOP, _LINK, str(path))
