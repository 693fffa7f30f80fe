"""Training data for tests: short clips of one colour each, and what is said about them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.clips import write_clip

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30), "grey": (128,) * 3}


def lesson(video: str | None, *exchanges: tuple[str, str]) -> dict[str, Any]:
    """One record: what the human says and what is answered, by turns."""
    turns = [
        {"from": speaker, "value": text}
        for pair in exchanges
        for speaker, text in zip(("human", "gpt"), pair, strict=True)
    ]
    return {"conversations": turns} | ({"video": video} if video else {})


def write_lessons(folder: Path) -> Path:
    """Eight clips of different lengths with a question each, in `folder/lessons.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index, (colour, value) in enumerate(COLOURS.items()):
        for frames in (3 + index, 6):
            name = f"{colour}-{frames}.mp4"
            write_plain_clip(folder / name, value, frames=frames)
            records.append(lesson(name, ("<image>\nWhich colour?", colour)))
    path = folder / "lessons.json"
    path.write_text(json.dumps(records))
    return path


def write_plain_clip(path: Path, colour: tuple[int, ...], *, frames: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        image = np.full((32, 32, 3), colour, dtype=np.uint8)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def numbered_clip(path: Path, *, frames: int = 12) -> Path:
    """Frames that carry their number, at 10 per second."""
    write_clip(path, frames=frames, fps=10)
    return path
