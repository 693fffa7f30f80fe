"""Multiply-accumulates of a forward pass, stage by stage, in closed form.

One MAC is two FLOPs. Counted are the matrix products, as `torch.utils.flop_counter` counts them;
norms, activations, poolings and softmaxes are not. Surprising but agreed: causal self-attention
counts as the full square, because that is what the counter (and most of the literature) says of it.
"""

from dataclasses import astuple, dataclass
from math import ceil

from crosslmm.cost.merging import merging_macs
from crosslmm.cost.shape import ModelShape
from crosslmm.limits import ABSORBED_QUERIES
from crosslmm.merging import TokenBudget


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates per stage of one pass."""

    vision: int = 0
    projector: int = 0
    merging: int = 0
    language_linear: int = 0
    self_attention: int = 0
    shared_projection: int = 0
    v2v_projection: int = 0
    v2v_attention: int = 0
    t2v_projection: int = 0
    t2v_attention: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of one video's prompt.

    `features`: T·N; `pooled`: T·M; `merged`: as many as these, or K where a method merges them to fewer;
    `visual`: the merged tokens with the newline that may follow them; `text`: the rest of the prompt.
    """

    features: int
    pooled: int
    merged: int
    visual: int
    text: int

    @property
    def prompt(self) -> int:
        return self.visual + self.text


def count_tokens(
    shape: ModelShape, *, frames: int, budget: TokenBudget | None = None, text_tokens: int = 64
) -> PromptTokens:
    """budget: of the visual tokens, the model's own unless given. Raises UsageError."""
    budget = shape.check_budget(budget)
    merged = budget.count(frames)
    return PromptTokens(
        features=frames * shape.vision.patches,
        pooled=frames * budget.pooled,
        merged=merged,
        visual=merged + int(shape.newline and frames > 0),
        text=text_tokens,
    )


def prefill_macs(
    shape: ModelShape,
    *,
    frames: int,
    budget: TokenBudget | None = None,
    text_tokens: int = 64,
    batch: int = 1,
) -> Macs:
    """From pixels to the logits of the last position, for `batch` prompts of one video each."""
    budget = shape.check_budget(budget)
    tokens = count_tokens(shape, frames=frames, budget=budget, text_tokens=text_tokens)
    language = shape.language
    merged = tokens.merged
    readers = tokens.prompt - merged  # the newline reads as text does
    queries, pairs, projected = _visual_reading(shape, frames, tokens)
    v2v_pairs = 0 if shape.shares_kv else shape.open_v2v * _pair_projection(shape, projected)
    shared = _pair_projection(shape, tokens.features) if shape.shares_kv else 0
    t2v_projection, t2v_attention = _text_reading(shape, readers, tokens.features, prefill=True)
    return Macs(
        vision=batch * frames * frame_macs(shape),
        projector=batch * _projector(shape, tokens),
        merging=batch * merging_macs(budget, frames=frames, width=language.width),
        language_linear=batch * tokens.prompt * linear_macs(shape),
        self_attention=batch * language.layers * _attention(shape, tokens.prompt, tokens.prompt),
        shared_projection=batch * shape.reads_features * shared,
        v2v_projection=batch * (shape.open_v2v * _query_output(shape, queries) + v2v_pairs),
        v2v_attention=batch * shape.open_v2v * _attention(shape, 1, pairs),
        t2v_projection=batch * t2v_projection,
        t2v_attention=batch * t2v_attention,
        head=batch * _head(shape),
    )


def token_macs(
    shape: ModelShape,
    *,
    frames: int,
    budget: TokenBudget | None = None,
    text_tokens: int = 64,
    batch: int = 1,
) -> Macs:
    """One decoding step, the first after the prompt: only T2V of the cross-attention runs."""
    tokens = count_tokens(shape, frames=frames, budget=budget, text_tokens=text_tokens)
    read = tokens.features
    if shape.t2v_frames is not None:
        read = min(frames, shape.t2v_frames) * shape.vision.patches
    projection, attention = _text_reading(shape, 1, read, prefill=False)
    return Macs(
        language_linear=batch * linear_macs(shape),
        self_attention=batch * shape.language.layers * _attention(shape, 1, tokens.prompt + 1),
        t2v_projection=batch * projection,
        t2v_attention=batch * attention,
        head=batch * _head(shape),
    )


def frame_macs(shape: ModelShape) -> int:
    """One frame through the vision encoder: patch embedding, linear layers, attention products."""
    vision = shape.vision
    patches, width = vision.patches, vision.width
    embedding = patches * vision.channels * vision.patch_size**2 * width
    linear = patches * (4 * width**2 + 2 * width * vision.intermediate)
    return embedding + shape.vision_layers * (linear + 2 * patches**2 * width)


def linear_macs(shape: ModelShape) -> int:
    """One token through the linear layers of all decoder layers."""
    language = shape.language
    attention = language.width * (2 * language.query_width + 2 * language.kv_width)
    return language.layers * (attention + 3 * language.width * language.intermediate)


def _projector(shape: ModelShape, tokens: PromptTokens) -> int:
    width = shape.language.width
    before = shape.projector_order == "project_first"
    projected = tokens.features if before else tokens.pooled
    return projected * (shape.vision.width * width + width**2)


def _attention(shape: ModelShape, queries: int, keys: int) -> int:
    """Scores and their weighted sum."""
    return 2 * shape.language.query_width * queries * keys


def _query_output(shape: ModelShape, queries: int) -> int:
    return 2 * queries * shape.language.width * shape.language.query_width


def _pair_projection(shape: ModelShape, features: int) -> int:
    """Keys and values of one branch."""
    return 2 * features * shape.vision.width * shape.language.kv_width


def _visual_reading(shape: ModelShape, frames: int, tokens: PromptTokens) -> tuple[int, int, int]:
    """V2V of a layer: its queries, the pairs of a query and a feature that it reads, and the features
    that are projected. Tokens as if spread evenly over the frames."""
    merged, features, patches = tokens.merged, tokens.features, shape.vision.patches
    match shape.v2v_scope:
        case "video":
            return merged, merged * features, features
        case "past":
            return merged, merged * patches * (frames + 1) // 2, features
        case "frame":
            # Frames with fewer tokens are filled up, those without any left out.
            read = min(frames, merged)
            queries = read * ceil(merged / max(read, 1))
            return queries, queries * patches, read * patches
        case "member":
            return merged, features, features


def _text_reading(
    shape: ModelShape, queries: int, features: int, *, prefill: bool
) -> tuple[int, int]:
    """T2V of all layers: projections and attention, with keys and values cached, absorbed or shared."""
    if features == 0:
        return 0, 0
    language = shape.language
    projection, attention = _query_output(shape, queries), _attention(shape, queries, features)
    absorbs = shape.t2v_cache == "features" and not shape.shares_kv
    if absorbs and queries <= ABSORBED_QUERIES:
        projection += 2 * queries * language.query_width * shape.vision.width
        attention = 2 * queries * language.heads * shape.vision.width * features
    elif prefill and not shape.shares_kv:
        projection += _pair_projection(shape, features)
    frames = shape.t2v_frames
    if prefill and frames is not None and features > frames * shape.vision.patches:
        # What the last token attends to, by which frames are chosen.
        width = language.head_dim
        if absorbs:
            width = shape.vision.width
            projection += language.query_width * width
        attention += language.heads * width * features
    return shape.open_t2v * projection, shape.open_t2v * attention


def _head(shape: ModelShape) -> int:
    return shape.language.width * shape.language.vocabulary
