"""The places of videos in a prompt, filled with a placeholder for each merged token."""

from collections.abc import Sequence

from crosslmm.errors import CheckpointError


def fill_places(prompt: str, placeholder: str, counts: Sequence[int]) -> str:
    """The prompt with each placeholder repeated so many times. Raises CheckpointError where the chat
    template left one out or wrote one of its own."""
    start, *rest = prompt.split(placeholder)
    if len(rest) != len(counts):
        places, videos = len(rest), len(counts)
        raise CheckpointError(
            f"the chat template has {places} places for {videos} video{'s' * (videos != 1)}"
        )
    filled = (placeholder * count + text for count, text in zip(counts, rest, strict=True))
    return start + "".join(filled)
