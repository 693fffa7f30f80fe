"""What engines and outputs there are, and segments put together again."""

from typing import get_args

from crosslmm.captioning import Segment
from crosslmm.captioning.engines import ENGINES, InProgress
from crosslmm.captioning.options import EngineName, Format
from crosslmm.captioning.outputs import OUTPUTS
from crosslmm.captioning.reading import Clip
from crosslmm.fingerprint import weights_fingerprint


def clip(number: int, count: int = 2, **changes: object) -> Clip:
    return Clip(path="/a.mp4", number=number, count=count, duration=2.0, **changes)  # type: ignore[arg-type]


def segment(start: float, caption: str | None) -> Segment:
    problem = None if caption else "damaged"
    return Segment(start=start, end=start + 1, caption=caption, problem=problem)


def test_every_engine_and_format_has_a_module() -> None:
    assert tuple(ENGINES) == get_args(EngineName)
    assert tuple(OUTPUTS) == get_args(Format)


def test_segments_come_in_any_order_and_count_once() -> None:
    videos = InProgress()
    assert videos.add(clip(1), segment(1.0, "second")) is None
    assert videos.add(clip(1), segment(1.0, "second")) is None
    result = videos.add(clip(0), segment(0.0, "first"))
    assert result is not None
    assert (result.path, result.duration, result.caption) == ("/a.mp4", 2.0, "first\nsecond")
    assert videos.add(clip(0), segment(0.0, "again")) is None


def test_a_video_without_a_single_caption_is_a_failure() -> None:
    videos = InProgress()
    videos.add(clip(0), segment(0.0, None))
    result = videos.add(clip(1), segment(1.0, None))
    assert result is not None
    assert (result.error, result.caption, result.segments) == ("/a.mp4: damaged", None, ())


def test_a_video_whose_reading_ends_early_is_a_failure_of_known_duration() -> None:
    videos = InProgress()
    videos.add(clip(0), segment(0.0, "first"))
    end = Clip(path="/a.mp4", problem="/a.mp4: the decoding process died (signal 9)")
    result = videos.add(end, segment(0.0, None))
    assert result is not None
    assert (result.error, result.duration, result.segments) == (end.problem, 2.0, ())


def test_weights_in_memory_are_identified_by_their_shapes_and_values() -> None:
    import torch

    weights = {"a": torch.ones(3, 2), "b": torch.zeros(500)}
    known = weights_fingerprint(weights)
    assert weights_fingerprint(dict(reversed(weights.items()))) == known
    for change in ({"a": torch.ones(2, 3)}, {"b": torch.full((500,), 0.5)}, {"c": torch.ones(1)}):
        assert weights_fingerprint(weights | change) != known
