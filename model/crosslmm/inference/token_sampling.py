"""Sampling of tokens with a private random generator.

`generate(do_sample=True)` draws from the process's global generator, which a seed would have to
overwrite under every other thread. Here sampling is a logits processor: by the Gumbel-max trick, the
argmax of log-probabilities with Gumbel noise is a sample of their distribution, so that greedy
decoding after it picks the sampled token.
"""

from collections.abc import Callable
from typing import cast

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# In the order in which `generate` applies them, each with the value that changes nothing.
_WARPERS: dict[str, tuple[Callable[..., LogitsProcessor], float | None]] = {
    "top_h": (TopHLogitsWarper, None),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}
_DEFAULT_TOP_K = 50  # of `generate`, where the checkpoint names none
# Values that `generate` accepts without a warning when it decodes greedily; for None it would take the
# checkpoint's.
GREEDY_SETTINGS: dict[str, float | None] = {
    "temperature": 1.0,
    **{name: neutral for name, (_, neutral) in _WARPERS.items()},
    "top_k": _DEFAULT_TOP_K,
}


class SeededSampler(LogitsProcessor):
    """Samples with the checkpoint's `top_k`, `top_p` and so on; the same seed, the same tokens."""

    def __init__(
        self,
        settings: GenerationConfig,
        *,
        temperature: float,
        top_p: float | None = None,
        seed: int,
        device: torch.device,
    ) -> None:
        """top_p: in place of the checkpoint's."""
        self._warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
        for name, (warper, neutral) in _WARPERS.items():
            value = getattr(settings, name)
            if name == "top_p" and top_p is not None:
                value = top_p
            if name == "top_k" and value is None:
                value = _DEFAULT_TOP_K
            if value is not None and value != neutral:
                self._warpers.append(warper(value))
        self._random = torch.Generator(device).manual_seed(seed)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """scores: (B, vocabulary), logits. → as many, whose argmax is the sampled token."""
        warped = self._warpers(input_ids, scores)
        noise = torch.empty_like(warped).exponential_(generator=self._random)
        # Noise of exactly 0 would select a token that the warpers excluded.
        sampled = warped - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()
        return cast(torch.FloatTensor, sampled)
