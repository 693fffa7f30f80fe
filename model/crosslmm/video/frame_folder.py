"""A folder of images that are the frames of a video, in the order of their names."""

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from crosslmm.errors import UsageError, VideoError
from crosslmm.limits import MAX_FOLDER_FRAMES
from crosslmm.options import Sampling
from crosslmm.video.image import is_image_file

if TYPE_CHECKING:
    import numpy as np

_OF_VIDEOS = ("sampler", "static_threshold", "seek", "reader")


def is_frame_folder(path: str | os.PathLike[str]) -> bool:
    return os.path.isdir(path)


def frame_files(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of its images, told by their first bytes: by name, numbers in it by their value, so that
    `9.png` comes before `10.png`. Hidden files are left out. Raises VideoError where there are none, or
    over `MAX_FOLDER_FRAMES`."""
    shown = os.fsdecode(folder)
    names = []
    try:
        with os.scandir(shown) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    names.append(entry.name)
                if len(names) > MAX_FOLDER_FRAMES:
                    raise VideoError(
                        f"{shown}: holds more than the {MAX_FOLDER_FRAMES:,} files of a folder of "
                        "frames that are read"
                    )
    except OSError as error:
        raise VideoError(f"{shown}: cannot be read ({error.strerror})") from None
    paths = [os.path.join(shown, name) for name in sorted(names, key=_by_numbers)]
    images = [path for path in paths if is_image_file(path)]
    if not images:
        raise VideoError(
            f"{shown}: this is a folder without images; give a video file in it, or a folder of frames"
        )
    return images


def read_frame(path: str, sampling: Sampling) -> "np.ndarray":
    """(H, W, 3) uint8 of one of the images, read within the limits of `sampling`. Raises VideoError."""
    from crosslmm.video import sample

    pixels: np.ndarray = sample(path, replace(sampling.limits, frames=1, reader="auto")).pixels[0]
    return pixels


def check_frame_folder(folder: str | os.PathLike[str], sampling: Sampling) -> None:
    """Raise UsageError for options that a folder of frames cannot have, before it is listed."""
    shown, usual = os.fsdecode(folder), Sampling()
    for name in _OF_VIDEOS:
        if getattr(sampling, name) != getattr(usual, name):
            raise UsageError(f"{shown}: `{name}` is for video files, not for a folder of frames")
    if sampling.frames is not None:
        raise UsageError(
            f"{shown}: a folder of frames needs `fps`, the rate at which they were taken, and "
            "`max_frames` in place of `frames`"
        )


def _by_numbers(name: str) -> list[str | int]:
    parts = re.split("([0-9]+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]
