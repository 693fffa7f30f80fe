"""Limits and choices that the model follows and the cost model counts with. Imports nothing."""

# Decoders that can be loaded, and whose cost can be counted. Others may scale embeddings or logits in
# what surrounds their layers, which crosslmm does not run.
DECODERS = ("qwen2", "qwen3", "llama", "mistral")
# Frames that go through the encoder together; changes speed and memory, never the result.
FRAMES_PER_CHUNK = 16
# A longer prompt goes through the language model in parts of complete frames, of about so many tokens.
PREFILL_TOKENS = 1024
# Above this size keys and values are projected one key/value head at a time and then dropped.
SLICE_BYTES = 64 * 2**20
# Up to so many queries, attending over the features costs less than projecting them again.
ABSORBED_QUERIES = 8
# Frames of a video when neither the user nor the checkpoint gives a number.
DEFAULT_FRAMES = 64
# Up to this size `auto` does not quantize a model: it would save less than it costs.
AUTO_QUANTIZED_PARAMETERS = 1_000_000_000


def quantizes_by_default(device_type: str, parameters: int) -> bool:
    """Whether `auto` is 4bit: on a GPU, for models over `AUTO_QUANTIZED_PARAMETERS`."""
    return device_type == "cuda" and parameters > AUTO_QUANTIZED_PARAMETERS
