"""What is asked for, in types that every room shares. Imports neither torch nor a decoder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

from crosslmm.errors import UsageError
from crosslmm.limits import DEADLINE, FILE_TIMEOUT, MAX_PIXELS, MAX_VIDEOS

Seek = Literal["exact", "keyframe", "auto"]
Sampler = Literal["uniform", "scene", "diverse", "codec"]
ReaderName = Literal["auto", "pyav", "decord", "torchcodec"]
Quantization = Literal["auto", "4bit", "8bit", "none"]
ResolvedQuantization = Literal["4bit", "8bit", "none"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
V2VScope = Literal["video", "past", "frame", "member"]
ProjectorOrder = Literal["merge_first", "project_first"]
T2VCache = Literal["projected", "features"]
CrossKV = Literal["per_layer", "shared"]
FEATURE_BITS = (8,)  # of features that are kept in fewer bits than they are computed in

# What the merged tokens read with each of the scopes, for readers.
SCOPES: dict[V2VScope, str] = {
    "video": "the whole video",
    "past": "the video up to their own frame",
    "frame": "their own frame",
    "member": "the patches they stand for",
}

_FRAME_INDEX = re.compile(r"#[0-9]{1,18}")


# Tokens of an answer, at most, where nobody gives a number; captions have their own.
MAX_NEW_TOKENS = 512
# Each is looked for in every piece of an answer.
MAX_STOP_TEXTS = 64
MAX_STOP_CHARACTERS = 1_000
# Logits divided by less may leave the range of float32.
_LOWEST_TEMPERATURE = 0.0001


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments."""

    frames: int | None
    fps: float | None
    max_frames: int | None
    start: float | None
    end: float | None
    at: "Sequence[float | str] | None"
    sampler: Sampler
    static_threshold: float
    seek: Seek
    reader: ReaderName
    deadline: float
    file_timeout: float
    max_pixels: int


class GenerationKeywords(TypedDict, total=False):
    """How an answer is generated, as keyword arguments; `GenerationOptions` says what they mean."""

    max_new_tokens: int
    temperature: float
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str]
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a video are wanted, and how they are read.

    - `frames`: how many, at the middles of that many equal slices of time; or `fps`, per second of
      video. `max_frames` caps both. Neither means `DEFAULT_FRAMES`, or what a model was trained with.
      A clip with fewer frames gives each of them once.
    - `start`, `end`: seconds from the first shown frame.
    - `at`: these frames and no others, in order of time, whatever the order here: seconds, for the
      frame shown then, or `"#120"`, for the frame of that index. They are exact; `max_frames` thins
      them evenly.
    - `sampler`: `uniform`, or as many frames chosen by what they show, for which the video is read
      twice: `scene`, some of each shot; `diverse`, half of them those least like the others. `codec`
      takes from each slice the exact frame that took most bytes, and nothing is read twice.
    - `static_threshold`: a frame is taken for the last one that differed from those before it where no
      block of 16 by 16 pixels differs from it by more than this, 0 to 255, on average in any colour.
    - `seek`: `exact` frames; `keyframe`, the keyframes nearest to them, much faster; `auto` takes a
      keyframe when one lies within a quarter of the sampling interval. Times are always real.
    - `reader`: `auto` is PyAV, and the next one where it hangs or fails.
    - `deadline`: seconds that reading may go without a packet read or a frame decoded, with all
      readers together; `file_timeout`: seconds that it may take in all, waiting for the model left out.
    - `max_pixels`: a file whose frames have more, shown with square pixels, is refused.

    Raises `UsageError` for values that mean nothing.
    """

    frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    at: Sequence[float | str] | None = None
    sampler: Sampler = "uniform"
    static_threshold: float = 0.0
    seek: Seek = "auto"
    reader: ReaderName = "auto"
    deadline: float = DEADLINE
    file_timeout: float = FILE_TIMEOUT
    max_pixels: int = MAX_PIXELS

    @property
    def limits(self) -> "Sampling":
        """How it is read, without which frames."""
        return Sampling(
            reader=self.reader,
            deadline=self.deadline,
            file_timeout=self.file_timeout,
            max_pixels=self.max_pixels,
        )

    def naming(self, at: "Sequence[float | str] | None") -> "Sampling":
        """Read as this, but exactly these frames, in place of those that it would choose."""
        return replace(
            self, frames=None, fps=None, max_frames=None, start=None, end=None,
            sampler="uniform", seek="exact", at=at,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.frames is not None and self.fps is not None:
            raise UsageError("`frames` and `fps` exclude each other: give one of them")
        for name in ("frames", "max_frames", "max_pixels"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"`{name}` must be a whole number of at least 1, not {value!r}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UsageError(f"`fps` must be a number above 0, not {self.fps!r}")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"`{name}` must be a time in seconds of at least 0, not {value!r}")
        if self.end is not None and (self.start or 0) >= self.end:
            raise UsageError(
                f"`start` ({self.start or 0:g} s) must be before `end` ({self.end:g} s)"
            )
        if self.at is not None:
            self._check_at(self.at)
        if self.sampler == "codec" and self.seek == "keyframe":
            raise UsageError("`sampler` codec takes exact frames: `seek` must not be keyframe")
        if self.max_pixels is None:
            raise UsageError("`max_pixels` must be a whole number of at least 1, not None")
        for name in ("deadline", "file_timeout"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"`{name}` must be a number of seconds above 0, not {value!r}")
        threshold = self.static_threshold
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 255:
            raise UsageError(
                f"`static_threshold` must be a number from 0 to 255, not {self.static_threshold!r}"
            )
        _check_choice("sampler", self.sampler, get_args(Sampler))
        _check_choice("seek", self.seek, get_args(Seek))
        _check_choice("reader", self.reader, get_args(ReaderName))

    def _check_at(self, at: Sequence[float | str]) -> None:
        object.__setattr__(self, "at", tuple(at))  # a list is not hashable, and JSON knows no tuple
        for name in ("frames", "fps", "start", "end"):
            if getattr(self, name) is not None:
                raise UsageError(f"`at` and `{name}` exclude each other: give one of them")
        if self.sampler != "uniform":
            raise UsageError("`at` and `sampler` exclude each other: give one of them")
        if self.seek == "keyframe":
            raise UsageError("`at` takes exact frames: `seek` must not be keyframe")
        if not at:
            raise UsageError("`at` names no frame")
        for each in at:
            if isinstance(each, str):
                good = bool(_FRAME_INDEX.fullmatch(each))
            else:
                good = not isinstance(each, bool) and 0 <= each < float("inf")
            if not good:
                raise UsageError(
                    f"`at`: {each!r} is neither a time in seconds of at least 0 nor an index such as "
                    "'#120'"
                )

    @classmethod
    def of(cls, sampling: "Sampling | None", options: Mapping[str, Any]) -> "Sampling":
        """A whole one, or one from keyword arguments; UsageError for both, and for unknown names."""
        if sampling is not None and options:
            raise UsageError(
                f"`sampling` and `{next(iter(options))}` exclude each other: give one of them"
            )
        if unknown := sorted(set(options) - {field.name for field in fields(cls)}):
            raise TypeError(f"{unknown[0]!r} is not an option of sampling")
        return sampling or cls(**options)

    def or_frames(self, count: int) -> "Sampling":
        """The same, with `count` frames where it says neither how many nor which."""
        unsaid = self.frames is None and self.fps is None and self.at is None
        return replace(self, frames=count) if unsaid else self

    def shares(self, videos: int) -> list["Sampling"]:
        """That of each of several videos, which share `frames` and `max_frames` evenly.

        Raises UsageError where one would have none, and for frames that are named."""
        if videos == 1:
            return [self]
        if videos > MAX_VIDEOS:
            raise UsageError(
                f"{videos} videos are more than the {MAX_VIDEOS} that one question takes"
            )
        if self.at is not None:
            raise UsageError("`at` names frames of one video, and the question is about several")
        for name in ("frames", "max_frames"):
            if (count := getattr(self, name) or videos) < videos:
                raise UsageError(
                    f"`{name}` is for all videos together: {count} are too few for {videos} videos"
                )
        frames = [None] * videos if self.frames is None else share(self.frames, videos)
        most = [None] * videos if self.max_frames is None else share(self.max_frames, videos)
        return [
            replace(self, frames=each, max_frames=limit)
            for each, limit in zip(frames, most, strict=True)
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """What the choice of frames depends on, ready for JSON."""
        names = ("frames", "fps", "max_frames", "start", "end", "seek")
        chosen = {name: getattr(self, name) for name in names}
        if self.sampler != "uniform":
            chosen["sampler"] = self.sampler
        if self.static_threshold:
            chosen["static_threshold"] = self.static_threshold
        return chosen if self.at is None else chosen | {"at": list(self.at)}

    @property
    def most_frames(self) -> int | None:
        """The most frames that may come, None where that depends on the video."""
        named = None if self.at is None else len(set(self.at))
        counts = [count for count in (self.frames, self.max_frames, named) if count is not None]
        return min(counts, default=None)


def share(count: int, parts: int) -> list[int]:
    """As evenly as it goes, the first ones one more where it does not divide."""
    return [count // parts + (number < count % parts) for number in range(parts)]


def check_zoom(sampling: Sampling) -> None:
    """Raise `UsageError` where a skim and a second look cannot choose the frames themselves."""
    allowed = {"fps": (None,), "at": (None,), "sampler": ("uniform", "codec")}
    for name, values in allowed.items():
        if getattr(sampling, name) not in values:
            raise UsageError(
                f"`{name}` and `zoom` exclude each other: looking again chooses the frames, within the "
                "tokens of so many `frames`"
            )


def check_generation(
    max_new_tokens: int,
    temperature: float,
    seed: int | None,
    top_p: float | None = None,
    stop: Sequence[str] = (),
) -> None:
    """Raise `UsageError` for options of an answer that mean nothing."""
    if not _is_whole(max_new_tokens) or max_new_tokens >= 2**63:
        raise UsageError(f"`max_new_tokens` must be a whole number, not {max_new_tokens!r}")
    if max_new_tokens < 1:
        raise UsageError(f"`max_new_tokens` must be at least 1, not {max_new_tokens}")
    if not isinstance(temperature, int | float) or not 0 <= temperature < float("inf"):
        raise UsageError(f"`temperature` must be at least 0, not {temperature!r}")
    if 0 < temperature < _LOWEST_TEMPERATURE:
        raise UsageError(
            f"`temperature` must be 0 or at least {_LOWEST_TEMPERATURE}, not {temperature!r}"
        )
    if top_p is not None:
        if not isinstance(top_p, int | float) or not 0 < top_p <= 1:
            raise UsageError(f"`top_p` must be a number above 0 and at most 1, not {top_p!r}")
        if temperature == 0:
            raise UsageError("`top_p` is for sampling: give a `temperature` above 0")
    if not all(isinstance(text, str) and text for text in stop):
        raise UsageError("`stop` takes texts that are not empty")
    if len(stop) > MAX_STOP_TEXTS or max(map(len, stop), default=0) > MAX_STOP_CHARACTERS:
        raise UsageError(
            f"`stop` takes at most {MAX_STOP_TEXTS} texts of {MAX_STOP_CHARACTERS:,} characters"
        )
    if seed is not None and not (_is_whole(seed) and -(2**63) <= seed < 2**64):
        raise UsageError(f"`seed` must be a whole number of 64 bits, not {seed!r}")


def check_feature_bits(bits: int | None) -> int | None:
    """`bits` itself where features can be kept in so many, None where that is not asked for; raises
    `UsageError`."""
    if bits is not None and (not _is_whole(bits) or bits not in FEATURE_BITS):
        raise UsageError(f"`feature_bits` must be {FEATURE_BITS[0]}, or not be given, not {bits!r}")
    return bits


def features_setting(bits: int | None) -> dict[str, str]:
    """What the settings say of features that are kept in so many bits; nothing where they are not."""
    return {} if bits is None else {"features": f"{bits}bit"}


def check_device(name: str) -> str:
    """`name` itself where it names a kind of device that crosslmm runs on; `UsageError` otherwise.
    Whether this machine has it, `resolve_device` finds out."""
    if not re.fullmatch(r"auto|(cpu|mps|cuda)(:\d+)?", name):
        raise UsageError(f"{name}: not a device; try cuda, cuda:1, mps or cpu")
    return name


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"`{name}` must be one of {', '.join(choices)}, not {value!r}")
