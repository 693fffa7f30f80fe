"""The parts of a video that get a caption each: equal lengths of time, or scenes between cuts."""

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from crosslmm.errors import UsageError

if TYPE_CHECKING:
    from crosslmm.video.stream import FrameStream

Span = tuple[float, float]

_SHORTEST_SCENE = 0.5  # seconds
_WIDTH = 256  # pixels; cuts show at any size
_MICROSECOND = Fraction(1, 1_000_000)


def equal_spans(duration: float, seconds: float) -> list[Span]:
    """Spans of `seconds`; a rest shorter than half of it belongs to the last."""
    count = max(1, int(duration / seconds + 0.5))
    starts = [float(number * seconds) for number in range(count)]
    return list(pairwise([*starts, duration]))


def scene_spans(stream: "FrameStream") -> list[Span]:
    """Spans between the cuts that PySceneDetect's adaptive detector sees in a stream of all frames.

    Raises UsageError where it is not installed, and the stream's errors.
    """
    scenedetect = _scenedetect()
    detector = scenedetect.AdaptiveDetector(min_scene_len=_SHORTEST_SCENE)
    rate = Fraction(max(stream.source.fps, 1e-3)).limit_denominator(100_000)
    cuts = []
    for frame in stream:
        stamp = scenedetect.common.Timecode(round(frame.time / _MICROSECOND), _MICROSECOND)
        moment = scenedetect.FrameTimecode(stamp, fps=rate)
        cuts += detector.process_frame(moment, frame.pixels[..., ::-1])  # it takes BGR
    inner = [cut.seconds for cut in cuts if 0 < cut.seconds < stream.source.duration]
    return list(pairwise([0.0, *inner, stream.source.duration]))


def scene_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which cuts are looked for in frames of `size`."""
    height, width = size
    scale = min(1.0, _WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def require_scenedetect() -> None:
    """UsageError where cuts cannot be found here."""
    _scenedetect()


def _scenedetect() -> Any:
    try:
        import scenedetect
        import scenedetect.common
    except ImportError as error:
        raise UsageError(
            "finding scenes needs PySceneDetect, which is not installed: "
            "pip install 'crosslmm[scenes]'"
        ) from error
    return scenedetect
