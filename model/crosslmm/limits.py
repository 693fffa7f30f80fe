"""Limits: what a file that somebody gave you may cost, and what the model follows and the cost model
counts with. Imports nothing.
"""

# Decoders that can be loaded, and whose cost can be counted. Others may scale embeddings or logits in
# what surrounds their layers, which crosslmm does not run.
DECODERS = ("qwen2", "qwen3", "llama", "mistral")
# Frames that go through the encoder together; changes speed and memory, never the result.
FRAMES_PER_CHUNK = 16
# A longer prompt goes through the language model in parts of complete frames, of about so many tokens
# or more; see `prefill_part`.
PREFILL_TOKENS = 1024
# A long video's tokens are merged in windows of so many frames.
MERGED_FRAMES = 256
# The share of the language model's context that the positions of videos are fitted into; the rest is
# left to the words.
VIDEO_CONTEXT = 7 / 8
# Above this size keys and values are projected one key/value head at a time and then dropped.
SLICE_BYTES = 64 * 2**20
# Features in 8 bits are unpacked in parts of about this size.
UNPACKED_BYTES = 16 * 2**20
SCALE_BYTES = 4
# Up to so many queries, attending over the features costs less than projecting them again.
ABSORBED_QUERIES = 8
# Tokens of answers whose logits a step of distillation holds together.
LOGITS_TOGETHER = 32
# Frames of a video when neither the user nor the checkpoint gives a number.
DEFAULT_FRAMES = 64
# Videos of one question, all of which are open, and decoded ahead, before the first is encoded.
MAX_VIDEOS = 16
# Up to this size `auto` does not quantize a model: it would save less than it costs.
AUTO_QUANTIZED_PARAMETERS = 1_000_000_000

# Of a file that is read. What can be changed is an option of the same name; the rest is fixed.

# Pixels of a frame, as it is shown: Pillow's own limit for an image.
MAX_PIXELS = 178_956_970
# A frame that is longer than so many times its width, or the other way round, is refused.
MAX_ASPECT = 16
# Images of formats that are decoded at once, in several copies.
MAX_COPIED_PIXELS = 2**26
# Frames of more pixels (DCI 4K is 8.8 million) are decoded in a process whose memory is limited, and
# scaled while they are converted.
LARGE_PIXELS = 4096 * 2304
# Bytes read of a file without coming to the next frame.
MAX_FRAME_BYTES = 256 * 2**20
# Packets of a video.
MAX_SOURCE_FRAMES = 10_000_000
# Files of a folder of images that are frames of a video.
MAX_FOLDER_FRAMES = 100_000
# Bytes taken of a video that is downloaded, or given as a file object or on stdin, which is copied to a
# temporary file, or as an iterator of frames.
MAX_GIVEN_BYTES = 4 * 2**30
# Pixels of a side of the frames that a checkpoint asks for.
MAX_FRAME_SIDE = 4096
# Captioned parts of a video.
MAX_SEGMENTS = 100_000
# Seconds that a reader may go without progress: no packet read, no frame decoded.
DEADLINE = 60.0
# Seconds that reading one file may take altogether: a long film in 4K takes two hours on two cores.
FILE_TIMEOUT = 4 * 3600.0
# Bytes that a reading process may hold, besides the frames that were asked for.
READER_MEMORY = 2**30
# Seconds that a checkpoint's chat template may take for a prompt, and bytes that it may hold.
TEMPLATE_SECONDS = 10.0
TEMPLATE_MEMORY = 256 * 2**20
# Seconds that a checkpoint's tokenizer may take for a text.
TOKENIZER_SECONDS = 30.0
# Bytes that servers may answer, in all, until the video of a page is found.
MAX_PAGE_BYTES = 64 * 2**20
MAX_PAGE_REQUESTS = 100
# Bytes of a file of the Hub's cache that names the commit of a revision.
MAX_REF_BYTES = 2**10
# Bytes of a question or a prompt, and of a list of files.
MAX_TEXT_BYTES = 2**20
MAX_LIST_BYTES = 256 * 2**20


def quantizes_by_default(device_type: str, parameters: int) -> bool:
    """Whether `auto` is 4bit: on a GPU, for models over `AUTO_QUANTIZED_PARAMETERS`."""
    return device_type == "cuda" and parameters > AUTO_QUANTIZED_PARAMETERS


def packed_width(width: int, scales: int) -> int:
    """Bytes of a feature of so many numbers in 8 bits, with its scales."""
    return width + scales * SCALE_BYTES


def sliced_pair_bytes(features: int, *, kv_heads: int, head_dim: int, size: int) -> int:
    """Keys and values of so many features as they are alive at once, one head's where all are too large.

    size: bytes of a number."""
    pair = 2 * features * kv_heads * head_dim * size
    return pair // kv_heads if pair > SLICE_BYTES else pair


def prefill_part(
    prompt: int,
    features: int,
    *,
    width: int,
    intermediate: int,
    kv_heads: int,
    head_dim: int,
    size: int,
    masked: bool,
) -> int:
    """Of a prompt of so many tokens, about how many go through the language model together.

    V2V projects keys and values of all `features` that a part reads, for each part again. So parts grow
    until the feed-forward of one, and the mask of a part that is not the first, take what these keys and
    values take in any case.

    features: those that every part reads; masked: the first part has a mask too, and all have one of
    numbers; size: bytes of a number.
    """
    room = sliced_pair_bytes(features, kv_heads=kv_heads, head_dim=head_dim, size=size)
    token = (4 * width + 3 * intermediate) * size
    if not masked and prompt * token <= room:
        return max(prompt, PREFILL_TOKENS)
    return max(room // (token + prompt * (1 + size * masked)), PREFILL_TOKENS)
