"""Several videos in one prompt: each with its number, its name and, if there is one, its time line.

Chat templates put all videos before all text, where nothing says which is which. So the videos are
written into the text, as LLaVA's interleaved data has them, and Qwen's numbered ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from crosslmm.prompts.time_line import frames_line

# Where a video belongs, while the text around it is made inert: a noncharacter, as `inert_text.MARK`.
SLOT = "\ufdd1"
_CLOSING = "Please answer the following questions related to these videos.\n"


@dataclass(frozen=True)
class PromptVideo:
    """name: as the prompt has it, empty for a video without one; times: of its frames, and duration, in
    seconds."""

    name: str
    times: Sequence[float]
    duration: float


def introduce(videos: Sequence[PromptVideo], *, with_times: bool) -> str:
    """What comes before the question: `Video 1 (a.mp4):`, the slot of the video, and so on; nothing
    without videos."""
    text = ""
    for number, video in enumerate(videos, start=1):
        name = _one_line(video.name)
        text += f"Video {number}{f' ({name})' if name else ''}:\n{SLOT}\n"
        if with_times:
            text += f"{frames_line(video.times, video.duration)}\n"
    return text + _CLOSING if text and with_times else text


def without_slots(text: str) -> str:
    """A text of a user, in which there is no video."""
    return text.replace(SLOT, "")


def _one_line(name: str) -> str:
    """A file's name as text that a tokenizer takes and that ends no line."""
    text = without_slots(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
