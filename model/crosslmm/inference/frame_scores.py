"""Which frames a question points to: what its words attend to in the video, before anything is said.

Something short fills a few patches of a few frames, so the most that any word gives to any patch of a
frame is what counts: means over a frame drown it (docs/needles.md).
"""

from typing import Any

import numpy as np
import torch

from crosslmm.errors import UsageError
from crosslmm.inference.attention import observe_self_attention, observe_text_to_visual
from crosslmm.inference.evidence import LAST_LAYERS, TokenLayout
from crosslmm.inference.prefix import VideoPrefix
from crosslmm.inference.runtime import Runtime
from crosslmm.limits import PREFILL_TOKENS


@torch.inference_mode()
def score_frames(
    runtime: Runtime, prefix: VideoPrefix, layout: TokenLayout, prompt_ids: torch.Tensor
) -> np.ndarray:
    """(T,), which sum to 1. prompt_ids: (1, L), of the complete prompt with the question.

    By T2V attention where its gates are open, else by the language model's own to the merged tokens.
    Raises UsageError where the model's attention cannot be seen.
    """
    model = runtime.model
    columns = layout.columns(prefix.ids[0], model.config.video_token_id)
    length = len(prefix)  # of all tokens so far
    own: dict[int, Any] = {}
    cross: dict[int, Any] = {}

    def note(found: dict[int, Any], layer: int, cells: torch.Tensor) -> None:
        """cells: (rows, T, cells)"""
        most = cells.amax(dim=(0, 2)).cpu().numpy()
        found[layer] = np.maximum(found.get(layer, 0.0), most)

    def see_self(layer: int, first: int, weights: torch.Tensor) -> None:
        if weights.shape[-1] == length:  # a sliding window has dropped what came first
            note(own, layer, layout.spread(weights.mean(dim=0)[:, columns]))

    def see_text(layer: int, first: int, weights: torch.Tensor) -> None:
        mean = weights.mean(dim=0)
        note(cross, layer, mean.view(len(mean), layout.frames, -1))

    question = prompt_ids[:, len(prefix) :]
    with (
        prefix.lend() as cache,
        observe_text_to_visual(model, see_text),
        observe_self_attention(model, see_self, share=LAST_LAYERS),
    ):
        for part in torch.split(question, PREFILL_TOKENS, dim=1):
            length += part.shape[1]
            model.model(input_ids=part, past_key_values=cache, use_cache=True)
    layers = list((cross or own).values())
    if not layers:
        how = runtime.settings["attention"]
        raise UsageError(
            f"looking again needs attention that can be seen, sdpa or eager, not {how}"
        )
    scores: np.ndarray = np.sum(layers, axis=0, dtype=float)
    return scores / max(float(scores.sum()), np.finfo(float).tiny)
