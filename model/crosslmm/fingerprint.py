"""What makes a caption out of date: another file, or other settings.

A file is known by its size and a hash of its content, so moving or touching it changes nothing. Of a
large one only blocks spread over it are hashed, since reading all of a data set costs hours.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant

_WHOLE = 1 << 20  # files up to this many bytes are hashed whole
_BLOCKS, _BLOCK = 32, 1 << 14


def content_identity(path: str | os.PathLike[str]) -> str | None:
    """Size and hash of a file's content; None where it is no regular file or cannot be read."""
    try:
        size = os.stat(path).st_size
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        with open(path, "rb", buffering=0) as file:
            if size <= _WHOLE:
                digest.update(file.readall())
            else:
                for block in range(_BLOCKS):
                    file.seek((size - _BLOCK) * block // (_BLOCKS - 1))
                    digest.update(file.read(_BLOCK))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The same for the same settings, on every machine."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def model_fingerprint(assistant: "Assistant") -> str:
    """Of the checkpoint on disk where there is one, else of the weights in memory."""
    if assistant.folder is not None:
        return folder_fingerprint(assistant.folder)
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(assistant.model.state_dict().items()):
        flat = tensor.detach().flatten()
        spread = flat[:: max(1, flat.numel() // 64)].double().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + spread.tobytes())
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Of the files of a checkpoint that decide what it answers."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja", ".txt", ".model"):
            digest.update(f"{path.name} {content_identity(path)} ".encode())
    return digest.hexdigest()
