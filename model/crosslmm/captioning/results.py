"""What captioning gives: a result for each video, and how the run went."""

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslmm.inference.answer import FrameUsed

Record = dict[str, Any]

_SEGMENT_FIELDS = {"start", "end", "caption", "finish", "tokens", "frames"}  # of a record
_MERGED_FIELDS = _SEGMENT_FIELDS | {"visual_tokens"}  # of one whose frames' tokens were merged


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A captioned part of a video, from `start` to `end` in seconds.

    - caption: None where there is none, for the `problem` given.
    - finish: "length" where `max_new_tokens` cut the caption.
    - visual_tokens: how many were kept of its frames' tokens, where these were merged.
    """

    start: float
    end: float
    caption: str | None = None
    problem: str | None = None
    frames: "tuple[FrameUsed, ...]" = ()
    tokens: int = 0
    visual_tokens: int | None = None
    finish: str | None = None
    warnings: tuple[str, ...] = ()
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    generate_seconds: float = 0.0

    @classmethod
    def from_dict(cls, record: Record) -> "Segment":
        """From `asdict` of one, or from a segment of a record, which leaves some fields out."""
        from crosslmm.inference.answer import FrameUsed

        frames = tuple(FrameUsed(**frame) for frame in record["frames"])
        return cls(**{**record, "frames": frames, "warnings": tuple(record.get("warnings", ()))})


@dataclass(frozen=True, kw_only=True)
class CaptionResult:
    """The caption of one video, or the `error` for which it has none; `as_dict` is its line of JSONL.

    - content: identifies the content of the file; settings_hash: everything else that the caption
      depends on.
    - same_as: another file of the same content, from which the caption was taken.

    An engine fills in the first five fields; the run fills in the rest.
    """

    path: str
    duration: float | None = None
    segments: tuple[Segment, ...] = ()
    error: str | None = None
    warnings: tuple[str, ...] = ()
    content: str | None = None
    same_as: str | None = None
    model: str = ""
    prompt: str = ""
    settings_hash: str = ""
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    versions: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def caption(self) -> str | None:
        """The caption of the video, or those of its segments, a line each."""
        if self.error is not None:
            return None
        return "\n".join(part.caption for part in self.segments if part.caption)

    @property
    def frames(self) -> "tuple[FrameUsed, ...]":
        return tuple(frame for segment in self.segments for frame in segment.frames)

    @property
    def timing(self) -> dict[str, float]:
        """Seconds of decode, encode and generate: this video's share of its batches."""
        return {
            stage: round(sum((getattr(part, f"{stage}_seconds") for part in self.segments), 0.0), 4)
            for stage in ("decode", "encode", "generate")
        }

    def as_dict(self) -> Record:
        return {
            "path": self.path,
            "caption": self.caption,
            "error": self.error,
            "duration": None if self.duration is None else round(self.duration, 3),
            "segments": [
                {
                    "start": round(part.start, 3),
                    "end": round(part.end, 3),
                    "caption": part.caption,
                    "finish": part.finish,
                    "tokens": part.tokens,
                    "frames": [asdict(frame) for frame in part.frames],
                }
                | ({} if part.visual_tokens is None else {"visual_tokens": part.visual_tokens})
                for part in self.segments
            ],
            "model": self.model,
            "prompt": self.prompt,
            "timing": self.timing,
            "settings_hash": self.settings_hash,
            "settings": self.settings,
            "content": self.content,
            "same_as": self.same_as,
            "warnings": list(self.warnings),
            "versions": self.versions,
        }


CAPTION_FIELDS = ("caption", "duration", "segments", "warnings")  # of a video that has a caption


def is_usable(record: Record) -> bool:
    """Whether the fields of a record that are read again have their types, where it has them; it may
    be anybody's."""
    texts = [record["path"], record["settings_hash"]]
    optional = ("content", "error", "replaces", "caption", "same_as")
    texts += [record[name] for name in optional if record.get(name) is not None]
    sidecar = record.get("sidecar")
    if sidecar is not None:
        texts += sidecar if isinstance(sidecar, list) and len(sidecar) == 2 else [None]
    if not all(isinstance(text, str) for text in texts):
        return False
    if not all(map(_is_file_name, [record["path"], *(sidecar or ())])):
        return False
    if record["error"] is not None:
        return True
    segments, warnings = record.get("segments", []), record.get("warnings", [])
    return (
        isinstance(record.get("caption", ""), str)
        and (record.get("duration") is None or _is_number(record["duration"]))
        and isinstance(segments, list)
        and all(map(_is_segment, segments))
        and isinstance(warnings, list)
        and all(isinstance(text, str) for text in warnings)
    )


def _is_segment(part: Any) -> bool:
    if not isinstance(part, dict) or not part.keys() <= _MERGED_FIELDS:
        return False
    frames = part.get("frames")
    return (
        _is_number(part.get("start"))
        and _is_number(part.get("end"))
        and all(isinstance(part.get(name), str | None) for name in ("caption", "finish"))
        and isinstance(part.get("tokens", 0), int)
        and isinstance(part.get("visual_tokens", 0), int)
        and isinstance(frames, list)
        and all(map(_is_frame, frames))
    )


def _is_frame(frame: Any) -> bool:
    is_pair = isinstance(frame, dict) and frame.keys() == {"index", "time"}
    return is_pair and isinstance(frame["index"], int) and _is_number(frame["time"])


def _is_number(value: Any) -> bool:
    """A finite number that a float holds; JSON allows longer ones."""
    return isinstance(value, int | float) and abs(value) < 1e15


def _is_file_name(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class Summary:
    """How a run went; complete when it has ended.

    - total: files found; captioned and failed: in this run; kept and kept_failures: done by an earlier
      one; copies: captioned through another file of the same content (part of captioned);
      no_videos: files in folders that are not videos.
    - linked_folders: links to folders, which were not searched.
    - stopped: it was asked to stop before the end.
    - shares: where the time went.
    """

    total: int = 0
    captioned: int = 0
    failed: int = 0
    kept: int = 0
    kept_failures: int = 0
    copies: int = 0
    no_videos: int = 0
    stopped: bool = False
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)
    linked_folders: list[str] = field(default_factory=list)
    shares: "TimeBreakdown | None" = None

    @property
    def fresh(self) -> int:
        """Files that this run has done."""
        return self.captioned + self.failed + self.no_videos

    @property
    def to_do(self) -> int:
        """Files that no earlier run has done; known once the first result has come."""
        return self.total - self.kept - self.kept_failures

    def as_dict(self) -> Record:
        record = asdict(self)
        record["failures"] = [{"path": path, "error": error} for path, error in self.failures]
        return record


@dataclass(frozen=True)
class TimeBreakdown:
    """Where the time went, each as a share of the wall time (0 to 1).

    - encode, generate: the model; idle: it waited for clips; other: writing, and the caller's time.
    - decode: reading, in all reader processes together (above 1 where several were busy). It is part
      of the wall time only without reader processes, where the model waits for it.
    """

    encode: float
    generate: float
    idle: float
    other: float
    decode: float

    @property
    def busy(self) -> float:
        return self.encode + self.generate
