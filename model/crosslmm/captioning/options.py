"""The options of captioning, and the placeholders of its prompt."""

import os
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from crosslmm.errors import UsageError
from crosslmm.merging import MERGERS, TokenBudget, choose_budget
from crosslmm.options import Sampling, check_generation

PROMPT = "Describe the video."
MAX_NEW_TOKENS = 256
MAX_FRAMES = 256

Format = Literal["jsonl", "txt", "srt", "vtt", "parquet", "webdataset"]
EngineName = Literal["local", "ray"]

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_FIELDS = ("filename", "start", "duration")


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """What a caption depends on besides the video and the model; a change means new captions.

    - prompt: `{filename}`, `{start}` and `{duration}` stand for the name of the file without folder
      and extension, and for the start and the length of the captioned part, in seconds.
    - segments: seconds of each captioned part; scenes: parts end at cuts; neither: the entire video.
    - sampling: of each part; `fps` gives at most MAX_FRAMES where `max_frames` is not given, since a
      part is held in memory.
    - merge, keep: the tokens of a part's frames are merged by a method of `MERGERS` to so many, a share
      of all ("10%") or a number.
    """

    prompt: str = PROMPT
    max_new_tokens: int = MAX_NEW_TOKENS
    segments: float | None = None
    scenes: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    merge: str | None = None
    keep: str | int | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError("the prompt is empty")
        for name in _PLACEHOLDER.findall(self.prompt):
            if name not in _FIELDS:
                known = ", ".join(f"{{{field}}}" for field in _FIELDS)
                raise UsageError(f"`prompt`: {{{name}}} is not one of its placeholders, {known}")
        if self.segments is not None and self.scenes:
            raise UsageError("`segments` and `scenes` exclude each other: give one of them")
        if self.segments is not None and not 0.1 <= self.segments < float("inf"):
            raise UsageError(f"`segments` must be in seconds, from 0.1 up, not {self.segments!r}")
        check_generation(self.max_new_tokens, temperature=0.0, seed=None)
        sampling = self.sampling
        if sampling.start is not None or sampling.end is not None:
            raise UsageError(
                "`start` and `end` are not for captioning, which takes complete videos"
            )
        if sampling.at is not None:
            raise UsageError("`at` is not for captioning: videos differ in what they show when")
        if sampling.sampler != "uniform":
            raise UsageError("`sampler` is not for captioning; `scenes` captions each scene")
        if sampling.fps is not None and sampling.max_frames is None:
            object.__setattr__(self, "sampling", replace(sampling, max_frames=MAX_FRAMES))

        if self.merge is not None and self.keep is None:
            raise UsageError("`merge` needs `keep`, such as 10%")
        budget = choose_budget(  # how many tokens there are of a frame, only the checkpoint knows
            TokenBudget(1),
            trained=1,
            patches=None,
            methods=MERGERS,
            merge=self.merge,
            keep=self.keep,
            error=UsageError,
        )
        object.__setattr__(self, "keep", budget.keep)

    def render(self, path: str, *, start: float, duration: float) -> str:
        """The prompt for one part of one video."""
        name = os.path.splitext(os.path.basename(path))[0]
        values = {"filename": name, "start": plain(start), "duration": plain(duration)}
        prompt = _PLACEHOLDER.sub(lambda match: values[match[1]], self.prompt)
        # A tokenizer refuses a name, or an argument, that is not valid text.
        return prompt.encode(errors="replace").decode()

    def same_for(self, path: str, other: str) -> bool:
        """Whether two files of the same content have the same prompt."""
        return self.render(path, start=0, duration=0) == self.render(other, start=0, duration=0)

    def as_dict(self) -> dict[str, Any]:
        """What a caption depends on, flat: how frames are read does not change it."""
        record = asdict(self)
        sampling = record.pop("sampling")
        if self.merge is None:  # records of earlier versions do not name it
            del record["merge"], record["keep"]
        return record | {name: sampling[name] for name in ("frames", "fps", "max_frames", "seek")}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the work is done; nothing here changes a caption.

    - batch_size: how many parts of videos the model captions together, at most.
    - readers: processes that read ahead of the model; 0 decodes in the main process, None chooses.
    - retry_failed: try again what failed before; overwrite: discard existing results and start over.
    - compact: JSON lines without what all videos have in common, which is written once beside them.
    """

    batch_size: int = 8
    readers: int | None = None
    retry_failed: bool = False
    overwrite: bool = False
    compact: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"`batch_size` must be an integer from 1 up, not {self.batch_size}")
        if self.readers is not None and self.readers < 0:
            raise UsageError(f"`readers` must be an integer from 0 up, not {self.readers}")

    @property
    def reader_count(self) -> int:
        """`readers`, or the choice for this machine."""
        if self.readers is not None:
            return self.readers
        return max(1, min(8, (os.cpu_count() or 2) // 2))


def plain(seconds: float) -> str:
    """Seconds to a millisecond, without an exponent or needless zeros."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
