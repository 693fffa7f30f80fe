"""A video's clips: read as each part alone would be, the file scanned once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosslmm
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.reading import read_clips, read_request
from crosslmm.options import Sampling
from crosslmm.video import probe
from tests.support.clips import write_clip


@pytest.mark.parametrize("parts", [{"segments": 0.5}, {"scenes": True}])
def test_a_video_is_scanned_once_however_many_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    path, scan, scans = tmp_path / "clip.mp4", probe.scan, []
    write_clip(path, frames=30)

    def counted(*arguments: Any, **options: Any) -> Any:
        scans.append(path)
        return scan(*arguments, **options)

    monkeypatch.setattr(probe, "scan", counted)
    request = read_request(
        str(path),
        CaptionOptions(sampling=Sampling(frames=3), **parts),
        size=(32, 48),
        resample=2,
        default_frames=4,
    )
    clips = list(read_clips(request))
    assert len(scans) == 1
    for clip in clips:
        alone = crosslmm.sample(
            path, frames=3, size=(32, 48), resample=2, start=clip.start, end=clip.end
        )
        assert clip.frames is not None
        assert (clip.frames.indices, clip.frames.times) == (alone.indices, alone.times)
        assert np.array_equal(clip.frames.pixels, alone.pixels)
