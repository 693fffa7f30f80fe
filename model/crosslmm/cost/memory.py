"""Bytes that a run needs: weights per part, what is kept of a video, and the peak beyond it.

The peak is that of the tensors alive at once in the forward pass under `torch.inference_mode`,
read off the code and compared with the allocator's own record in a test. A process needs more than
its tensors: the interpreter, the libraries and, on a GPU, the context come on top.
"""

from dataclasses import dataclass
from math import ceil

from crosslmm.cost.arithmetic import PromptTokens, count_tokens
from crosslmm.cost.merging import merging_bytes
from crosslmm.cost.shape import ModelShape
from crosslmm.errors import UsageError
from crosslmm.limits import (
    FRAMES_PER_CHUNK,
    MERGED_FRAMES,
    SLICE_BYTES,
    UNPACKED_BYTES,
    prefill_part,
    sliced_pair_bytes,
)
from crosslmm.merging import TokenBudget
from crosslmm.options import ResolvedQuantization, check_feature_bits

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NF4_BLOCK, _NESTED_BLOCK = 64, 256


@dataclass(frozen=True)
class WeightPart:
    """A part of the weights: how many parameters, in which precision, and their bytes."""

    name: str
    parameters: int
    precision: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one run; `total` is the peak, the sum of the others.

    - features: un-pooled visual features, which cross-attention reads, or the keys and values that all
      its layers share.
    - kv_cache: of self-attention.
    - cross_cache: T2V's keys and values; none where it reads the features themselves.
    - activations: the most that is alive beside all these at any moment.
    """

    weights: int
    features: int
    kv_cache: int
    cross_cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.above_weights

    @property
    def above_weights(self) -> int:
        return self.features + self.kv_cache + self.cross_cache + self.activations


def weight_parts(
    shape: ModelShape, *, dtype: str | None = None, quantization: ResolvedQuantization = "none"
) -> tuple[WeightPart, ...]:
    """The weights part by part; quantization touches the decoder's linear layers alone."""
    precision = dtype or shape.dtype
    size = dtype_bytes(precision)

    def plain(name: str, parameters: int) -> WeightPart:
        return WeightPart(name, parameters, precision, parameters * size)

    language = shape.language
    matrices = _decoder_matrices(shape)
    linear = language.layers * sum(rows * columns for rows, columns in matrices)
    small = language.layers * _small_parameters(shape) + language.width
    match quantization:
        case "none":
            linear_part = plain("decoder", linear + small)
        case "4bit":
            stored = language.layers * sum(_nf4_bytes(r * c) for r, c in matrices)
            linear_part = WeightPart("decoder", linear + small, "nf4", stored + small * size)
        case "8bit":
            stored = language.layers * sum(r * c + 4 * r for r, c in matrices)
            linear_part = WeightPart("decoder", linear + small, "int8", stored + small * size)
        case _:
            raise UsageError(f"`quantization` is none, 4bit or 8bit, not {quantization!r}")
    vocabulary = language.width * language.vocabulary
    return (
        plain("vision", _vision_parameters(shape)),
        plain("projector", _projector_parameters(shape)),
        linear_part,
        plain("embeddings", vocabulary),
        plain("head", 0 if language.tied else vocabulary),
        plain("cross-attention", _cross_parameters(shape)),
    )


def memory_needed(
    shape: ModelShape,
    *,
    frames: int,
    budget: TokenBudget | None = None,
    text_tokens: int = 64,
    batch: int = 1,
    dtype: str | None = None,
    quantization: ResolvedQuantization = "none",
    frames_per_chunk: int = FRAMES_PER_CHUNK,
    feature_bits: int | None = None,
) -> Memory:
    """The memory of a run up to its first generated token, in bytes.

    `budget` is of the visual tokens, `dtype` that of everything not quantized; both are the model's own
    unless given. feature_bits: as `crosslmm.load` takes them.
    """
    check_feature_bits(feature_bits)
    budget = shape.check_budget(budget)
    size = dtype_bytes(dtype or shape.dtype)
    language = shape.language
    tokens = count_tokens(shape, frames=frames, budget=budget, text_tokens=text_tokens)
    parts = weight_parts(shape, dtype=dtype, quantization=quantization)
    patch = shape.feature_bytes(size, feature_bits)
    features = batch * tokens.features * patch if shape.reads_features else 0
    kv_cache = batch * tokens.prompt * 2 * language.layers * language.kv_width * size
    cross_cache = 0
    if shape.t2v_cache == "projected":
        cross_cache = batch * tokens.features * 2 * shape.open_t2v * language.kv_width * size
    chosen = 0  # copies of what is read of the frames that T2V chooses
    if shape.t2v_frames is not None and shape.t2v_frames < frames:
        chosen = (cross_cache or features) * shape.t2v_frames // frames
    total_frames = batch * frames
    chunk = min(frames_per_chunk, total_frames) if shape.chunked else total_frames
    embeds = batch * tokens.merged * language.width * size
    encoding = _encoding(shape, budget, frames, chunk, size, batch=batch)
    prefill = embeds + batch * _prefill_peak(
        shape, tokens, budget, size, in_parts=batch == 1, feature_bits=feature_bits
    )
    return Memory(
        weights=sum(part.bytes for part in parts),
        features=features,
        kv_cache=kv_cache,
        cross_cache=cross_cache,
        # The caches do not exist yet while frames are encoded.
        activations=max(prefill, encoding - kv_cache - cross_cache, chosen),
    )


def dtype_bytes(dtype: str) -> int:
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise UsageError(f"`dtype` is one of {', '.join(DTYPE_BYTES)}, not {dtype!r}") from None


def encoding_peak(shape: ModelShape, chunk: int, merged: int, size: int) -> int:
    """Alive at once inside a feed-forward of the encoder, or before or after it."""
    vision, width = shape.vision, shape.language.width
    patches = chunk * vision.patches
    pixels = chunk * vision.channels * vision.image_size**2
    normalising = pixels * 12  # three float32 copies
    layer = patches * (2 * vision.width + 2 * vision.intermediate) * size
    norm = 0
    if shape.reads_features:
        norm = patches * vision.width * (2 * size + 8)  # in float32
        if shape.shares_kv:  # each projected, then both side by side
            norm = max(norm, patches * (2 * vision.width + 2 * shape.feature_width) * size)
    projected = patches if shape.projector_order == "project_first" else chunk * merged
    projecting = patches * vision.width * size + 2 * projected * width * size
    return max(normalising, pixels * size + max(layer, norm, projecting))


def _encoding(
    shape: ModelShape, budget: TokenBudget, frames: int, chunk: int, size: int, *, batch: int
) -> int:
    """Alive at once beside the features until all frames are encoded and merged."""
    width = shape.language.width
    merged = batch * budget.count(frames) * width * size
    peak = encoding_peak(shape, chunk, budget.pooled, size)
    if budget.merge is None:
        return merged + peak
    # A method needs all tokens of a window before it merges them; those of a batch, of all videos.
    window = min(frames, MERGED_FRAMES) * budget.pooled * width * size
    held = window if batch == 1 else batch * frames * budget.pooled * width * size
    # What is kept is copied once all of it is there, and each token's place and slot are known.
    working = max(merging_bytes(budget, frames=frames, width=width, size=size), merged)
    merging = merged + working + 16 * frames * budget.pooled
    if frames >= MERGED_FRAMES and batch == 1:  # merged while the chunk that fills it is alive
        kept = shape.vision.patches * shape.feature_width if shape.reads_features else 0
        merging += chunk * (kept + budget.pooled * width) * size
    if frames > MERGED_FRAMES:
        held += merged if batch == 1 else merged + window
    return held + max(peak, merging)


def _prefill_peak(
    shape: ModelShape,
    tokens: PromptTokens,
    budget: TokenBudget,
    size: int,
    *,
    in_parts: bool,
    feature_bits: int | None,
) -> int:
    """Alive at once for one video inside a decoder layer's feed-forward, or inside V2V. Of several
    videos the prompts are not split (`batch.py`)."""
    language = shape.language
    visual, part = tokens.merged, tokens.prompt
    masked = bool(budget.merge)
    read = tokens.features if shape.open_v2v and not shape.shares_kv else 0
    if shape.chunked and in_parts:
        frame = 1 if masked else budget.pooled  # parts are of complete frames
        most = prefill_part(
            tokens.prompt,
            read if shape.v2v_scope in ("video", "past") else 0,
            width=language.width,
            intermediate=language.intermediate,
            kv_heads=language.kv_heads,
            head_dim=language.head_dim,
            size=size,
            masked=masked,
        )
        visual = min(visual, max(most // frame, 1) * frame)
        part = min(part, visual + tokens.prompt - tokens.merged)
    stream = part * language.width * size
    attention = 4 * stream
    if part < tokens.prompt or masked:
        # A mask, of numbers besides the one of True and False; keys and values of all query heads.
        attention += (1 + size * masked) * part * tokens.prompt
        attention += 2 * tokens.prompt * language.query_width * size
    feed_forward = 4 * stream + 3 * part * language.intermediate * size
    reading = 0
    if shape.open_v2v:
        queries = visual * size
        reading = 2 * stream + queries * (2 * language.width + 3 * language.query_width)
        reading += _visual_reading(shape, tokens, visual, size, feature_bits)
    return max(feed_forward, attention, reading, language.vocabulary * size)


def _visual_reading(
    shape: ModelShape, tokens: PromptTokens, visual: int, size: int, feature_bits: int | None
) -> int:
    """What V2V makes of the features for so many of the merged tokens."""
    patches, features = shape.vision.patches, tokens.features
    if features == 0:
        return 0
    if shape.v2v_scope in ("frame", "member"):
        features = min(features, ceil(features / patches * visual / tokens.merged) * patches)
    copied = 0
    if shape.v2v_scope == "member":
        # Copies of the patches of some tokens at a time; 8 bytes say which each is.
        alive = min(1.0, SLICE_BYTES / (features * shape.feature_width * size))
        copied = int(features * shape.feature_bytes(size, feature_bits) * alive) + 8 * features
        features = int(features * alive)
    if shape.shares_kv and feature_bits is None:
        return copied
    if feature_bits is not None and not shape.shares_kv:  # unpacked a part at a time
        copied += min(UNPACKED_BYTES, features * shape.feature_width * size)
    return copied + sliced_pair_bytes(
        features, kv_heads=shape.language.kv_heads, head_dim=shape.language.head_dim, size=size
    )


def _nf4_bytes(parameters: int) -> int:
    """Half a byte each, an 8-bit scale per block, a 32-bit one per block of scales, two tables."""
    scales = ceil(parameters / _NF4_BLOCK)
    return ceil(parameters / 2) + scales + 4 * ceil(scales / _NESTED_BLOCK) + 4 * (16 + 256 + 1)


def _decoder_matrices(shape: ModelShape) -> list[tuple[int, int]]:
    """The linear layers of one decoder layer, (rows, columns)."""
    language = shape.language
    return [
        (language.query_width, language.width),
        (language.kv_width, language.width),
        (language.kv_width, language.width),
        (language.width, language.query_width),
        (language.intermediate, language.width),
        (language.intermediate, language.width),
        (language.width, language.intermediate),
    ]


def _small_parameters(shape: ModelShape) -> int:
    """Norms and biases of one decoder layer."""
    language = shape.language
    count = 2 * language.width
    count += (language.query_width + 2 * language.kv_width) * language.qkv_bias
    count += language.width * language.output_bias
    count += (2 * language.intermediate + language.width) * language.mlp_bias
    return count + 2 * language.head_dim * language.qk_norm


def _vision_parameters(shape: ModelShape) -> int:
    vision = shape.vision
    width, inner = vision.width, vision.intermediate
    embedding = width * (vision.channels * vision.patch_size**2 + 1 + vision.patches)
    block = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
    head = 0
    if vision.has_head:
        head = width + 4 * width * (width + 1) + 2 * width + 2 * width * inner + inner + width
    return embedding + vision.layers * block + 2 * width + head


def _projector_parameters(shape: ModelShape) -> int:
    width = shape.language.width
    bias = 2 * width if shape.projector_bias else 0
    return width * (shape.vision.width + width) + bias + width * shape.newline


def _cross_parameters(shape: ModelShape) -> int:
    """Weights are there whether or not their gate is open."""
    if not shape.interval:
        return 0
    language = shape.language
    branch = 2 * language.width * language.query_width + 1
    pair = 2 * shape.vision.width * language.kv_width
    pairs = 1 if shape.shares_kv else 2 * shape.cross_layers
    layers = shape.cross_layers * (2 * branch + language.width)
    return layers + pairs * pair + shape.vision.width
