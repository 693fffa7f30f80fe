"""What transformers users give as a video or an image, made one thing: frames with their times.

Files are read by `crosslmm.video`, so a path gives the frames that `crosslmm.sample` gives. Nothing is
ever fetched from the network.
"""

import os
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image

from crosslmm.limits import MAX_GIVEN_BYTES
from crosslmm.options import Sampling
from crosslmm.video import Frames, sample

NOT_A_VIDEO = "a video is images, or arrays (H, W, 3) of uint8, one per frame"
_PATH_BYTES = 2**19  # what a path in place of a frame counts as: about a frame of 384 x 384


@dataclass(frozen=True)
class ClipInput:
    """The frames of one video, each an image or an array (H, W, 3) of uint8.

    times, of each frame, and duration are in seconds, None where nobody knows them; kind is that of the
    placeholder that it belongs to, `video` or `image`.
    """

    frames: Sequence[np.ndarray | Image.Image]
    times: tuple[float, ...] | None = None
    duration: float | None = None
    kind: str = "video"


def read_clip(
    source: Any,
    kind: str,
    sampling: Sampling,
    *,
    default_frames: int,
    size: tuple[int, int] | None,
    resample: int,
) -> ClipInput:
    """A `video`: a path, `crosslmm.Frames`, an array or tensor (T, H, W, 3) or (T, 3, H, W) of uint8,
    or the images, their paths or the arrays of its frames. An `image` makes a video of one frame.

    sampling: of a file; of frames that are given, `frames` evenly spaced ones are kept.
    default_frames: of a file when no number is given. Raises ValueError, and `VideoError` for a file
    that cannot be read.
    """
    if isinstance(source, ClipInput):
        return replace(source, kind=kind)
    if isinstance(source, str | os.PathLike):
        sampling = Sampling(frames=1) if kind == "image" else sampling.or_frames(default_frames)
        source = sample(_local_path(source), sampling, size=size, resample=resample)
    elif kind == "image":
        return ClipInput([_frame(source)], kind=kind)
    elif sampling.fps is not None:
        raise ValueError("fps needs a video file: the frames given do not come with a rate")
    if isinstance(source, Frames):
        clip = ClipInput(list(source.pixels), source.times, source.source.duration, kind)
    else:
        if not isinstance(source, Iterable) or isinstance(source, Image.Image):
            raise ValueError(NOT_A_VIDEO)
        image = partial(sample, sampling=Sampling(frames=1), size=size, resample=resample)
        clip = ClipInput(
            [
                image(_local_path(frame)).pixels[0]
                if isinstance(frame, str | os.PathLike)
                else _frame(frame)
                for frame in _collect(source)
            ]
        )
    if not clip.frames:
        raise ValueError("a video of no frames was given")
    return _thinned(clip, sampling.most_frames)


def visual_part(part: dict[str, Any]) -> tuple[str | None, Any]:
    """`video` or `image` and what is given for it, of a part of a message; None for other parts."""
    kind = part.get("type")
    if kind == "image_url":
        address = part["image_url"]
        return "image", address["url"] if isinstance(address, dict) else address
    if kind not in ("video", "image"):
        return None, None
    if "base64" in part:
        raise ValueError("images in base64 are not read: give a path or a PIL image")
    return kind, next((part[key] for key in (kind, "url", "path") if key in part), None)


def split_batch(visuals: Any, places: Sequence[int], kind: str, token: str) -> list[list[Any]]:
    """The videos or images of each prompt, as many as it has placeholders `token`.

    visuals: a single one; a list, dealt to the prompts in order, as many as each has `places` for; or
    a list of lists, one for each prompt. Raises ValueError where the numbers differ.
    """
    if visuals is None:
        return [[] for _ in places]
    if getattr(visuals, "ndim", 0) == 5:
        visuals = list(visuals)
    if is_single(visuals, kind) and not _is_list_of_arrays(visuals):
        visuals = [visuals]
    visuals = [
        visual if is_single(visual, kind) or not isinstance(visual, Iterable) else _collect(visual)
        for visual in _collect(visuals)
    ]
    if visuals and all(isinstance(each, list) and not is_single(each, kind) for each in visuals):
        rows = visuals
    else:
        rest = iter(visuals)
        rows = [list(islice(rest, count)) for count in places]
        rows[-1] += rest
    if [len(row) for row in rows] != list(places):
        raise ValueError(
            f"the {token} tokens in the prompts should be the same as the number of {kind}s, exactly "
            f"one of each: {sum(places)} tokens in {len(places)} prompts, {sum(map(len, rows))} "
            f"{kind}s for {len(rows)}"
        )
    return rows


def _collect(visuals: Iterable[Any]) -> list[Any]:
    """The frames of a video, or several videos. Raises ValueError for an iterator, which may have no
    end, of more than `MAX_GIVEN_BYTES`."""
    if isinstance(visuals, Sized):
        return list(visuals)
    kept, size = [], 0
    for visual in visuals:
        size += _bytes_of(visual)
        if size > MAX_GIVEN_BYTES:
            raise ValueError(
                f"an iterator gave over {MAX_GIVEN_BYTES / 2**30:g} GiB of frames, the most that is "
                "taken; give a list of those that are wanted"
            )
        kept.append(visual)
    return kept


def _bytes_of(visual: Any) -> int:
    if isinstance(visual, Image.Image):
        return visual.width * visual.height * len(visual.getbands())
    least = _PATH_BYTES if isinstance(visual, str | os.PathLike) else 1024
    return max(least, int(getattr(visual, "nbytes", 0)))


def _is_list_of_arrays(visual: Any) -> bool:
    return isinstance(visual, list | tuple) and not isinstance(visual[0], Image.Image)


def is_single(visual: Any, kind: str) -> bool:
    """Whether this is one video (or image), not several."""
    if isinstance(visual, str | os.PathLike | ClipInput):
        return True
    if kind == "image":
        return isinstance(visual, Image.Image) or getattr(visual, "ndim", 0) == 3
    if isinstance(visual, Frames | np.ndarray | torch.Tensor):
        return True
    return (
        isinstance(visual, list | tuple)
        and len(visual) > 0
        and (isinstance(visual[0], Image.Image) or getattr(visual[0], "ndim", 0) == 3)
    )


def _local_path(name: str | os.PathLike[str]) -> str:
    path = os.fspath(name)
    scheme = urlsplit(path).scheme if "://" in path or path[:5] in ("file:", "data:") else ""
    if scheme == "file":
        return url2pathname(urlsplit(path).path)
    if scheme:
        raise ValueError(
            f"{path[:80]}: only local files are read, and file: addresses; download it first"
        )
    return path


def _frame(frame: Any) -> np.ndarray | Image.Image:
    if isinstance(frame, Image.Image):
        return frame
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().cpu().numpy()
    shape: tuple[int, ...] = getattr(frame, "shape", ())
    if (
        len(shape) != 3
        or getattr(frame, "dtype", None) != np.uint8
        or 3 not in (shape[0], shape[2])
    ):
        raise ValueError(NOT_A_VIDEO)
    array: np.ndarray = frame if shape[2] == 3 else np.ascontiguousarray(frame.transpose(1, 2, 0))
    return array


def _thinned(clip: ClipInput, most: int | None) -> ClipInput:
    count = len(clip.frames)
    if most is None or count <= most:
        return clip
    kept = [int((slot + 0.5) * count / most) for slot in range(most)]
    return replace(
        clip,
        frames=[clip.frames[index] for index in kept],
        times=clip.times and tuple(clip.times[index] for index in kept),
    )
