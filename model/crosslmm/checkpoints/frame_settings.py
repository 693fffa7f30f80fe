"""How a checkpoint's frames are prepared, from its files: known before torch is imported, so that
decoding can start meanwhile."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.value_screening import check_frame_values
from crosslmm.errors import CheckpointError
from crosslmm.files import read_json
from crosslmm.limits import DEFAULT_FRAMES, MAX_FRAME_SIDE

_BICUBIC = 3  # where a checkpoint does not say it


@dataclass(frozen=True)
class FrameSettings:
    """`size` (height, width) in pixels; `resample`, PIL's filter; `default_frames` of a video when no
    number is given; `values`, all that the file says."""

    size: tuple[int, int]
    resample: int
    default_frames: int
    values: dict[str, Any]


def read_frame_settings(folder: Path) -> FrameSettings:
    """Raises CheckpointError where nothing in the folder says how frames are prepared."""
    values = _image_settings(folder)
    resample = values.get("resample", _BICUBIC)
    frames = catalog.read_config(folder).get("default_frames", DEFAULT_FRAMES)
    if type(resample) is not int or type(frames) is not int:
        raise CheckpointError(f"{folder}: its resample or default_frames is no whole number")
    check_frame_values(folder, values)
    return FrameSettings(
        size=_size(values["size"], folder), resample=resample, default_frames=frames, values=values
    )


def _image_settings(folder: Path) -> dict[str, Any]:
    """How the checkpoint prepares a video frame, from whichever of its files says so."""
    nested = read_settings(folder / "processor_config.json")
    candidates = [
        nested.get("video_processor"),
        read_settings(folder / "video_preprocessor_config.json"),
        nested.get("image_processor"),
        read_settings(folder / "preprocessor_config.json"),
    ]
    for settings in candidates:
        if isinstance(settings, dict) and {"size", "image_mean", "image_std"} <= settings.keys():
            return settings
    raise CheckpointError(
        f"{folder}: nothing says how frames are prepared; "
        "preprocessor_config.json or processor_config.json is missing"
    )


def _size(given: Any, folder: Path) -> tuple[int, int]:
    if isinstance(given, dict):
        side = given.get("shortest_edge")
        height, width = given.get("height", side), given.get("width", side)
        if type(height) is int and type(width) is int and min(height, width) > 0:
            if max(height, width) > MAX_FRAME_SIDE:
                raise CheckpointError(
                    f"{folder}: its frames are {width}x{height}; the limit is {MAX_FRAME_SIDE} a side"
                )
            return height, width
    raise CheckpointError(f"{folder}: the size of its frames is not given as height and width")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a JSON file, none where it is absent or holds something else."""
    settings = read_json(path) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}
