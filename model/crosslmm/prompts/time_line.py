"""What is said of the frames before the question."""

from collections.abc import Sequence


def frames_line(times: Sequence[float], duration: float) -> str:
    """LLaVA-Video's sentences about the frames of a video."""
    listed = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly sampled "
        f"from it. These frames are located at {listed}."
    )


def llava_video_time_line(times: Sequence[float], duration: float) -> str:
    """LLaVA-Video's text about the frames, to the letter (its missing space included)."""
    closing = "Please answer the following questions related to this video.\n"
    return frames_line(times, duration) + closing
