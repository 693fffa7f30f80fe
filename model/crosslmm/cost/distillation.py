"""Memory of a step of distillation, before anything is loaded.

Teacher and student share the frozen weights, and the teacher's pass keeps nothing but what the loss
compares. What is counted is what is alive at once, as in `memory.py`; libraries come on top.
"""

from dataclasses import dataclass

from crosslmm.cost.memory import dtype_bytes, encoding_peak, weight_parts
from crosslmm.cost.shape import ModelShape
from crosslmm.limits import FRAMES_PER_CHUNK, LOGITS_TOGETHER
from crosslmm.options import ResolvedQuantization

# Of a trained weight: itself, its gradient and Adam's two moments, each in float32. Where the step
# computes in less, a copy comes on top.
_TRAINED_BYTES = 16


@dataclass(frozen=True)
class DistillMemory:
    """Bytes on one device; `total` is the peak.

    - frozen: weights that teacher and student share; trained: the cross-attention with its gradients
      and the optimizer's state.
    - kept: features, merged tokens and the teacher's states, while the student learns.
    - teacher, student: the most that is alive beside these in the pass of each.
    """

    frozen: int
    trained: int
    kept: int
    teacher: int
    student: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.kept + max(self.teacher, self.student)


def distill_memory(
    shape: ModelShape,
    *,
    frames: int,
    student_tokens: int,
    answer_tokens: int,
    text_tokens: int = 64,
    batch: int = 1,
    dtype: str | None = None,
    quantization: ResolvedQuantization = "none",
    checkpointing: bool = True,
    frames_per_chunk: int = FRAMES_PER_CHUNK,
) -> DistillMemory:
    """shape: of the teacher, with its tokens per frame; student_tokens: the most of the student's;
    checkpointing: layers are computed again for the gradients."""
    size = dtype_bytes(dtype or shape.dtype)
    language, vision = shape.language, shape.vision
    parts = weight_parts(shape, dtype=dtype, quantization=quantization)
    frozen = sum(part.bytes for part in parts if part.name != "cross-attention")
    crossed = sum(part.parameters for part in parts if part.name == "cross-attention")
    words = text_tokens + answer_tokens + int(shape.newline)
    long = batch * (frames * shape.tokens_per_frame + words)
    short = batch * (frames * student_tokens + words)
    predicted = min(batch * answer_tokens, LOGITS_TOGETHER) * language.vocabulary
    patches = batch * frames * vision.patches

    merged = batch * frames * (shape.tokens_per_frame + student_tokens) * language.width
    features = patches * vision.width
    compared = batch * frames * student_tokens * language.width * 4  # float32
    kept = (merged + features) * size + compared
    chunk = min(frames_per_chunk, batch * frames)
    encoding = encoding_peak(shape, chunk, shape.tokens_per_frame, size)

    stream = long * language.width * size
    teacher = max(encoding, 4 * stream + 3 * long * language.intermediate * size)

    # Normed and weighted, with the gradients of two branches: in float32, as all that is trained.
    read = features * 20
    stream = short * language.width * size
    # Of a frozen layer only what its gradient towards the input needs; of a branch, keys and values too.
    layer = 4 * stream + 3 * short * language.intermediate * size
    layer += 3 * short * (language.query_width + language.kv_width) * size
    pair = 2 * patches * language.kv_width * size
    learning = language.layers - (shape.interval or 0)  # before the first, nothing has a gradient
    if checkpointing:
        saved = (learning + shape.cross_layers) * stream
        again = max(2 * (layer + 2 * stream), 3 * pair + 6 * stream)
    else:
        branches = 2 * shape.cross_layers - 1  # nothing reads the last layer's V2V
        saved = learning * layer + branches * (pair + 3 * stream)
        again = 0
    logits = 6 * 4 * predicted  # in float32: both, their logarithms, divergences, a gradient
    return DistillMemory(
        frozen=frozen,
        trained=(_TRAINED_BYTES + size % 4) * crossed,
        kept=kept,
        teacher=teacher,
        student=read + saved + max(again, logits),
    )
