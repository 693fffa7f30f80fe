"""The cost that the paper publishes (Figure 4), and the cost model that fits it.

The published "TFLOPs" are multiply-accumulates, in 10¹². One cost model gives every CrossLMM row to
0.2 %: the complete vision encoder, the projector over all features, the language model's
linear layers, and per cross-attention layer one key and one value projection. Not in it are the
attention products of the language model and of cross-attention, query and output projections, and
the head.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from crosslmm.cost.arithmetic import Macs, PromptTokens, frame_macs, linear_macs
from crosslmm.cost.memory import Memory
from crosslmm.cost.profile import Profile
from crosslmm.cost.shape import RECIPES, ModelShape
from crosslmm.errors import UsageError
from crosslmm.merging import TokenBudget

TEXT_TOKENS = 65
OURS, PEER = "crosslmm-7b", "llava-onevision-7b"


@dataclass(frozen=True)
class Published:
    """One point of Figure 4: MACs, bytes above the weights, seconds of prefill, on eight H800s."""

    macs: float
    memory: float
    seconds: float


FIGURE_4: dict[str, dict[int, Published]] = {
    PEER: {
        32: Published(57e12, 4858e6, 0.554),
        64: Published(113.56e12, 8640e6, 1.129),
        128: Published(226.67e12, 16206e6, 2.504),
        256: Published(316.88e12, 20208e6, 3.978),
    },
    OURS: {
        32: Published(13.17e12, 1753e6, 0.335),
        64: Published(25.92e12, 1864e6, 0.578),
        128: Published(51.43e12, 2087e6, 1.063),
        256: Published(102.42e12, 2530e6, 2.019),
    },
}


@dataclass(frozen=True)
class PublishedRow:
    """A published point, the same run by the paper's cost model, and by that of crosslmm."""

    frames: int
    tokens_per_frame: int
    tokens: PromptTokens
    published: Published
    modelled: Macs
    linear: int
    counted: int

    @property
    def deviation(self) -> float:
        """Of the paper's cost model from the publication, as a fraction of the latter."""
        return self.modelled.total / self.published.macs - 1

    @property
    def linear_deviation(self) -> float:
        """Of the linear parts of the count of crosslmm."""
        return self.linear / self.published.macs - 1

    @property
    def counted_deviation(self) -> float:
        """Of the full count of crosslmm, attention and head included."""
        return self.counted / self.published.macs - 1


@dataclass(frozen=True)
class PublishedComparison:
    """Figure 4 beside both cost models; `as_dict` has the shape of `Profile.as_dict`, and more."""

    model: str
    rows: tuple[PublishedRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": f"paper: {self.model}",
            "settings": {"text_tokens": TEXT_TOKENS},
            "rows": [_as_dict(row) for row in self.rows],
        }


def compare_with_paper(profile: Profile) -> PublishedComparison:
    """The rows of a profile that Figure 4 also has. Raises UsageError where there are none."""
    model = _published_model(profile.shape)
    if profile.settings.batch != 1:
        raise UsageError("the paper's figures are of one video; leave out `batch`")
    own = TokenBudget(RECIPES[model].tokens_per_frame)
    rows = [
        PublishedRow(
            frames=row.frames,
            tokens_per_frame=RECIPES[model].tokens_per_frame,
            tokens=row.tokens,
            published=FIGURE_4[model][row.frames],
            modelled=count_like_paper(profile.shape, frames=row.frames),
            linear=_linear(row.prefill),
            counted=row.prefill.total,
        )
        for row in profile.rows
        if row.frames in FIGURE_4[model] and row.budget == own
    ]
    if not rows:
        raise UsageError(
            f"the paper gives {model} at {own} and 32, 64, 128 and 256 frames; profile one of these"
        )
    return PublishedComparison(model, tuple(rows))


def count_like_paper(
    shape: ModelShape, *, frames: int, text_tokens: int = TEXT_TOKENS, cut: bool = True
) -> Macs:
    """What the paper's counter must have counted of one prefill.

    `cut`: a prompt longer than the language model's context counts up to it, as the published row
    of LLaVA-OneVision at 256 frames requires.
    """
    vision, language = shape.vision, shape.language
    features = frames * vision.patches
    prompt = frames * shape.tokens_per_frame + shape.newline + text_tokens
    pair = 2 * vision.width * language.kv_width * features
    return Macs(
        vision=frames * frame_macs(shape),
        projector=features * (vision.width * language.width + language.width**2),
        language_linear=(min(prompt, language.context) if cut else prompt) * linear_macs(shape),
        v2v_projection=shape.cross_layers * pair,
    )


def _published_model(shape: ModelShape) -> str:
    """Which column of Figure 4 a shape belongs to."""
    for model in (OURS, PEER):
        recipe = RECIPES[model]
        same = (
            shape.vision == recipe.vision,
            linear_macs(shape) == linear_macs(recipe),
            shape.interval == recipe.interval,
            shape.chunked == recipe.chunked,
        )
        if all(same):
            return model
    raise UsageError(
        f"the paper's figure 4 is of 7B models every 4th layer of which reads the frames; "
        f"profile {OURS} or {PEER}"
    )


def _linear(macs: Macs) -> int:
    """All but attention products of the language model, and the head."""
    attention = macs.self_attention + macs.v2v_attention + macs.t2v_attention
    return macs.total - attention - macs.head


def _as_dict(row: PublishedRow) -> dict[str, Any]:
    tokens = {"original": row.tokens.features, "visual": row.tokens.visual, "text": TEXT_TOKENS}
    return {
        "frames": row.frames,
        "tokens_per_frame": row.tokens_per_frame,
        "tokens": tokens,
        "macs": asdict(row.modelled) | {"prefill_total": row.modelled.total, "per_token": None},
        "memory": {field.name: None for field in fields(Memory)} | {"total": None},
        "published": {
            "prefill_total": row.published.macs,
            "memory_above_weights": row.published.memory,
            "prefill_seconds": row.published.seconds,
        },
        "deviation": row.deviation,
        "linear_deviation": row.linear_deviation,
        "counted_deviation": row.counted_deviation,
    }
