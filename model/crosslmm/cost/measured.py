"""What was measured of a run, beside what the cost model estimates for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from crosslmm.cost.memory import Memory
from crosslmm.merging import TokenBudget

# Frame counts that are measured where none are given: an estimate takes more in less time.
MEASURED_FRAMES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Spread:
    """The median of several timings, the fastest and the slowest, in seconds."""

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        return cls(median(seconds), min(seconds), max(seconds))


@dataclass(frozen=True)
class Measurement:
    """One number of frames, run `repeats` times.

    - decode, encode, prefill: of the first question; first_token: all of these together.
    - second_question: to the first token of another question about the same video.
    - per_token: None where no answer had a second token.
    - peak: bytes above the loaded model; None where the system does not tell.
    """

    frames: int
    budget: TokenBudget
    text_tokens: int
    repeats: int
    decode: Spread
    encode: Spread
    prefill: Spread
    first_token: Spread
    second_question: Spread
    per_token: Spread | None
    peak: int | None


@dataclass(frozen=True)
class Measured:
    """A measurement, the estimate of the same run, and what it ran on."""

    run: Measurement
    estimate: Memory
    settings: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in asdict(self.run).items() if name != "budget"},
            **self.run.budget.settings,
            "estimated_peak": self.estimate.above_weights,
            "settings": dict(self.settings),
        }
