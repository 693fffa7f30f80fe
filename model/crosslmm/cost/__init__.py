"""What a run costs, before anything is loaded: tokens, multiply-accumulates and memory.

Pure arithmetic on the few numbers of a configuration; nothing here but `measurement` imports torch.
"""

from crosslmm.cost.arithmetic import Macs, PromptTokens, count_tokens, prefill_macs, token_macs
from crosslmm.cost.memory import Memory, WeightPart, memory_needed, weight_parts
from crosslmm.cost.shape import RECIPES, LanguageShape, ModelShape, VisionShape

__all__ = [
    "RECIPES",
    "LanguageShape",
    "Macs",
    "Memory",
    "ModelShape",
    "PromptTokens",
    "VisionShape",
    "WeightPart",
    "count_tokens",
    "memory_needed",
    "prefill_macs",
    "token_macs",
    "weight_parts",
]
