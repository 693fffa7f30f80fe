"""CrossLMM: a language model that reads merged tokens and, by gated cross-attention, the features
(un-pooled visual features) that they were merged from (arXiv 2505.17020).

The language model is the library's own, unmodified: its decoder layers are called one after another
and a dual cross-attention layer follows every K-th. Names of weights are LLaVA-OneVision's wherever
both models have the part, so that its checkpoints load as they are.

Legend: B batch, T frames, N patches per frame (un-pooled), M merged tokens per frame, L sequence
length, D vision width, H language-model width, K interval. With shared keys and values D is their
common width wherever cross-attention reads features.
"""

from typing import Any, Unpack, cast

import torch
from torch import nn
from transformers import (
    AutoModel,
    GenerationMixin,
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
)
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from crosslmm.auto import register_models
from crosslmm.cache import CrossCache, as_dual_cache, keep_features
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cross_attention import CrossInputs, DualCrossAttentionLayer
from crosslmm.frame_choice import FrameChoice
from crosslmm.gated_attention import GatedCrossAttention
from crosslmm.norm import RMSNorm
from crosslmm.positions import shift_positions
from crosslmm.precision import skip_all_but_decoder
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.token_mass import join_mass, log_mass, make_masks
from crosslmm.v2v_scopes import CompleteVideo, VisualScope, make_scope
from crosslmm.vision import Projector, SharedKeyValues
from crosslmm.visual_encoding import VisualEncoderMixin, VisualFeaturesMixin
from crosslmm.visual_tokens import (
    TokenPositions,
    VisualTokens,
    find_placeholders,
    insert_merged,
    patch_counts,
    patch_mask,
)


class CrossLMMPreTrainedModel(VisualFeaturesMixin, PreTrainedModel):
    config: CrossLMMConfig
    base_model_prefix = "model"
    input_modalities = ["video", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["DualCrossAttentionLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _can_compile_fullgraph = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # What can be asked for; the language model, any of several, says which of its modules give it.
    _can_record_outputs = {"hidden_states": "DecoderLayer", "attentions": "Attention"}  # noqa: RUF012

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: `_init_weights` leaves loaded weights alone, as the library's own classes do. Custom
        code is not trusted to, and would not get the weights of missing encoder layers right."""
        return False

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; of a quantized model, all but the decoder keeps its precision."""
        kwargs["quantization_config"] = skip_all_but_decoder(kwargs.get("quantization_config"))
        return super().from_pretrained(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CrossLMMModel) and module.image_newline is not None:
            init.normal_(module.image_newline, std=self.config.text.hidden_size**-0.5)
        elif isinstance(module, GatedCrossAttention):
            init.zeros_(module.gate)


class CrossLMMModel(CrossLMMPreTrainedModel, VisualEncoderMixin):
    """Vision tower, merging, projector, decoder layers and dual cross-attention; no head."""

    _tp_plan = {  # the language model has its own
        "multi_modal_projector.linear_1": "colwise",
        "multi_modal_projector.linear_2": "rowwise",
    } | {
        f"cross_attention_layers.*.{branch}.{name}": "rowwise" if name == "o_proj" else "colwise"
        for branch in ("v2v", "t2v")
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }

    def __init__(self, config: CrossLMMConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision)
        self.multi_modal_projector = Projector(config)
        self.image_newline = (
            nn.Parameter(torch.empty(config.text.hidden_size)) if config.video_newline else None
        )
        self.language_model = AutoModel.from_config(config.text)
        width = int(config.vision.hidden_size)
        self.feature_norm = RMSNorm(width)
        shared = config.cross_kv == "shared"
        self.cross_attention_kv = SharedKeyValues(config) if shared else None
        read_width = None if shared else width
        self.cross_attention_layers = nn.ModuleDict(
            {
                str(decoder_layer): DualCrossAttentionLayer(config.text, read_width, index)
                for index, decoder_layer in enumerate(config.cross_attention_layers)
            }
        )
        self.post_init()
        for branch in ("v2v", "t2v") if shared else ():  # which then has no such projections
            for name in ("k_proj", "v_proj"):
                self._tp_plan.pop(f"cross_attention_layers.*.{branch}.{name}")

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    @merge_with_config_defaults
    def forward(  # type: ignore[misc]  # transformers' TypedDict repeats `position_ids`
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_frame_mask: torch.Tensor | None = None,
        visual_tokens: VisualTokens | RaggedTokens | None = None,
        merge: str | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """One pass through the decoder.

        - input_ids: (B, L), with `video_token_id` at the positions of the merged tokens; or
          inputs_embeds (B, L, H), with its embedding there.
        - pixel_values_videos: (B, T, 3, S, S), or `visual_tokens` already made from them; only with
          the placeholders they belong to: decoding reads the cache.
        - video_frame_mask: (B, T), 1 = a real frame, 0 = padding after a shorter video.
        - merge: how a video's tokens become as many as it has placeholders, where these are not a square
          number for each frame: a method of `crosslmm.merging.MERGERS`.
        - attention_mask: (B, L), 1 = attend.
        - position_ids: (B, L), the index of each token in its row; where frames take another number of
          tokens than trained, `positions.py` makes positions of them.

        Raises ValueError where placeholders and frames do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if video_frame_mask is not None:
            video_frame_mask = video_frame_mask.bool()
        visual = text = features = shift = following = mass = None
        scope: VisualScope = CompleteVideo()
        if pixel_values_videos is not None or visual_tokens is not None:
            is_placeholder = find_placeholders(
                self.config.video_token_id, self.get_input_embeddings(), input_ids, inputs_embeds
            )
            if visual_tokens is None:
                assert pixel_values_videos is not None
                visual_tokens = self.encode_for(
                    is_placeholder, pixel_values_videos, video_frame_mask, merge
                )
            inputs_embeds, is_merged = insert_merged(
                visual_tokens,
                self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds,
                is_placeholder,
                self.image_newline,
            )
            if (shifts := shift_positions(self.config, visual_tokens, is_merged)) is not None:
                shift, following = shifts.tokens, shifts.following
            mass = log_mass(visual_tokens, is_merged)
            features, video_frame_mask = visual_tokens.features, visual_tokens.frame_mask
            if features is not None:
                counts = is_merged.sum(dim=1)
                visual = TokenPositions(is_merged, visual_tokens.longest)
                text = TokenPositions(~is_merged, int(is_merged.shape[1] - counts.min()))
                if visual_tokens.longest:
                    scope = make_scope(visual_tokens, self.config.v2v_scope)
        elif inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        assert inputs_embeds is not None

        self_cache, cross_cache = None, None
        if self.training and past_key_values is None:
            use_cache = False  # a training step would only fill it
        if use_cache:
            past_key_values = as_dual_cache(past_key_values, self.config)
            self_cache = past_key_values.self_attention_cache
            cross_cache = cast(CrossCache, past_key_values.cross_attention_cache)
            if visual_tokens is not None and visual_tokens.is_start and cross_cache.layers:
                if past_key_values.get_seq_length() > 0:
                    raise ValueError(
                        "the cache already holds a video; give a new cache with another video"
                    )
                cross_cache.layers = []
            if visual_tokens is None:
                shift, mass = cross_cache.shift, cross_cache.mass
            else:
                mass = join_mass(cross_cache.mass, mass, self_cache)
                cross_cache.shift, cross_cache.mass = following, mass
            if features is not None and self.shares_features:
                keep_features(cross_cache, features)
            if self.config.t2v_frames is not None and cross_cache.choice is None:
                patches = self.config.patches_per_frame
                cross_cache.choice = FrameChoice(self.config.t2v_frames, patches)
        elif past_key_values is not None:
            raise ValueError("past_key_values needs use_cache=True")

        cross = CrossInputs(
            features,
            scope,
            patch_mask(video_frame_mask, self.config),
            visual,
            text,
            cross_cache,
            patch_counts(video_frame_mask, self.config),
        )
        outputs = self._decode(
            inputs_embeds,
            attention_mask,
            position_ids,
            self_cache,
            cross,
            shift=shift,
            mass=mass,
            use_cache=bool(use_cache),
            **kwargs | {"return_dict": True},
        )
        outputs.past_key_values = past_key_values if use_cache else None
        return outputs

    # Only the decoder's hidden states are recorded on request, so the encoder runs outside of it.
    @capture_outputs
    def _decode(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None,
        position_ids: torch.LongTensor | None,
        self_cache: Cache | None,
        cross: CrossInputs,
        *,
        shift: torch.Tensor | None = None,
        mass: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The language model's layers, a dual cross-attention layer after every K-th. → (B, L, H)"""
        language_model = self.language_model
        positions: torch.Tensor | None = position_ids
        if positions is None:
            past = 0 if self_cache is None else self_cache.get_seq_length()
            positions = torch.arange(hidden_states.shape[1], device=hidden_states.device) + past
            positions = positions[None]
        masks = make_masks(
            self.config.text, hidden_states, attention_mask, self_cache, positions, mass
        )
        layer_types: Any = getattr(self.config.text, "layer_types", None)
        # Masks, and flash attention, tell sequences packed into one row by indices that do not go on.
        rotary = positions if shift is None else positions + shift.to(positions.device)
        position_embeddings = language_model.rotary_emb(hidden_states, rotary)
        reads_video = cross.features is not None or cross.cached
        for index, layer in enumerate(language_model.layers):
            hidden_states = layer(
                hidden_states,
                attention_mask=masks[layer_types[index]] if isinstance(masks, dict) else masks,
                position_ids=positions,
                past_key_values=self_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
            if reads_video and str(index) in self.cross_attention_layers:
                hidden_states = self.cross_attention_layers[str(index)](
                    hidden_states,
                    cross.features,
                    scope=cross.scope,
                    frame_mask=cross.patch_mask,
                    visual=cross.visual,
                    text=cross.text,
                    cross_cache=cross.cache,
                    cache_features=self.config.t2v_cache == "features",
                    patch_counts=cross.patch_counts,
                )
        return BaseModelOutputWithPast(last_hidden_state=language_model.norm(hidden_states))


class CrossLMMForConditionalGeneration(CrossLMMPreTrainedModel, GenerationMixin):
    """CrossLMM with its language-model head: `model.generate(**processor(...))` answers."""

    _tied_weights_keys = {  # noqa: RUF012
        "lm_head.weight": "model.language_model.embed_tokens.weight"
    }
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: CrossLMMConfig) -> None:
        super().__init__(config)
        self.model = CrossLMMModel(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # transformers' TypedDict repeats `position_ids`
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_frame_mask: torch.Tensor | None = None,
        visual_tokens: VisualTokens | RaggedTokens | None = None,
        merge: str | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """As `CrossLMMModel.forward`, with logits (B, L, vocabulary), and a loss where labels are given.

        labels: (B, L), -100 where there is none. logits_to_keep: only the last so many positions (0
        means all), or the positions themselves.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            video_frame_mask=video_frame_mask,
            visual_tokens=visual_tokens,
            merge=merge,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs | {"return_dict": True},
        )
        kept = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = self.lm_head(kept)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, *args, **kwargs
        )
        cache = model_kwargs.get("past_key_values")
        # Prefix tuning (PEFT) puts its own in the place of an empty cache that grows, and of no other;
        # around that one `forward` makes the pair.
        if isinstance(cache, Cache) and type(cache) is not DynamicCache:
            model_kwargs["past_key_values"] = as_dual_cache(cache, self.config)

    def _get_logits_processor(
        self, *args: Any, device: str | None = None, **kwargs: Any
    ) -> LogitsProcessorList:
        processors = super()._get_logits_processor(  # type: ignore[misc]
            *args, device=device, **kwargs
        )
        # An answer holds no video; a candidate from the prompt (`prompt_lookup_num_tokens`) might.
        processors.append(
            SuppressTokensLogitsProcessor([self.config.video_token_id], device=device or "cpu")
        )
        return processors


register_models(CrossLMMConfig, CrossLMMModel, CrossLMMForConditionalGeneration)
