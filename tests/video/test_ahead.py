"""Decoding that begins before its consumer is there."""

from pathlib import Path

import pytest

import crosslmm
from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.video import FrameStream
from tests.support.threads import no_thread_within

SIZE = (32, 40)


def started(path: Path, **options: object) -> FrameStream:
    stream = FrameStream(path, Sampling(**options), size=SIZE, resample=3)  # type: ignore[arg-type]
    stream.start()
    return stream


def test_all_frames_are_decoded_before_the_first_is_taken(clip: Path) -> None:
    stream = started(clip, frames=30)
    assert no_thread_within(30), "the reader waits for a consumer"
    stream.open()
    expected = crosslmm.sample(clip, frames=30, size=SIZE)
    assert [frame.index for frame in stream] == list(expected.indices)


def test_what_is_wrong_is_said_when_it_is_opened(clip: Path) -> None:
    stream = started(clip, start=100.0)
    with pytest.raises(VideoError, match=r"`start` \(100 s\) is beyond the end"):
        stream.open()
    assert no_thread_within(5)


def test_opening_twice_is_opening_once(clip: Path) -> None:
    with started(clip, frames=3) as stream:
        stream.open()
        plan = stream.plan
        stream.open()
        assert stream.plan is plan
        assert len(list(stream)) == 3


def test_it_gives_what_it_was_started_for(clip: Path) -> None:
    asked = Sampling(frames=3)
    with started(clip, frames=3) as stream:
        assert stream.gives(str(clip), asked, size=SIZE, resample=3)
        assert not stream.gives(str(clip), Sampling(frames=4), size=SIZE, resample=3)
        assert not stream.gives(str(clip), asked, size=(40, 32), resample=3)
        assert not stream.gives(str(clip), asked, size=SIZE, resample=2)
        assert not stream.gives("other.mp4", asked, size=SIZE, resample=3)
        assert not stream.gives([], asked, size=SIZE, resample=3)
        stream.open()
        next(stream)
        assert not stream.gives(str(clip), asked, size=SIZE, resample=3), "a frame of it is gone"
    assert not stream.gives(str(clip), asked, size=SIZE, resample=3)
