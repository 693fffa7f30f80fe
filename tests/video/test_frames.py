"""The frame asked for is the frame returned, with its true time, for every kind of clip."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import crosslmm
from crosslmm.video import open_stream
from crosslmm.video.decoder import Decoder
from crosslmm.video.frames import summary
from tests.support.clips import copy_from, numbers_of, write_clip

OPEN_GOP_264 = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"}
OPEN_GOP_265 = {
    "x265-params": "log-level=none:open-gop=1:keyint=12:min-keyint=12:bframes=4:scenecut=0"
}
UNEVEN = [0, 40, 80, 500, 540, 1000, 1033, 1066, 2000, 2500, 2501, 2600]

KINDS: dict[str, dict] = {
    "h264.mp4": {},
    "h264.mkv": {"options": {"bf": "2"}},
    "h264.ts": {"options": {"bf": "2"}},
    "h264.flv": {},
    "h264_b_frames.avi": {"options": {"bf": "2"}},
    "h264_open_gop.mp4": {"frames": 50, "options": OPEN_GOP_264},
    "h264_open_gop.ts": {"frames": 50, "options": OPEN_GOP_264},
    "h264_10_bit.mp4": {"pixel_format": "yuv420p10le"},
    "h264_odd.mp4": {"pixel_format": "yuv444p", "width": 65, "height": 67},
    "h264_sound.mp4": {"sound": True},
    "hevc.mp4": {"codec": "libx265"},
    "hevc_open_gop.mp4": {"codec": "libx265", "frames": 50, "options": OPEN_GOP_265},
    "hevc_10_bit.mp4": {"codec": "libx265", "pixel_format": "yuv420p10le"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9_odd.webm": {"codec": "libvpx-vp9", "width": 67, "height": 65},
    "av1.mp4": {"codec": "libsvtav1", "frames": 20},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"q": "2"}},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "animated.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "raw.h264": {},
    "uneven.mp4": {"times": UNEVEN, "gop": 4},
    "uneven.mkv": {"times": UNEVEN, "gop": 4},
    "late_start.mp4": {"times": [5000 + 100 * n for n in range(20)]},
    "late_start.ts": {"times": [5000 + 100 * n for n in range(20)]},
    "negative_start.mkv": {"times": [-500 + 100 * n for n in range(20)]},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "rotated_90.mp4": {"rotation": 90, "width": 128},
    "rotated_180.mov": {"rotation": 180, "width": 128},
    "rotated_270.mp4": {"rotation": 270, "width": 128},
    "mirrored.mp4": {"mirrored": True, "width": 128},
    "mirrored_90.mp4": {"mirrored": True, "rotation": 90, "width": 128},
    "one.mp4": {"frames": 1},
    "three.mp4": {"frames": 3},
    "one.gif": {"codec": "gif", "pixel_format": "rgb8", "frames": 1},
}


def check(path: Path, times: list[float], first_number: int = 0, **options: object) -> list[int]:
    """Sample and compare every frame's number and time with the truth; the numbers, from 0."""
    frames = crosslmm.sample(path, **options)
    numbers = [number - first_number for number in numbers_of(frames.pixels)]
    assert numbers == list(frames.indices)
    np.testing.assert_allclose(frames.times, [times[n] for n in numbers], atol=1.5e-3)
    assert frames.warnings == ()
    assert frames.source.frame_count == len(times)
    return numbers


@pytest.mark.parametrize("kind", KINDS)
def test_right_frames_at_right_times(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    times = write_clip(path, **KINDS[kind])
    assert check(path, times, frames=1000) == list(range(len(times)))
    duration = crosslmm.sample(path, frames=1).source.duration
    longest = max(np.diff(times), default=1.0)
    assert times[-1] < duration <= times[-1] + longest + 1.5e-3
    wanted = (np.arange(7) + 0.5) * duration / 7
    shown = sorted({int(np.searchsorted(times, t + 1e-4, side="right")) - 1 for t in wanted})
    if len(times) > 7:
        assert check(path, times, frames=7, seek="exact") == shown
        assert len(check(path, times, frames=7, seek="auto")) >= len(shown) - 1
        check(path, times, frames=3, seek="keyframe")


@pytest.mark.parametrize("start", [1.2, 1.75, 3.1])
def test_edit_list_hides_the_frames_before_the_cut(start: float, tmp_path: Path) -> None:
    write_clip(tmp_path / "whole.mp4", frames=60, gop=12, options={"bf": "2"})
    copy_from(tmp_path / "whole.mp4", tmp_path / "cut.mp4", start=start)
    first = int(np.ceil(start * 10))
    times = [number / 10 for number in range(60 - first)]
    assert check(tmp_path / "cut.mp4", times, first, frames=1000) == list(range(60 - first))
    check(tmp_path / "cut.mp4", times, first, frames=8, seek="exact")


def test_negative_times_that_the_container_hides_are_not_shown(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", times=[-500 + 100 * n for n in range(20)])
    times = [number / 10 for number in range(15)]
    assert check(tmp_path / "clip.mp4", times, 5, frames=1000) == list(range(15))


@pytest.mark.parametrize(
    ("aspect", "shape"), [(Fraction(16, 11), (64, 128)), (Fraction(1, 2), (128, 88))]
)
def test_pixels_are_made_square(aspect: Fraction, shape: tuple, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=4, width=88, aspect=aspect)
    frames = crosslmm.sample(tmp_path / "clip.mp4")
    assert frames.source.size == shape
    assert frames.pixels.shape[1:3] == shape
    assert numbers_of(frames.pixels) == [0, 1, 2, 3]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_source_tells_what_the_video_is(rotation: int, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=20, fps=8, width=128, rotation=rotation)
    source = crosslmm.sample(tmp_path / "clip.mp4", frames=2).source
    assert source.path == str(tmp_path / "clip.mp4")
    assert source.duration == pytest.approx(2.5)
    assert source.fps == pytest.approx(8)
    assert source.size == (64, 128)
    assert (source.codec, source.container, source.reader) == ("h264", "mov", "pyav")
    assert source.rotation == rotation
    assert source.frame_count == 20
    assert source.damaged_packets == 0


def test_uniform_in_time_where_the_rate_varies(tmp_path: Path) -> None:
    # One frame lasts nine seconds, then thirty frames fill one second.
    times = [0, *[9000 + 33 * n for n in range(30)]]
    write_clip(tmp_path / "clip.mp4", times=times)
    frames = crosslmm.sample(tmp_path / "clip.mp4", frames=10, seek="exact")
    assert frames.indices[0] == 0
    assert frames.indices[1] in range(13, 18)
    assert len(frames) == 2


def test_range(tmp_path: Path) -> None:
    times = write_clip(tmp_path / "clip.mp4", frames=50)
    assert check(tmp_path / "clip.mp4", times, frames=4, start=2, end=4, seek="exact") == [
        22, 27, 32, 37,
    ]  # fmt: skip
    assert check(tmp_path / "clip.mp4", times, frames=99, start=2, end=2.5) == [20, 21, 22, 23, 24]
    assert check(tmp_path / "clip.mp4", times, frames=99, start=2.05, end=2.06) == [20]


def test_end_beyond_the_video_is_clamped_and_said(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=20)
    frames = crosslmm.sample(tmp_path / "clip.mp4", frames=2, start=1, end=100, seek="exact")
    assert frames.indices == (12, 17)
    assert "lasts 2 s" in frames.warnings[0]


def test_start_beyond_the_video_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=20)
    with pytest.raises(crosslmm.VideoError, match=r"clip\.mp4: `start` \(2 s\) is beyond the end"):
        crosslmm.sample(tmp_path / "clip.mp4", start=2)


def test_fps(tmp_path: Path) -> None:
    times = write_clip(tmp_path / "clip.mp4", frames=50)
    assert check(tmp_path / "clip.mp4", times, fps=1, seek="exact") == [5, 15, 25, 35, 45]
    assert check(tmp_path / "clip.mp4", times, fps=100) == list(range(50))
    assert check(tmp_path / "clip.mp4", times, fps=100, max_frames=5, seek="exact") == [
        5, 15, 25, 35, 45,
    ]  # fmt: skip
    assert check(tmp_path / "clip.mp4", times, fps=0.01, seek="exact") == [25]


def test_stream_gives_what_sample_gives(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=50)
    frames = crosslmm.sample(tmp_path / "clip.mp4", frames=9, size=(40, 48))
    with open_stream(tmp_path / "clip.mp4", frames=9, size=(40, 48)) as stream:
        assert stream.count == 9
        streamed = list(stream)
        assert list(stream) == []
    assert stream.seconds > 0
    assert [frame.index for frame in streamed] == list(frames.indices)
    assert [frame.time for frame in streamed] == list(frames.times)
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in streamed]), frames.pixels)
    assert frames.summary == "9 of 50 frames, one per 0.56 s"
    assert all(frame.pixels.flags.writeable for frame in streamed)


def test_long_groups_are_decoded_right_past_dropped_frames(tmp_path: Path) -> None:
    """Frames that no other needs are not decoded; those asked for must be, and be right."""
    path = tmp_path / "clip.mp4"
    times = write_clip(path, frames=200, gop=100, fps=25, options={"bf": "4", "b-pyramid": "2"})
    for count in (3, 17, 60, 150):
        check(path, times, frames=count, seek="exact")


@pytest.mark.parametrize("frames", [10, 20, 41])
def test_auto_takes_a_keyframe_only_when_it_is_near(frames: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    times = write_clip(path, frames=400, gop=40, fps=20, options={"bf": "0", "sc_threshold": "0"})
    numbers = check(path, times, frames=frames, seek="auto")
    spacing = 20.0 / frames
    middles = (np.arange(frames) + 0.5) * spacing
    for number, middle in zip(numbers, middles, strict=True):
        near = [key for key in range(0, 400, 40) if abs(key / 20 - middle) <= spacing / 4 + 1e-9]
        assert number in (near or [int((middle + 1e-6) * 20)])


def test_keyframes_only_and_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    times = write_clip(path, frames=100, gop=20, options={"sc_threshold": "0"})
    assert check(path, times, frames=50, seek="keyframe") == [0, 20, 40, 60, 80]
    assert check(path, times, frames=2, seek="keyframe") == [20, 80]


def test_keyframes_outside_the_part_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, frames=100, gop=20, fps=10, options={"sc_threshold": "0"})
    for start, end in ((2.5, 3.5), (1.0, 3.0)):
        shown = crosslmm.sample(path, frames=4, start=start, end=end, seek="keyframe").times
        assert all(start - 0.1 < time < end for time in shown)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((0.0, 1.25), "2 of 9,000 frames, one per 1.2 s"),
        ((0.0, 37.2), "2 of 9,000 frames, one per 37 s"),
        ((0.0, 112.0), "2 of 9,000 frames, one per 112 s"),
        ((0.0, 3600.0), "2 of 9,000 frames, one per 3,600 s"),
    ],
)
def test_the_distance_of_frames_is_said_in_plain_numbers(
    times: tuple[float, ...], words: str
) -> None:
    class Source:
        frame_count = 9000

    assert summary(times, Source()) == words


def test_a_dense_sample_is_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    times = write_clip(path, frames=100, gop=20, options={"bf": "0", "sc_threshold": "0"})
    seeks: list[int] = []
    seek = Decoder._seek

    def counting(self: Decoder, pts: int) -> None:
        seeks.append(pts)
        seek(self, pts)

    monkeypatch.setattr(Decoder, "_seek", counting)
    # A keyframe is close to one in ten of these, and the nine others of its group are wanted, too.
    assert len(check(path, times, frames=50, seek="auto")) == 50
    assert len(seeks) <= 2, "to the start, after the packets were counted, and to the first frame"
    seeks.clear()
    check(path, times, at=["#0", "#21", "#41", "#61"])
    assert len(seeks) == 5, "far from each other, the frames in between are not decoded"
