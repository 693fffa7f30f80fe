"""What is put into the prompt for its placeholders, and seconds as text."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from crosslmm.captioning import Segment
from crosslmm.captioning.engines import InProgress, Results
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.reading import Clip
from tests.support.parrot import Parrot, begin, make, parrot  # noqa: F401


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.1, "0.1"), (1234.5, "1234.5"), (12340, "12340")]
)
def test_seconds_in_a_prompt_are_plain_numbers(seconds: float, text: str) -> None:
    options = CaptionOptions(prompt="{start}|{duration}")
    assert options.render("a.mp4", start=seconds, duration=seconds) == f"{text}|{text}"


def test_a_name_that_is_not_text_becomes_text() -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    for options in (
        CaptionOptions(prompt="{filename}, été"),
        CaptionOptions(prompt="caf\udce9, été"),
    ):
        assert options.render(name, start=0, duration=1) == "caf?, été"


@pytest.mark.usefixtures("parrot")
def test_seconds_in_a_warning_are_plain_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Parrot, paths: Sequence[str], *, stopping: Callable[[], bool]) -> Results:
        parts = (
            Segment(start=0.0, end=1234.5, caption="a circle"),
            Segment(start=1234.5, end=12340.0, problem="damaged"),
        )
        videos = InProgress()
        for path in paths:
            for number, part in enumerate(parts):
                clip = Clip(path=path, number=number, count=2, duration=12340.0)
                result = videos.add(clip, part)
                yield [] if result is None else [result]

    monkeypatch.setattr(Parrot, "run", run)
    make(tmp_path, "a.mp4")
    (result,) = begin(tmp_path, format=None)
    assert result.warnings == ("1234.5-12340 s: damaged",)
