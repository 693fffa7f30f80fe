"""What can go wrong, as a user sees it: one small tree, with messages that are ready to print.

Every message says what was given, what was wrong and what to do, in one or two lines.
"""


class CrossLMMError(Exception):
    """Base of every error that has its cause in the input or the machine, never a bug of crosslmm."""


class UsageError(CrossLMMError):
    """Options that exclude each other, or a value out of range."""


class VideoError(CrossLMMError):
    """A file without usable frames: missing, not a video, too damaged, or too slow."""


class ReadingOutOfMemory(VideoError):
    """Memory ran out while a file was read, with a reader than which the others need no less."""


class UnfamiliarFootage(VideoError):
    """Footage unlike what the built-in model was trained on, where it is not to be answered about."""


class CheckpointError(CrossLMMError):
    """A checkpoint that is missing, incomplete, unsafe, or does not match its configuration."""


class ModelError(CrossLMMError):
    """A model whose output is not a number, for all that was asked or for one question."""


class OutOfMemory(CrossLMMError):
    """Memory ran out after every fallback, or is known in advance not to suffice."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type where it has none."""
    return next(iter(_lines(error)), type(error).__name__)


def last_line(error: BaseException) -> str:
    """The last line of an error's message; the name of its type where it has none."""
    return next(reversed(_lines(error)), type(error).__name__)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
