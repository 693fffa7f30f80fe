"""What a merged token counts in the language model's attention: as often as the tokens it stands for.

The logarithm of their number is added to its attention logits, for every query and head, as if each of
them were there with the same key and value (Bolya et al., 2023, "proportional attention"). It goes
into the mask, which flash attention has none of.

Legend: S keys, of the tokens before and of this pass; others as in `modeling_crosslmm.py`.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate

from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.visual_tokens import VisualTokens

_MASKLESS = ("flash", "flex")  # kernels that take no mask of numbers


def log_mass(visual: VisualTokens | RaggedTokens, is_merged: torch.Tensor) -> torch.Tensor | None:
    """(B, L), of a pass that holds merged tokens; None where every token stands for itself.

    is_merged: (B, L), True at the merged tokens.
    """
    if not isinstance(visual, RaggedTokens) or visual.all_counts == visual.all_places:
        return None
    mass = torch.zeros(is_merged.shape, device=is_merged.device)
    mass[is_merged] = visual.mass.to(mass.device).log()
    return mass


def join_mass(
    before: torch.Tensor | None, mass: torch.Tensor | None, cache: Cache
) -> torch.Tensor | None:
    """(B, S), what is known of the tokens in the `cache`, and of those of this pass."""
    past = cache.get_seq_length()
    if mass is None:
        return before if past else None
    joined = mass.new_zeros(len(mass), past)
    if before is not None:
        known = min(before.shape[1], past)
        joined[:, :known] = before[:, :known]
    return torch.cat([joined, mass], dim=1)


def make_masks(
    config: PreTrainedConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | dict[str, torch.Tensor] | None,
    cache: Cache | None,
    positions: torch.Tensor,
    mass: torch.Tensor | None,
) -> Any:
    """What the language model's layers take as masks, by the kind of layer where there are several.

    hidden_states: (B, L, H); attention_mask as in `CrossLMMModel.forward`; mass: (B, S) or shorter,
    where all tokens after it stand for themselves. Raises ValueError for one where the attention kernel
    takes no mask of numbers.
    """
    masks: Any = attention_mask
    if not isinstance(masks, dict):  # `generate` may have made them, for a static cache
        masks = create_masks_for_generate(
            config=config,
            inputs_embeds=hidden_states,
            attention_mask=masks,
            past_key_values=cache,
            position_ids=positions,
        )
    if mass is None:
        return masks
    if any(kernel in config._attn_implementation for kernel in _MASKLESS):
        raise ValueError(
            f"`merge` needs attn_implementation sdpa or eager, not {config._attn_implementation}: "
            "a merged token counts as often as what it stands for"
        )
    if not isinstance(masks, dict):
        return _weigh(masks, mass, hidden_states, cache, 0)
    layers = list(config.layer_types)
    return {
        kind: mask
        if kind == "linear_attention"
        else _weigh(mask, mass, hidden_states, cache, layers.index(kind))
        for kind, mask in masks.items()
    }


def _weigh(
    mask: torch.Tensor | None,
    mass: torch.Tensor,
    hidden_states: torch.Tensor,
    cache: Cache | None,
    layer: int,
) -> torch.Tensor:
    """The mask (B, 1, L, keys) of a layer, None for a causal one, with the log mass of keys added."""
    dtype, device, queries = hidden_states.dtype, hidden_states.device, hidden_states.shape[1]
    past = 0 if cache is None else cache.get_seq_length()
    total = past + queries
    if mask is None:
        keys = total if cache is None else int(cache.get_mask_sizes(queries, layer)[0])
        index = torch.arange(keys, device=device)
        mask = index[past:total, None] >= index
    keys = mask.shape[-1]
    added = torch.nn.functional.pad(mass, (0, max(keys, total) - mass.shape[1]))
    # A sliding window holds the last keys only.
    added = added[:, None, None, added.shape[1] - keys :].to(device, dtype)
    if mask.dtype == torch.bool:
        return torch.where(mask, added, torch.finfo(dtype).min)
    return mask + added
