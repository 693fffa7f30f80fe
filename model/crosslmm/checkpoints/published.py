"""What can be downloaded and is known to work: trained checkpoints, and parts to assemble."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AssemblyRecipe:
    """The parts of a CrossLMM to be assembled and trained: Hub ids."""

    vision: str
    language: str


# The paper's two sizes.
RECIPES = {
    "crosslmm-2b": AssemblyRecipe(
        "google/siglip2-so400m-patch14-384", "Qwen/Qwen2.5-1.5B-Instruct"
    ),
    "crosslmm-7b": AssemblyRecipe("google/siglip2-so400m-patch14-384", "Qwen/Qwen2.5-7B-Instruct"),
}

# Trained checkpoints by Hub id, smallest first, with the licence that their model cards name.
LICENSES = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": "Apache-2.0",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "Apache-2.0",
}
