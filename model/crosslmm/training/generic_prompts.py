"""What a teacher is asked about a video of which nothing is known."""

from pathlib import Path

from crosslmm.errors import UsageError
from crosslmm.files import read_text
from crosslmm.limits import MAX_TEXT_BYTES

GENERIC_PROMPTS = (
    "Describe the video.",
    "Describe this video in detail.",
    "Describe the video in one sentence.",
    "What happens in this video?",
    "What happens first, and what happens next?",
    "Describe what happens step by step.",
    "What is the video about?",
    "Summarize the video.",
    "Write a caption for this video.",
    "Give the video a title and a short description.",
    "What happens at the beginning of the video?",
    "What happens in the middle of the video?",
    "What happens at the end of the video?",
    "What changes during the video?",
    "What stays the same throughout the video?",
    "List the events in the order in which they happen.",
    "List everything you can see.",
    "List the objects in the video and their colors.",
    "Which objects can you see, and where are they?",
    "What is in the foreground, and what is in the background?",
    "What is on the left, and what is on the right?",
    "How many people are in the video?",
    "How many different objects are in the video?",
    "Who is in the video, and what do they do?",
    "What are the people wearing?",
    "What are the people doing with their hands?",
    "Describe the main subject of the video.",
    "Describe the movements in the video.",
    "What moves, and in which direction?",
    "What is the fastest thing in the video?",
    "Where does the video take place?",
    "Is it indoors or outdoors? How can you tell?",
    "What time of day is it, and what is the weather like?",
    "Describe the place in detail.",
    "Describe the lighting and the colors.",
    "How does the camera move?",
    "Are there cuts? Describe each scene.",
    "Is there any text in the video? What does it say?",
    "Are there animals in the video? What do they do?",
    "Are there vehicles in the video? What do they do?",
    "What is the mood of the video?",
    "Why might somebody have recorded this video?",
    "What is likely to happen next?",
    "What probably happened before?",
    "Which detail is easy to overlook?",
    "What is unusual about the video?",
    "What tools or devices are used, and what for?",
    "How do the people or objects interact?",
    "What is the most important moment, and why?",
    "Explain the video to somebody who cannot see it.",
)


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The prompts of a text file, one per line. Raises UsageError."""
    try:
        text = read_text(Path(path), longest=MAX_TEXT_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    prompts = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise UsageError(f"{path}: holds no prompt; `prompts` takes one per line")
    return prompts
