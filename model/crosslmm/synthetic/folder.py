"""A folder of synthetic clips: their files, `clips.json` with what they depend on, `questions.jsonl`.

Clips that are there are kept, so an interrupted run goes on; what others wrote is never replaced.
"""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from crosslmm.errors import UsageError
from crosslmm.files import atomic_write, open_regular, parse_json
from crosslmm.video.writing import write_frames

QUESTIONS_FILE = "questions.jsonl"
SETTINGS_FILE = "clips.json"


def begin_folder(
    folder: Path, settings: dict[str, Any], *, seed: int, clips: int, questions_per_clip: int
) -> None:
    """Make the folder, with the settings of its clips. `size`, `fps` and `codec` are among these.

    Raises UsageError where they cannot be written, and where the folder holds clips of other settings,
    or other or more questions.
    """
    size, fps, codec = settings["size"], settings["fps"], settings["codec"]
    _check_form(size=size, fps=fps)
    _check_settings(folder / SETTINGS_FILE, settings)
    _check_questions(folder / QUESTIONS_FILE, seed, clips, questions_per_clip)
    _check_codec(codec, size=size, fps=fps)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / SETTINGS_FILE, f"{json.dumps(settings)}\n".encode())


def write_questions(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The file of the folder's questions. An `id` is the seed, the clip's number and the question's."""
    path = folder / QUESTIONS_FILE
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    atomic_write(path, "".join(lines).encode())
    return path


def _check_form(*, size: Sequence[int], fps: float) -> None:
    if min(size) < 64 or max(size) > 4096 or size[0] % 2 or size[1] % 2:
        raise UsageError(f"size {size[0]}x{size[1]}: give even numbers from 64 to 4096")
    if not 4 <= fps <= 120:
        raise UsageError(f"{fps:g} frames per second: give 4 to 120")


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """The settings of the clips in a folder: a scene depends on its length, and so do its answers."""
    data = _read(path)
    if data is None:
        return
    try:
        kept = parse_json(data)
        changed = [name for name, value in settings.items() if kept.get(name) != value]
    except (ValueError, AttributeError):
        raise UsageError(f"{path}: not written by crosslmm; choose another folder") from None
    if changed:
        names = " and ".join(f"`{name}`" for name in changed)
        raise UsageError(
            f"{path.parent}: holds clips made with different values of {names} "
            f"(see {path.name}); choose another folder"
        )


def _read(path: Path) -> bytes | None:
    """What a file holds, None where there is none; UsageError for what is no regular file, such as a
    pipe, which would be waited for."""
    try:
        with open_regular(path, os.O_RDONLY) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another folder") from None


def _check_questions(path: Path, seed: int, clips: int, per_clip: int) -> None:
    """That the questions to be replaced are among those to be written."""
    data = _read(path)
    if data is None:
        return
    known = path.with_name(SETTINGS_FILE).exists()
    most = [0, 0]
    try:
        for line in data.decode().split("\n"):
            if not line:
                continue
            of, *indices = map(int, parse_json(line)["id"].split("-"))
            known &= of == seed
            most = [max(count, index + 1) for count, index in zip(most, indices, strict=True)]
    except (ValueError, LookupError, TypeError, AttributeError):
        known = False
    if not known:
        raise UsageError(
            f"{path}: holds other questions, of another seed or not written by crosslmm; "
            "choose another folder"
        )
    if most[0] > clips or most[1] > per_clip:
        raise UsageError(
            f"{path}: holds questions about {most[0]:,} clips, up to {most[1]} about each, and would "
            "lose some; ask for at least as many, or choose another folder"
        )


def _check_codec(codec: str, *, size: Sequence[int], fps: float) -> None:
    """That one frame can be encoded and put into an mp4."""
    try:
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        write_frames(io.BytesIO(), [frame], fps=fps, codec=codec)
    except (av.error.FFmpegError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"codec {codec}: no encoder here that writes {size[0]}x{size[1]} as mp4; "
            "give another, such as libx264"
        ) from error
