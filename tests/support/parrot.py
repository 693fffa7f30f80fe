"""Captioning without a model: an engine that repeats what is in the files, which are text."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.captioning import CaptionResult, Segment, TimeBreakdown
from crosslmm.captioning.engines import ENGINES, Results
from crosslmm.captioning.options import CaptionOptions

captioned: list[str] = []


class Parrot:
    """An engine whose caption is the prompt and the file's text; the prompt "fail" fails."""

    model, fingerprint, default_frames = "parrot", "parrot", 4

    def __init__(self, options: CaptionOptions) -> None:
        self.prompt = options.prompt
        self.settings: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def load(self) -> None:
        """There is no model."""

    def run(self, paths: Sequence[str], *, stopping: Callable[[], bool]) -> Results:
        for path in paths:
            if stopping():
                return
            captioned.append(os.path.basename(path))
            if self.prompt == "fail":
                yield [CaptionResult(path=path, error=f"{path}: failed")]
            else:
                caption = f"{self.prompt} {Path(path).read_text('utf-8')}"
                part = Segment(start=0.0, end=1.0, caption=caption)
                yield [CaptionResult(path=path, duration=1.0, segments=(part,))]

    def time_breakdown(self) -> TimeBreakdown | None:
        return None


def start(assistant: Any, model_options: Any, *, options: CaptionOptions, **rest: Any) -> Parrot:
    """As every engine is started."""
    return Parrot(options)


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "local", __name__)


def make(folder: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(Path(name).name, "utf-8")


def begin(paths: Any, prompt: str = "A", **options: Any) -> Any:
    return crosslmm.caption(paths, prompt=prompt, **{"format": "txt"} | options)


def run(paths: Any, prompt: str = "A", **options: Any) -> tuple[list[str], list[str]]:
    """The names of what the model saw, and the errors."""
    captioned.clear()
    errors = [result.error for result in begin(paths, prompt, **options) if result.error]
    return sorted(captioned), errors
