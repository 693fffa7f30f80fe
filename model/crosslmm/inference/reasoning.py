"""What a model says before it answers, apart from the answer."""

from crosslmm.inference.runtime import Runtime

_SO = ", so "  # of the built-in model, which says what each frame shows, or what it compares


def split_reasoning(runtime: Runtime, said: str) -> tuple[str | None, str]:
    """The reasoning in `said`, None where there is none, and the answer that follows it."""
    if runtime.footage is None:  # another model
        return None, said
    reasoning, separator, answer = said.rpartition(_SO)
    return (reasoning, answer) if separator and answer else (None, said)
