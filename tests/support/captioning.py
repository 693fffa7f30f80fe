"""Captioning as most of its tests call it: a few frames, short captions, no reader processes."""

from pathlib import Path
from typing import Any

import crosslmm
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.reading import ReadRequest, read_request
from crosslmm.inference.assistant import Assistant
from crosslmm.options import Sampling

# Frames of each clip of the fixture `clips`.
LENGTHS = {"a.mp4": 3, "b.mp4": 30, "c.mkv": 12, "deep/d.mp4": 1}


def caption(paths: Any, assistant: Assistant, **options: Any) -> Any:
    return crosslmm.caption(
        paths, assistant=assistant, **{"readers": 0, "frames": 4, "max_new_tokens": 6} | options
    )


def run(*arguments: Any, **options: Any) -> list[tuple[str, str | None]]:
    results = caption(*arguments, **options)
    return [(Path(result.path).name, result.caption) for result in results]


def request(path: Path | str, **options: Any) -> ReadRequest:
    return read_request(
        str(path),
        CaptionOptions(sampling=Sampling(frames=4, deadline=10), **options),
        size=(30, 30),
        resample=3,
        default_frames=4,
    )
