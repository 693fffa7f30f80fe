"""An answer, and everything that is needed to reproduce and to explain it."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

Finish = Literal["end", "length"]


@dataclass(frozen=True)
class FrameUsed:
    """A frame that the answer rests on: its index in the source and its time in seconds."""

    index: int
    time: float
    video: ClassVar[str | None] = None


@dataclass(frozen=True)
class FrameOfVideo(FrameUsed):
    """Of one of several videos; video: its name."""

    video: str  # type: ignore[misc]


@dataclass(frozen=True)
class TokenCounts:
    """- original: un-pooled visual tokens; visual: placeholders that stand for them in the prompt;
    - prompt: all tokens of the prompt; generated: of the answer, its end token included.
    """

    original: int
    visual: int
    prompt: int
    generated: int


@dataclass(frozen=True)
class Timing:
    """Seconds per stage. What an earlier question on the same video has paid for is zero here.

    - load: of the model; decode: reading frames; encode: frames to visual tokens, without the time
      spent waiting for decoding, or reading these from the cache; prefill: up to the first token;
      generate: the rest.
    - first_token: from the request to the first token, without loading, nor what was decoded of the
      video while the model was being loaded.
    """

    load: float
    decode: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0
    generate: float = 0.0
    first_token: float = 0.0


@dataclass(frozen=True)
class TokenTrace:
    """Ids of tokens: of the prompt after the video, and of all that was said, its end token included;
    `said`: as text, which the answer ends; `reader`: what tells who read the video, and how."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    said: str
    reader: str


@dataclass(frozen=True)
class ZoomMoment:
    """A part of the video that was looked at again, in seconds; score: the share of what the question
    attends to in the skim that its middle frame has."""

    start: float
    end: float
    score: float
    video: ClassVar[str | None] = None


@dataclass(frozen=True)
class ZoomMomentOfVideo(ZoomMoment):
    """Of one of several videos; video: its name."""

    video: str  # type: ignore[misc]


@dataclass(frozen=True)
class LookedAgain:
    """How an answer of `ZoomedVideo` came about. skimmed: frames; tokens: visual ones, of the skim and
    of the second look together; moments: those looked at again, the highest score first."""

    skimmed: int
    tokens: int
    moments: tuple[ZoomMoment, ...]


@dataclass(frozen=True)
class Answer:
    """One question answered; `as_dict` is the JSON form, which reproduces it.

    - reasoning: what the model said before its answer, where it does; a stream has both as they come.
    - finish: `end`, the model ended it; `length`, `max_new_tokens` cut it.
    - frames_encoded: those that went through the vision encoder; of equal ones in a row, only the first.
    - from_cache: the video had been encoded earlier, and was read from the cache.
    - looked_again: of a `ZoomedVideo`, whose `frames` are those of the second look; None otherwise, and
      then not part of the JSON form.
    - videos: of a question about several, their names in the order of the prompt; empty otherwise, and
      then not part of the JSON form.
    - trace: what `VideoSession.evidence` reads the answer by; not part of the JSON form.
    """

    text: str
    question: str
    video: str
    model: str
    frames: tuple[FrameUsed, ...]
    frames_encoded: int
    tokens: TokenCounts
    timing: Timing
    finish: Finish
    prompt: str = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    versions: dict[str, str] = field(repr=False)
    warnings: tuple[str, ...] = ()
    from_cache: bool = False
    reasoning: str | None = None
    looked_again: LookedAgain | None = None
    videos: tuple[str, ...] = ()
    trace: TokenTrace | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return (
            f"<Answer {text!r}, {len(self.frames)} frames of {self.video}, "
            f"{self.tokens.generated} tokens in {self.timing.generate:.1f} s>"
        )

    def as_dict(self) -> dict[str, Any]:
        record = asdict(self)
        del record["trace"]
        if self.looked_again is None:
            del record["looked_again"]
        if not self.videos:
            del record["videos"]
        record["answer"] = record.pop("text")
        first = ("video", "question", "answer", "model")
        rounded = {name: round(seconds, 4) for name, seconds in record["timing"].items()}
        return {name: record.pop(name) for name in first} | record | {"timing": rounded}
