"""From pixels to visual tokens: how `CrossLMMModel` encodes videos, and how transformers' users ask
any CrossLMM for what it makes of them."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cross_attention import DualCrossAttentionLayer
from crosslmm.limits import FRAMES_PER_CHUNK, packed_width
from crosslmm.merging import MERGERS, MergedTokens, check_merging, pool_tokens
from crosslmm.norm import RMSNorm
from crosslmm.packed_features import pack_features
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.vision import (
    FrameBuffer,
    Projector,
    SharedKeyValues,
    encode_frames,
    scatter_frames,
)
from crosslmm.visual_tokens import (
    VisualTokens,
    count_merged,
    count_tokens_per_frame,
    frames_per_row,
)
from crosslmm.window_merging import WindowMerger


class VisualEncoderMixin:
    """The half of `CrossLMMModel` that sees: vision tower, merging, projector."""

    config: CrossLMMConfig
    vision_tower: nn.Module
    multi_modal_projector: Projector
    feature_norm: RMSNorm
    cross_attention_kv: SharedKeyValues | None
    cross_attention_layers: nn.ModuleDict

    frames_per_chunk = FRAMES_PER_CHUNK
    # 8 packs what cross-attention reads as soon as a chunk is encoded; nothing is trained through that.
    feature_bits: int | None = None

    @property
    def dual_layers(self) -> Iterable[DualCrossAttentionLayer]:
        return cast(Iterable[DualCrossAttentionLayer], self.cross_attention_layers.values())

    @property
    def reads_features(self) -> bool:
        """Whether any cross-attention branch is open and needs the features."""
        return any(layer.v2v.is_open or layer.t2v.is_open for layer in self.dual_layers)

    @property
    def shares_features(self) -> bool:
        """Whether all layers' T2V reads the features themselves, which the cache then holds."""
        branches = (layer.t2v for layer in self.dual_layers)
        return self.config.t2v_cache == "features" and any(branch.is_open for branch in branches)

    def encode_frames(
        self,
        pixel_values: torch.Tensor,
        tokens_per_frame: int,
        *,
        keep_features: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode single frames, in chunks of `frames_per_chunk`.

        pixel_values: (F, 3, S, S) normalised. Returns the merged and projected tokens (F, M, H) and
        what cross-attention reads of them (F, N, D), the latter None unless it is to be kept: by
        default where something reads it.
        """
        if keep_features is None:
            keep_features = self.reads_features
        chunks = encode_frames(
            self.vision_tower, pixel_values, self.config.vision_layers, self.frames_per_chunk
        )
        embeds = FrameBuffer(len(pixel_values))
        features = FrameBuffer(len(pixel_values))
        for chunk in chunks:
            embeds.add(self.merge_features(chunk, tokens_per_frame))
            if keep_features:
                features.add(self.pack(self.prepare_features(chunk)))
        return embeds.joined(), features.joined() if keep_features else None

    def prepare_features(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., D) as the encoder gives them → as cross-attention reads them: normalised, or
        their shared keys and values (..., 2 · kv_heads · head_dim)"""
        features = self.feature_norm(features)
        return features if self.cross_attention_kv is None else self.cross_attention_kv(features)

    def pack(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., D) as they are kept: packed (..., P) where `feature_bits` says so."""
        if self.feature_bits is None:
            return features
        return pack_features(features, self.feature_scales)

    @property
    def kept_features(self) -> tuple[int, torch.dtype]:
        """The numbers that are kept of a patch for cross-attention, and their type."""
        width = self.config.feature_width
        if self.feature_bits is None:
            return width, self.feature_norm.weight.dtype
        return packed_width(width, self.feature_scales), torch.int8

    @property
    def feature_scales(self) -> int:
        """Of a packed feature: one, or those of its key and value."""
        return 1 if self.cross_attention_kv is None else 2

    def merge_features(self, features: torch.Tensor, tokens_per_frame: int) -> torch.Tensor:
        """Features of frames (F, N, D), not normalised → merged and projected tokens (F, M, H)"""
        mode = self.config.merge_mode_for(tokens_per_frame)
        if self.config.projector_order == "merge_first":
            return self.multi_modal_projector(pool_tokens(features, tokens_per_frame, mode))
        return pool_tokens(self.multi_modal_projector(features), tokens_per_frame, mode)

    def encode_video(
        self,
        pixel_values_videos: torch.Tensor,
        tokens_per_frame: int,
        frame_mask: torch.Tensor | None = None,
        *,
        keep_features: bool | None = None,
    ) -> VisualTokens:
        """Encode a batch of videos: pixel_values_videos (B, T, 3, S, S), frame_mask (B, T)."""
        batch, frames = pixel_values_videos.shape[:2]
        if frame_mask is not None and bool(frame_mask.all()):
            frame_mask = None
        # Padding frames are not encoded; their positions stay zero.
        real = frame_mask
        if real is None:
            real = pixel_values_videos.new_ones(batch, frames, dtype=torch.bool)
            pixels = pixel_values_videos.flatten(0, 1)
        else:
            pixels = pixel_values_videos[real]
        embeds, features = self.encode_frames(pixels, tokens_per_frame, keep_features=keep_features)
        return VisualTokens(
            embeds=scatter_frames(embeds, real),
            features=None if features is None else scatter_frames(features, real),
            frame_mask=frame_mask,
        )

    def encode_ragged(
        self,
        pixel_values_videos: torch.Tensor,
        counts: Sequence[int],
        merge: str,
        frame_mask: torch.Tensor | None = None,
        *,
        keep_features: bool | None = None,
    ) -> RaggedTokens:
        """As `encode_video`, each video merged to so many tokens by a method of `MERGERS`."""
        pooled = self.config.tokens_per_frame
        visual = self.encode_video(
            pixel_values_videos, pooled, frame_mask, keep_features=keep_features
        )
        return merge_video(visual, counts, merge)

    def encode_for(
        self,
        is_placeholder: torch.Tensor,
        pixel_values_videos: torch.Tensor,
        frame_mask: torch.Tensor | None,
        merge: str | None,
    ) -> VisualTokens | RaggedTokens:
        """As many tokens as the prompts have placeholders for, (B, L). Raises ValueError where these do
        not fit the videos, and for an unknown method."""
        if len(pixel_values_videos) != len(is_placeholder):
            raise ValueError(
                f"{len(pixel_values_videos)} videos were given for {len(is_placeholder)} prompts"
            )
        frames = frames_per_row(pixel_values_videos, frame_mask)
        if merge is None:
            tokens_per_frame = count_tokens_per_frame(self.config, is_placeholder, frames)
            return self.encode_video(pixel_values_videos, tokens_per_frame, frame_mask)
        check_merging(merge=merge, methods=MERGERS)
        counts = count_merged(self.config, is_placeholder, frames)
        return self.encode_ragged(pixel_values_videos, counts, merge, frame_mask)


def merge_video(visual: VisualTokens, counts: Sequence[int], merge: str) -> RaggedTokens:
    """Videos with all tokens of their frames, each merged to so many by a method of `MERGERS`."""
    return join_merged(visual, merge_rows(visual, counts, merge))


def merge_rows(
    visual: VisualTokens, counts: Sequence[int], merge: str
) -> list[MergedTokens | None]:
    """What a method of `MERGERS` makes of each row; None of one without a video."""
    merged: list[MergedTokens | None] = []
    frames = _frames(visual)
    for row, (count, used) in enumerate(zip(counts, frames, strict=True)):
        if not used:
            merged.append(None)
            continue
        mask = visual.frame_mask
        tokens = visual.embeds[row] if mask is None else visual.embeds[row][mask[row]]
        windows = WindowMerger(merge, frames=used, budget=count)
        windows.add(tokens)
        merged.append(windows.finish())
    return merged


def join_merged(visual: VisualTokens, merged: Sequence[MergedTokens | None]) -> RaggedTokens:
    """`visual` with these tokens in place of its own."""
    _, _, pooled, width = visual.embeds.shape
    return RaggedTokens.of(
        merged,
        frames=_frames(visual),
        pooled=pooled,
        width=width,
        features=visual.features,
        frame_mask=visual.frame_mask,
    )


def _frames(visual: VisualTokens) -> list[int]:
    rows, longest = visual.embeds.shape[:2]
    mask = visual.frame_mask
    return [longest] * rows if mask is None else [int(row.sum()) for row in mask]


class VisualFeaturesMixin:
    """What a CrossLMM makes of videos and images, given out as transformers' other models do."""

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_frame_mask: torch.Tensor | None = None,
        *,
        tokens_per_frame: int | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """The merged tokens and the features of videos, (B, T, 3, S, S).

        - pooler_output: (B, T·M, H), the merged tokens; zeros at padding frames.
        - last_hidden_state: (B, T, N, D), the normalised features that cross-attention reads, or their
          keys and values where all layers share them; packed where `feature_bits` says so.
        - hidden_states, attentions: of the vision tower, for (B·T) frames, where asked for.
        """
        model: Any = self.base_model  # type: ignore[attr-defined]
        asked = {
            "output_hidden_states": output_hidden_states,
            "output_attentions": output_attentions,
        }
        asked = {
            name: getattr(model.config, name) if value is None else value
            for name, value in asked.items()
        }
        visual = model.encode_video(
            pixel_values_videos,
            tokens_per_frame or model.config.tokens_per_frame,
            None if video_frame_mask is None else video_frame_mask.bool(),
            keep_features=True,
        )
        outputs = BaseModelOutputWithPooling(
            last_hidden_state=visual.features, pooler_output=visual.embeds.flatten(1, 2)
        )
        if any(asked.values()):
            # Encoding in chunks keeps nothing but the last; who wants more pays for another pass.
            recorded = model.vision_tower(pixel_values_videos.flatten(0, 1), **asked)
            outputs.hidden_states = recorded.hidden_states
            outputs.attentions = recorded.attentions
        return outputs

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """pixel_values (B, 3, S, S) → as `get_video_features` of one frame: (B, M, H), (B, N, D)"""
        outputs = self.get_video_features(pixel_values[:, None], **kwargs | {"return_dict": True})
        outputs.last_hidden_state = outputs.last_hidden_state[:, 0]
        return outputs
