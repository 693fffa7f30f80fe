"""What a cost depends on besides the model and the number of frames."""

from dataclasses import dataclass

from crosslmm.limits import FRAMES_PER_CHUNK
from crosslmm.options import ResolvedQuantization

MOST_FRAMES = 1_000_000
TEXT_TOKENS = 64


@dataclass(frozen=True)
class Settings:
    """What a cost depends on besides the model and the number of frames."""

    text_tokens: int = TEXT_TOKENS
    batch: int = 1
    dtype: str | None = None
    quantization: ResolvedQuantization = "none"
    frames_per_chunk: int = FRAMES_PER_CHUNK
    feature_bits: int | None = None
