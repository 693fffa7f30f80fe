"""Frames and files that are handed over in memory, made what a session reads as it reads a file."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import Image

from crosslmm.errors import UsageError, VideoError
from crosslmm.inference.named_file import NamedFile, copy_file
from crosslmm.options import Sampling
from crosslmm.prompts.inputs import read_clip
from crosslmm.video import Frame, Frames, SourceInfo
from crosslmm.video.frame_folder import (
    check_frame_folder,
    frame_files,
    is_frame_folder,
    read_frame,
)
from crosslmm.video.image import is_image_file
from crosslmm.video.moments import pick_frames

# A path, also of a folder of images, a binary file object, `Frames`, an array or tensor (T, H, W, 3) or
# (T, 3, H, W) of uint8, or images. Arrays and tensors are of libraries that need not be there to say so.
VideoLike: TypeAlias = str | os.PathLike[str] | IO[bytes] | Frames | Sequence[Any] | Any

_OF_FILES = (
    "sampler",
    "static_threshold",
    "seek",
    "reader",
    "deadline",
    "file_timeout",
    "max_pixels",
)


def are_several(video: Any) -> bool:
    """Whether this is a list of videos, not of the images of one: where something in it is none."""
    return isinstance(video, list | tuple) and any(map(_is_no_image, video))


def _is_no_image(item: Any) -> bool:
    if isinstance(item, str | os.PathLike):
        return not is_image_file(os.fsdecode(item))
    is_file = hasattr(item, "read") and not isinstance(item, Image.Image)
    return is_file or isinstance(item, Frames | list | tuple) or getattr(item, "ndim", 0) == 4


@dataclass(frozen=True, eq=False)
class GivenFrames:
    """Frames, or what `read` makes frames of, with their indices and times in seconds; iterate it as a
    `FrameStream`."""

    frames: Sequence[np.ndarray | Image.Image | str]
    indices: tuple[int, ...]
    times: tuple[float, ...]
    source: SourceInfo
    warnings: tuple[str, ...] = ()
    resize: Callable[[Any], np.ndarray] = np.asarray
    read: Callable[[Any], Any] = lambda frame: frame
    seconds = 0.0

    @classmethod
    def of(cls, video: Any, sampling: Sampling, times: Sequence[float] | None) -> "GivenFrames":
        """Raises UsageError for what are no frames, and where their times are not known."""
        for option in fields(Sampling):
            name = option.name
            if name in _OF_FILES and getattr(sampling, name) != option.default:
                raise UsageError(f"`{name}` is for files; these frames are decoded already")
        if isinstance(video, Frames):
            if times is not None or sampling.fps is not None:
                raise UsageError("`Frames` have their times: leave out `fps` and `times`")
            return cls(list(video.pixels), video.indices, video.times, video.source, video.warnings)
        is_image = isinstance(video, Image.Image) or getattr(video, "ndim", 0) == 3
        try:
            clip = read_clip(
                video,
                "image" if is_image else "video",
                Sampling(),
                default_frames=1,
                size=None,
                resample=int(Image.Resampling.BICUBIC),
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
        count = len(clip.frames)
        known = _times(count, sampling.fps, times)
        name = f"({count} frames)" if count > 1 else "(image)"
        source = _source(name, known, np.asarray(clip.frames[0]))
        return cls(clip.frames, tuple(range(count)), known, source)

    @classmethod
    def of_folder(
        cls, folder: str | os.PathLike[str], sampling: Sampling, times: Sequence[float] | None
    ) -> "GivenFrames":
        """The images in a folder, which are read one by one as they are needed. Raises UsageError,
        VideoError."""
        check_frame_folder(folder, sampling)
        files = frame_files(folder)
        known = _times(
            len(files), sampling.fps, times, f"{os.fsdecode(folder)}: a folder of frames has"
        )
        read = partial(read_frame, sampling=sampling)
        source = _source(os.fsdecode(folder), known, read(files[0]))
        return cls(files, tuple(range(len(files))), known, source, read=read)

    @property
    def count(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        for frame, index, time in zip(self.frames, self.indices, self.times, strict=True):
            yield Frame(self.resize(self.read(frame)), index, time)

    def chosen(self, sampling: Sampling, resize: Callable[[Any], np.ndarray]) -> "GivenFrames":
        """Those that `at` names by time or place, or those from `start` to `end`, evenly thinned to
        `frames` and `max_frames`."""
        if sampling.at is not None:
            kept, warnings = pick_frames(
                sampling.at,
                np.array(self.times),
                max(self.source.duration, self.times[-1]),
                path=self.source.path,
                most=sampling.max_frames,
            )
            return self._only(kept, resize, warnings)
        start, end = sampling.start or 0.0, sampling.end
        kept = [
            index
            for index, time in enumerate(self.times)
            if time >= start and (end is None or time < end)
        ]
        if not kept:
            raise VideoError(f"{self.source.path}: no frame lies between `start` and `end`")
        most = min(sampling.most_frames or len(kept), len(kept))
        kept = [kept[int((slot + 0.5) * len(kept) / most)] for slot in range(most)]
        return self._only(kept, resize)

    def _only(
        self, kept: Sequence[int], resize: Callable[[Any], np.ndarray], warnings: Sequence[str] = ()
    ) -> "GivenFrames":
        return replace(
            self,
            frames=[self.frames[index] for index in kept],
            indices=tuple(self.indices[index] for index in kept),
            times=tuple(self.times[index] for index in kept),
            resize=resize,
            warnings=(*self.warnings, *warnings),
        )


def _source(name: str, times: Sequence[float], first: np.ndarray) -> SourceInfo:
    """first: a frame, (H, W, 3)."""
    count = len(times)
    spacing = (times[-1] - times[0]) / (count - 1) if count > 1 else 0.0
    return SourceInfo(
        path=name,
        duration=times[-1] + spacing,
        fps=1 / spacing if spacing else 0.0,
        size=(first.shape[0], first.shape[1]),
        codec="none",
        container="frames",
        rotation=0,
        frame_count=count,
        reader="none",
    )


def _times(
    count: int,
    fps: float | None,
    times: Sequence[float] | None,
    what: str = "frames in memory have",
) -> tuple[float, ...]:
    if times is None:
        if fps is None and count > 1:
            raise UsageError(
                f"{what} no times: give `fps`, the rate of these frames, or `times`, "
                "the seconds of each"
            )
        return tuple(index / (fps or 1.0) for index in range(count))
    if fps is not None:
        raise UsageError("`fps` and `times` exclude each other: give one of them")
    known = tuple(float(time) for time in times)
    if len(known) != count:
        raise UsageError(f"`times` has {len(known)} times for {count} frames")
    if any(not 0 <= time < float("inf") for time in known) or any(
        later <= earlier for earlier, later in pairwise(known)
    ):
        raise UsageError("`times` must be seconds of at least 0, each later than the one before")
    return known


@contextmanager
def readable(
    video: Any, sampling: Sampling, times: Sequence[float] | None
) -> Iterator[tuple[str | os.PathLike[str] | GivenFrames, str]]:
    """What the encoder reads of it, and its name. A file object is copied to a temporary file, which
    is removed at the end: decoders need one that they can seek in and open again."""
    is_file = hasattr(video, "read") and not isinstance(video, os.PathLike)
    if not is_file and not isinstance(video, str | os.PathLike):
        given = GivenFrames.of(video, sampling, times)
        yield given, given.source.path
        return
    if not is_file and is_frame_folder(video):
        yield GivenFrames.of_folder(video, sampling, times), os.fsdecode(video)
        return
    if times is not None:
        raise UsageError("`times` are for frames in memory; a file has its own")
    if isinstance(video, NamedFile):
        try:
            yield video, video.name
        except VideoError as error:
            raise video.renamed(error) from error
        return
    if not is_file:
        yield video, os.fsdecode(video)
        return
    named = getattr(video, "name", None)
    name = named if isinstance(named, str) else "(file object)"
    with tempfile.TemporaryDirectory(prefix="crosslmm-") as folder:
        copy = NamedFile(str(Path(folder) / "video"), name)
        with open(copy, "wb") as file:
            copy_file(video, file, name, sampling)
        try:
            yield copy, name
        except VideoError as error:
            raise copy.renamed(error) from error
