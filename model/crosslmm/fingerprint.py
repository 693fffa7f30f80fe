"""Hashes that identify files, settings and checkpoints.

A file is identified by its size and a hash of its content, so that moving or touching it changes
nothing; so neither its name nor its times or inode belong to the identity. Of a large file only blocks
spread over it are hashed, its two ends among them: a data set of 10 TB takes a night to read. Whoever
encodes, cuts or remuxes a video again changes its size or its ends, and whoever trains a model changes
weights everywhere. Bytes that are changed in place between the blocks are not noticed. Somebody can make
two files of one identity on purpose; all that it earns is that one gets the caption of the other.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from crosslmm.files import open_readable

_FULLY_HASHED = 1 << 20  # bytes; larger files are hashed in part
_BLOCKS, _BLOCK = 32, 1 << 14


def content_identity(path: str | os.PathLike[str]) -> str | None:
    """Size and hash of a file's content; None where it is not a regular file or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open_readable(Path(path)) as file:
            return open_content_identity(file)
    except (OSError, ValueError):
        return None


def open_content_identity(file: IO[bytes]) -> str:
    """The same of an open regular file, whose position changes. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    file.seek(0)
    if size <= _FULLY_HASHED:
        digest.update(file.read(size))
    else:
        for block in range(_BLOCKS):
            file.seek((size - _BLOCK) * block // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def complete_hash(file: IO[bytes]) -> str:
    """Of every byte of an open file, read from its start. Raises OSError."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()[:32]  # type: ignore[arg-type]


def file_state(status: os.stat_result) -> str | None:
    """Identifies a file as it lies on the disk: whoever writes to it, or puts another one in its place,
    changes this, whatever dates it is given. None where the system does not say when it changed."""
    if os.name == "nt":  # where `st_ctime` is when it was made
        return None
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def settings_hash(settings: Mapping[str, Any], *, digest_size: int = 8) -> str:
    """The same for the same settings, on every machine."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=digest_size).hexdigest()


def checkpoint_fingerprint(folder: Path, adapter: Path | None = None) -> str:
    """Of the files of a checkpoint, and of an adapter to it, that decide what it answers."""
    digest = hashlib.blake2b(digest_size=8)
    paths = sorted(folder.iterdir()) + (sorted(adapter.iterdir()) if adapter else [])
    for path in paths:
        if path.suffix in (".json", ".safetensors", ".jinja", ".txt", ".model"):
            digest.update(f"{path.name} {content_identity(path)} ".encode())
    return digest.hexdigest()


def checkpoint_state(folder: Path, adapter: Path | None = None) -> str:
    """The same as they lie on this disk: a byte that is changed anywhere in them changes this, too."""
    digest = hashlib.blake2b(checkpoint_fingerprint(folder, adapter).encode(), digest_size=16)
    for path in sorted(folder.iterdir()) + (sorted(adapter.iterdir()) if adapter else []):
        if path.suffix == ".safetensors":
            digest.update(f"{path.name} {file_state(path.stat())} ".encode())
    return digest.hexdigest()


def weights_fingerprint(tensors: Mapping[str, Any]) -> str:
    """Of weights in memory (torch tensors by name): their shapes, and values spread over each."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().flatten()
        spread = flat[:: max(1, flat.numel() // 64)].double().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + spread.tobytes())
    return digest.hexdigest()
