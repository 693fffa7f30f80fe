"""What a model says before it answers, apart from the answer."""

from crosslmm.inference.runtime import Runtime

_SO = ", so "  # of the built-in model, which says what each frame shows, or what it compares
_FIRST_FRAME = "1: "


def is_reasoning(runtime: Runtime, said: str) -> bool:
    """Whether an answer that begins with `said` is still going through the frames."""
    return runtime.footage is not None and said.startswith(_FIRST_FRAME) and _SO not in said


def split_reasoning(runtime: Runtime, said: str) -> tuple[str | None, str]:
    """The reasoning in `said`, None where there is none, and the answer that follows it."""
    if runtime.footage is None:  # another model
        return None, said
    reasoning, separator, answer = said.rpartition(_SO)
    return (reasoning, answer) if separator and answer else (None, said)
