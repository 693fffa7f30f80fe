"""The shape of a model: the few numbers that its cost follows from.

Read from a `config.json`, or from a recipe by name, without torch or transformers. Older files
leave out what equals the library's default, so the defaults that matter are kept here and compared
with transformers' own in a test.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crosslmm.checkpoints.headers import Gate
from crosslmm.checkpoints.support import CROSSLMM, LLAVA_ONEVISION, MODEL_TYPES
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.limits import DECODERS, packed_width
from crosslmm.merging import TokenBudget, check_tokens_per_frame
from crosslmm.options import CrossKV, ProjectorOrder, T2VCache, V2VScope

_MOST = 1 << 40  # of any number of a configuration
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "vision_use_head": True,
}
_QWEN2_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
_LLAMA_DEFAULTS = _QWEN2_DEFAULTS | {
    "intermediate_size": 11008,
    "num_key_value_heads": None,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
LANGUAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2": _QWEN2_DEFAULTS,
    "qwen3": _QWEN2_DEFAULTS | {"head_dim": 128},
    "llama": _LLAMA_DEFAULTS,
    "mistral": _LLAMA_DEFAULTS
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
}
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


@dataclass(frozen=True)
class VisionShape:
    """A SigLIP encoder; `layers` are those stored, whether or not the last are computed."""

    width: int
    intermediate: int
    layers: int
    image_size: int
    patch_size: int
    channels: int = 3
    has_head: bool = False

    @property
    def patches(self) -> int:
        """N, the features of a frame, one for each patch."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "VisionShape":
        kind = config.get("model_type", "siglip_vision_model")
        if kind != "siglip_vision_model":
            raise CheckpointError(f"vision encoder {kind!r}: only SigLIP's cost can be counted")
        values = _VISION_DEFAULTS | {key: config[key] for key in _VISION_DEFAULTS if key in config}
        return cls(
            width=values["hidden_size"],
            intermediate=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            image_size=values["image_size"],
            patch_size=values["patch_size"],
            channels=values["num_channels"],
            has_head=bool(values["vision_use_head"]),
        )


@dataclass(frozen=True)
class LanguageShape:
    """A decoder of the Llama family: grouped key/value heads and a gated feed-forward.

    `context`: the most positions it was made for.
    """

    width: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    context: int
    qkv_bias: bool = True
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LanguageShape":
        kind = config.get("model_type", "qwen2")
        if kind not in DECODERS:
            known = ", ".join(DECODERS)
            raise CheckpointError(
                f"language model {kind!r}: its cost cannot be counted ({known} can)"
            )
        values = LANGUAGE_DEFAULTS[kind] | dict(config)
        heads = values["num_attention_heads"]
        bias = bool(values.get("attention_bias", False))
        return cls(
            width=values["hidden_size"],
            intermediate=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            kv_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // heads,
            vocabulary=values["vocab_size"],
            tied=bool(values.get("tie_word_embeddings", False)),
            context=values["max_position_embeddings"],
            qkv_bias=kind == "qwen2" or bias,
            output_bias=bias and kind != "qwen2",
            mlp_bias=bool(values.get("mlp_bias", False)),
            qk_norm=kind == "qwen3",
        )


@dataclass(frozen=True)
class ModelShape:
    """All that the cost of a model follows from.

    - `vision_layers`: encoder layers that are computed.
    - `interval`: K; None for a model without cross-attention.
    - `open_v2v`, `open_t2v`: branches whose gate is not exactly zero; a closed one costs nothing.
    - `chunked`: frames are encoded in chunks, or all at once (LLaVA-OneVision in transformers).
    """

    vision: VisionShape
    language: LanguageShape
    vision_layers: int
    tokens_per_frame: int
    interval: int | None
    open_v2v: int
    open_t2v: int
    cross_kv: CrossKV = "per_layer"
    v2v_scope: V2VScope = "video"
    t2v_cache: T2VCache = "features"
    t2v_frames: int | None = None
    projector_order: ProjectorOrder = "merge_first"
    projector_bias: bool = True
    newline: bool = False
    chunked: bool = True
    dtype: str = "bfloat16"

    @property
    def cross_layers(self) -> int:
        """Dual cross-attention layers: one after decoder layers K, 2K, …"""
        return self.language.layers // self.interval if self.interval else 0

    @property
    def shares_kv(self) -> bool:
        return self.cross_kv == "shared"

    @property
    def feature_width(self) -> int:
        """The numbers of a patch that cross-attention reads: its feature, or its key and value where
        all layers share them."""
        return 2 * self.language.kv_width if self.shares_kv else self.vision.width

    def feature_bytes(self, size: int, bits: int | None) -> int:
        """Bytes that are kept of a patch for cross-attention; size: of a number that is not packed."""
        if bits is None:
            return self.feature_width * size
        return packed_width(self.feature_width, 2 if self.shares_kv else 1)

    @property
    def reads_features(self) -> bool:
        return self.open_v2v + self.open_t2v > 0

    def with_interval(self, interval: int) -> "ModelShape":
        """The same model with a cross-attention layer after every `interval`-th layer, all open."""
        if interval < 1:
            raise UsageError(f"`interval` {interval}: give a whole number from 1")
        changed = replace(self, interval=interval)
        return replace(changed, open_v2v=changed.cross_layers, open_t2v=changed.cross_layers)

    def with_gates(self, gates: Iterable[Gate]) -> "ModelShape":
        """The same model with the branches counted whose gate is open."""
        opened = [gate.branch for gate in gates if gate.is_open]
        return replace(self, open_v2v=opened.count("v2v"), open_t2v=opened.count("t2v"))

    def unmerged(self) -> "ModelShape":
        """The same model with every patch a token of the language model, and no cross-attention."""
        return replace(
            self, tokens_per_frame=self.vision.patches, interval=None, open_v2v=0, open_t2v=0
        )

    def check_budget(self, budget: TokenBudget | None) -> TokenBudget:
        """The tokens to count with, the model's own where none are given. Raises UsageError."""
        if budget is None:
            return TokenBudget(self.tokens_per_frame)
        check_tokens_per_frame(budget.pooled, self.vision.patches, error=UsageError)
        return budget

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """From the contents of a `config.json` of model_type crosslmm or llava_onevision.

        Gates are not in a configuration: all are taken to be open. A LLaVA-OneVision checkpoint is
        taken as crosslmm runs it, with closed gates. Raises CheckpointError.
        """
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise CheckpointError(
                f"model_type {kind!r}: the cost of {' and '.join(MODEL_TYPES)} can be counted"
            )
        try:
            shape = cls._from_crosslmm(config) if kind == CROSSLMM else cls._from_llava(config)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"a configuration without a usable {error}") from error
        for part in (shape.vision, shape.language, shape):
            _check_kinds(part)
        return shape

    @classmethod
    def _from_crosslmm(cls, config: Mapping[str, Any]) -> "ModelShape":
        vision = VisionShape.from_config(config.get("vision_config") or _SO400M)
        language = LanguageShape.from_config(config.get("text_config") or QWEN25_1_5B)
        interval = config.get("cross_attention_interval", 4)
        count = language.layers // interval
        return cls(
            vision=vision,
            language=language,
            vision_layers=vision.layers + 1 + config.get("vision_feature_layer", -1),
            tokens_per_frame=config.get("tokens_per_frame", 9),
            interval=interval,
            open_v2v=count,
            open_t2v=count,
            cross_kv=config.get("cross_kv", "per_layer"),
            v2v_scope=config.get("v2v_scope", "video"),
            t2v_cache=config.get("t2v_cache", "features"),
            t2v_frames=config.get("t2v_frames"),
            projector_order=config.get("projector_order", "merge_first"),
            projector_bias=config.get("projector_bias", True),
            newline=config.get("video_newline", False),
            dtype=_dtype(config),
        )

    @classmethod
    def _from_llava(cls, config: Mapping[str, Any]) -> "ModelShape":
        vision = VisionShape.from_config(config.get("vision_config") or _SO400M)
        language = LanguageShape.from_config(config.get("text_config") or {})
        side = isqrt(vision.patches)
        return cls(
            vision=vision,
            language=language,
            vision_layers=vision.layers + 1 + int(config.get("vision_feature_layer", -1)),
            tokens_per_frame=((side + 1) // 2) ** 2,
            interval=4,
            open_v2v=0,
            open_t2v=0,
            projector_order="project_first",
            projector_bias=config.get("multimodal_projector_bias", True),
            newline=True,
            dtype=_dtype(config),
        )


def _check_kinds(part: Any) -> None:
    """CheckpointError for a value of another kind than its field, or a number that no model has."""
    for name, hint in get_type_hints(type(part)).items():
        value = getattr(part, name)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if value is None and type(None) in get_args(hint):
            continue
        least = 0 if name.startswith("open_") else 1
        if choices:
            is_right = isinstance(value, str) and value in choices
        elif hint in (int, int | None):
            is_right = type(value) is int and least <= value <= _MOST
        else:
            is_right = isinstance(value, hint)
        if not is_right:
            raise CheckpointError(f"a configuration whose {name} is {str(value)[:40]!r}")


def _dtype(config: Mapping[str, Any]) -> str:
    named = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    return str(named).removeprefix("torch.")


def _qwen(
    width: int, intermediate: int, layers: int, heads: int, kv: int, vocabulary: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


QWEN25_1_5B = _qwen(1536, 8960, 28, 12, 2, 151936, True)
QWEN25_7B = _qwen(3584, 18944, 28, 28, 4, 152064, False)
# The peers' vocabularies carry two placeholder tokens and are padded to a multiple of 64.
QWEN2_0_5B_PADDED = _qwen(896, 4864, 24, 14, 2, 152000, True)
QWEN2_7B_PADDED = QWEN25_7B | {"vocab_size": 152128}


def _llava(text_config: Mapping[str, Any]) -> ModelShape:
    return ModelShape.from_config({"model_type": LLAVA_ONEVISION, "text_config": text_config})


# The published checkpoints by Hub id, as crosslmm runs them.
PUBLISHED: dict[str, ModelShape] = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _llava(QWEN2_0_5B_PADDED),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _llava(QWEN2_7B_PADDED),
}


def _peer(shape: ModelShape) -> ModelShape:
    """LLaVA-OneVision as transformers runs it: 196 tokens per frame, all frames encoded at once."""
    return replace(shape, interval=None, chunked=False)


RECIPES: dict[str, ModelShape] = {
    "crosslmm-2b": ModelShape.from_config({"model_type": CROSSLMM, "text_config": QWEN25_1_5B}),
    "crosslmm-7b": ModelShape.from_config({"model_type": CROSSLMM, "text_config": QWEN25_7B}),
    "llava-onevision-0.5b": _peer(_llava(QWEN2_0_5B_PADDED)),
    "llava-onevision-7b": _peer(_llava(QWEN2_7B_PADDED)),
}
