"""The configuration of a CrossLMM: a vision encoder, a language model, and what joins them.

Defaults are the paper's CrossLMM-2B: SigLIP2 so400m at 384 pixels cut to 26 layers, Qwen2.5-1.5B,
9 merged tokens per frame, and a dual cross-attention layer after every 4th decoder layer.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from crosslmm.auto import register_config
from crosslmm.limits import DEFAULT_FRAMES
from crosslmm.merging import POOLINGS, check_tokens_per_frame
from crosslmm.options import CrossKV, ProjectorOrder, T2VCache, V2VScope


@strict
class CrossLMMConfig(PreTrainedConfig):
    """Configuration of `CrossLMMForConditionalGeneration`.

    - `tokens_per_frame`: merged tokens per frame that the weights were trained with, a perfect
      square. Any other perfect square can be chosen at run time; the processor does.
    - `merge_mode`: how tokens are merged, a name in `crosslmm.merging.POOLINGS`: `area` averages;
      `bilinear` samples (for checkpoints trained so), and to any other number than the trained one
      averages too.
    - `projector_order`: merge before projecting (the paper) or after (LLaVA-OneVision).
    - `vision_feature_layer`: which encoder output is read, negative, -1 the last layer's.
    - `video_newline`: one learned embedding stands after the last merged token (LLaVA-OneVision).
    - `cross_attention_interval`: K; a dual cross-attention layer follows layers K, 2K, …
    - `cross_kv`: keys and values of the features are projected by each branch of each layer
      (`per_layer`, the paper), or once for all of them (`shared`).
    - `v2v_scope`: merged tokens read the features (un-pooled visual features) of the whole `video`
      (the paper), of the frames up to their own (`past`), of their own `frame`, or of the patches that
      they stand for (`member`); the last two are linear in the number of frames.
    - `t2v_cache`: for decoding keep the one shared copy of the `features`, or each layer's
      keys and values `projected` from it (several times the memory, less arithmetic per token). Shared
      keys and values are kept in place of the features, with no copy for each layer.
    - `t2v_frames`: for each token that is decoded T2V reads only so many frames, those that the end of
      the prompt attends to most; None for all.
    - `default_frames`: frames of a video when no number is given.
    """

    model_type = "crosslmm"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    attribute_map = {"video_token_index": "video_token_id"}  # noqa: RUF012
    sub_configs_defaults = {  # noqa: RUF012
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "patch_size": 14,
                "image_size": 384,
                "num_hidden_layers": 26,
                "num_attention_heads": 16,
                "vision_use_head": False,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="qwen2",
            init_kwargs={
                "hidden_size": 1536,
                "intermediate_size": 8960,
                "num_hidden_layers": 28,
                "num_attention_heads": 12,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            },
        ),
    }

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    video_token_id: int = 151647
    tokens_per_frame: int = 9
    merge_mode: str = "area"
    projector_order: ProjectorOrder = "merge_first"
    projector_hidden_act: str = "gelu"
    projector_bias: bool = True
    vision_feature_layer: int = -1
    video_newline: bool = False
    cross_attention_interval: int = 4
    cross_kv: CrossKV = "per_layer"
    v2v_scope: V2VScope = "video"
    t2v_cache: T2VCache = "features"
    t2v_frames: int | None = None
    default_frames: int = DEFAULT_FRAMES
    use_cache: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # The one source of truth is the language model's own configuration.
        self.tie_word_embeddings = bool(self.text.tie_word_embeddings)

    @property
    def vision(self) -> PreTrainedConfig:
        assert isinstance(self.vision_config, PreTrainedConfig)
        return self.vision_config

    @property
    def text(self) -> PreTrainedConfig:
        assert isinstance(self.text_config, PreTrainedConfig)
        return self.text_config

    @property
    def context(self) -> int:
        """Tokens that the language model was made for, in all."""
        return int(self.text.max_position_embeddings)

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers: as many hidden states can be asked for, and the embeddings."""
        return int(self.text.num_hidden_layers)

    @property
    def patch_grid(self) -> int:
        """Patches along one side of a frame."""
        return int(self.vision.image_size) // int(self.vision.patch_size)

    @property
    def patches_per_frame(self) -> int:
        """N, the features of a frame, one for each patch."""
        return self.patch_grid**2

    @property
    def feature_width(self) -> int:
        """The numbers of a patch that cross-attention reads: those of its feature, or of its key and
        value where these are shared."""
        if self.cross_kv == "per_layer":
            return int(self.vision.hidden_size)
        text = self.text
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * int(text.num_key_value_heads) * int(head_dim)

    @property
    def vision_layers(self) -> int:
        """Encoder layers that are computed, after `vision_feature_layer`."""
        return int(self.vision.num_hidden_layers) + 1 + self.vision_feature_layer

    @property
    def cross_attention_layers(self) -> list[int]:
        """Decoder layers (counted from zero) that a dual cross-attention layer follows."""
        interval = self.cross_attention_interval
        return list(range(interval - 1, int(self.text.num_hidden_layers), interval))

    def merge_mode_for(self, tokens_per_frame: int) -> str:
        """The merging method for so many tokens, which need not be the trained number."""
        trained = tokens_per_frame == self.tokens_per_frame
        return "area" if self.merge_mode == "bilinear" and not trained else self.merge_mode

    def validate_architecture(self) -> None:
        """Called by transformers after construction; raises ValueError."""
        super().validate_architecture()
        check_tokens_per_frame(self.tokens_per_frame, self.patches_per_frame)
        if self.merge_mode not in POOLINGS:
            raise ValueError(f"merge_mode={self.merge_mode!r} is not one of {', '.join(POOLINGS)}")
        if self.t2v_frames is not None and self.t2v_frames < 1:
            raise ValueError(f"t2v_frames={self.t2v_frames} is not a number of frames from 1")
        if self.cross_kv == "shared" and self.t2v_cache != "features":
            raise ValueError(
                f"t2v_cache={self.t2v_cache!r} keeps keys and values of each layer, and with "
                "cross_kv='shared' all layers have the same: it must be 'features'"
            )
        layers = int(self.text.num_hidden_layers)
        if not 1 <= self.cross_attention_interval <= layers:
            raise ValueError(
                f"cross_attention_interval={self.cross_attention_interval} is not between 1 and "
                f"{layers}, the language model's layers"
            )
        if not -self.vision.num_hidden_layers <= self.vision_feature_layer <= -1:
            raise ValueError(
                f"vision_feature_layer={self.vision_feature_layer} does not name one of the "
                f"{self.vision.num_hidden_layers} encoder layers (-1 is the last)"
            )


register_config(CrossLMMConfig)
