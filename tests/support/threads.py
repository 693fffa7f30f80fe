"""The threads that read videos in the background."""

import threading
import time


def reading_threads() -> int:
    """How many run."""
    return sum(thread.name == "crosslmm-video" for thread in threading.enumerate())


def no_thread_within(seconds: float) -> bool:
    """Whether all have ended, at the latest after so long."""
    until = time.monotonic() + seconds
    while reading_threads() and time.monotonic() < until:
        time.sleep(0.02)
    return not reading_threads()
