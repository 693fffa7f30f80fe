"""What can go wrong, as a user sees it: one small tree, each with its words ready to print.

Every message says what was given, what was wrong and what to do, in one or two lines.
"""


class CrossLMMError(Exception):
    """Base of every error that is the input's or the machine's doing, never a bug of ours."""


class UsageError(CrossLMMError):
    """Options that cannot go together, or a value out of range (exit code 2 on the command line)."""


class VideoError(CrossLMMError):
    """A file that gives no frames: missing, not a video, damaged beyond use, or too slow."""


class CheckpointError(CrossLMMError):
    """A checkpoint that is absent, incomplete, unsafe, or does not match its configuration."""


class OutOfMemory(CrossLMMError):
    """Memory ran out after every fallback, or is known beforehand not to suffice."""
