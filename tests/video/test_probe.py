"""A file is opened once, probed once and its frames chosen once, and nothing heavy is imported."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
from PIL import Image

import crosslmm
from crosslmm.errors import VideoError
from crosslmm.options import ReaderName
from crosslmm.video import open_stream, plan
from crosslmm.video.readers import READERS, ReaderSpec, candidates
from crosslmm.video.readers.job import DecodeJob
from tests.support.clips import numbers_of, picture, write_clip


def numbered(job: DecodeJob) -> Any:
    """A reader: gives what is asked for."""
    for index in job.indices:
        yield index, picture(index)


def counted(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return function(*arguments, **options)

    return call


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of `av.open`; write clips first."""
    calls: list[Any] = []
    monkeypatch.setattr(av, "open", counted(av.open, calls))
    return calls


@pytest.mark.parametrize("seek", ["exact", "keyframe", "auto"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mp4", {}),
        ("clip.mkv", {"options": {"bf": "2"}}),
        ("clip.ts", {"options": {"bf": "2"}}),
        ("clip.avi", {"codec": "mpeg4"}),
        ("clip.gif", {"codec": "gif", "pixel_format": "rgb8"}),
        ("reordered.avi", {"options": {"bf": "2"}}),  # counted, not sought
    ],
)
def test_a_video_is_opened_once(
    name: str, options: dict[str, Any], seek: str, tmp_path: Path, opens: list[Any]
) -> None:
    write_clip(tmp_path / name, **options)
    opens.clear()
    frames = crosslmm.sample(tmp_path / name, frames=5, seek=seek)
    assert len(opens) == 1
    assert numbers_of(frames.pixels) == list(frames.indices)


def test_a_raw_stream_cannot_be_rewound_and_is_opened_again(
    tmp_path: Path, opens: list[Any]
) -> None:
    write_clip(tmp_path / "raw.h264")
    opens.clear()
    frames = crosslmm.sample(tmp_path / "raw.h264", frames=1000)
    assert 1 < len(opens) <= 3
    assert numbers_of(frames.pixels) == list(range(30))


def test_an_image_is_not_opened_as_a_video(tmp_path: Path, opens: list[Any]) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "image.png")
    assert len(crosslmm.sample(tmp_path / "image.png")) == 1
    assert opens == []


def test_with_the_plan_of_another_stream_a_file_is_opened_once_more(
    tmp_path: Path, opens: list[Any]
) -> None:
    write_clip(tmp_path / "clip.mp4")
    with open_stream(tmp_path / "clip.mp4", frames=1) as stream:
        earlier = stream.plan
    opens.clear()
    frames = crosslmm.sample(tmp_path / "clip.mp4", frames=4, plan=earlier)
    assert len(opens) == 1
    assert numbers_of(frames.pixels) == list(frames.indices)


def test_frames_are_chosen_once_per_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(plan, "choose", counted(plan.choose, calls))
    write_clip(tmp_path / "clip.mp4")
    with open_stream(tmp_path / "clip.mp4", frames=2) as stream:
        assert len(calls) == 1
        assert len(list(stream)) == 2
    assert len(calls) == 1
    crosslmm.sample(tmp_path / "clip.mp4", frames=4, plan=stream.plan)
    assert len(calls) == 2


@pytest.mark.parametrize("frames", [1, 30])
def test_a_decoder_is_closed_however_its_stream_ends(
    frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm.video import decoder

    closed: list[Any] = []

    class Container:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def close(self) -> None:
            closed.append(self)
            self.inner.close()

    opened = decoder.open_container
    monkeypatch.setattr(decoder, "open_container", lambda *a, **k: Container(opened(*a, **k)))
    write_clip(tmp_path / "clip.mp4")
    with open_stream(tmp_path / "clip.mp4", frames=frames) as stream:
        next(stream)
    assert len(closed) == 1
    with pytest.raises(VideoError, match="is beyond the end"):
        open_stream(tmp_path / "clip.mp4", start=99)
    assert len(closed) == 2


def test_every_reader_s_name_is_registered() -> None:
    assert set(READERS) == set(get_args(ReaderName)) - {"auto"}
    assert candidates("auto")[0] == "pyav"


def test_a_reader_is_one_line_in_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ReaderSpec(package="numpy", target=f"{__name__}:numbered")
    monkeypatch.setattr("crosslmm.video.readers.READERS", {"numbered": spec})
    write_clip(tmp_path / "clip.mp4", width=96)
    frames = crosslmm.sample(tmp_path / "clip.mp4", frames=4, seek="exact", size=(32, 48))
    assert frames.source.reader == "numbered"
    assert frames.pixels.shape == (4, 32, 48, 3)
    assert numbers_of(frames.pixels) == list(frames.indices)


def test_reading_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")
    script = (
        "import pkgutil, sys\n"
        "from importlib import import_module\n"
        "import crosslmm, crosslmm.video\n"
        "for module in pkgutil.walk_packages(crosslmm.video.__path__, 'crosslmm.video.'):\n"
        "    import_module(module.name)\n"
        f"crosslmm.sample({str(tmp_path / 'clip.mp4')!r}, frames=2)\n"
        f"crosslmm.sample({str(tmp_path / 'image.png')!r})\n"
        "print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("set()\n", "")
