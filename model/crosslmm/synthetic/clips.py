"""Scenes as video files: mp4s at any size and frame rate, and their questions as JSONL.

The frames come from the training renderer itself, at the file's own times: but for the codec, the files
show what a model was trained on.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crosslmm.errors import UsageError
from crosslmm.synthetic.asker import ask_about
from crosslmm.synthetic.folder import begin_folder, write_questions
from crosslmm.synthetic.frames import render_clips
from crosslmm.synthetic.questions import QUESTION_TYPES, Question
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip, make_clip
from crosslmm.synthetic.seeds import Domain, derive_seed
from crosslmm.video.writing import write_frames

_FRAMES_AT_ONCE = 16
_GRAIN_ROOM = 61
_HELD_OUT_SHARE = 1 / 3
_CODEC_OPTIONS = {"libx264": {"crf": "21", "preset": "veryfast"}}


def write_clips(
    folder: Path,
    *,
    clips: int,
    seed: int,
    seconds: tuple[float, float] = (2.0, 60.0),
    size: tuple[int, int] = (256, 256),
    fps: float = 24.0,
    codec: str = "libx264",
    questions_per_clip: int = 8,
    domain: Domain = "eval",
    on_clip: Callable[[int], None] | None = None,
) -> Path:
    """Write `clips` mp4s and `questions.jsonl` into `folder`; returns the path of the latter.

    - `seconds`: shortest and longest clip; lengths are spread evenly on a logarithmic scale.
    - `size`: width and height in pixels, even. The scenes depend on the seed and on the shape of the
      frame, not on its size, the frame rate or the codec: the same clips can be written differently.
    - `on_clip` is called with the number of clips done.

    Existing clips are kept, so an interrupted run resumes. Raises UsageError, also where `folder` holds
    clips written with other settings, or other or more questions.
    """
    _check(clips=clips, seconds=seconds)
    settings = {"seconds": list(seconds), "size": list(size), "fps": fps, "codec": codec}
    settings["domain"] = domain
    begin_folder(folder, settings, seed=seed, clips=clips, questions_per_clip=questions_per_clip)
    rows: list[dict[str, Any]] = []
    for index in range(clips):
        clip = plan_clip(domain, seed, index, seconds=seconds, aspect=size[0] / size[1])
        name = f"clip-{seed}-{index:05d}.mp4"
        if not (folder / name).exists():
            write_video(clip, folder / name, size=size, fps=fps, codec=codec)
        rows += clip_rows(clip, domain, seed, index, video=name, fps=fps, count=questions_per_clip)
        if on_clip is not None:
            on_clip(index + 1)
    return write_questions(folder, rows)


def plan_clip(
    domain: Domain, seed: int, index: int, *, seconds: tuple[float, float], aspect: float
) -> SyntheticClip:
    """The scene of the `index`-th clip of a seed, its length drawn between two bounds."""
    low, high = seconds
    rng = np.random.default_rng(derive_seed(domain, "length", seed, index))
    duration = low * (high / low) ** rng.random()
    return make_clip(domain, seed, index, duration=float(duration), aspect=aspect)


def clip_rows(
    clip: SyntheticClip,
    domain: Domain,
    seed: int,
    index: int,
    *,
    video: str,
    fps: float,
    count: int,
) -> list[dict[str, Any]]:
    """The JSONL rows of one clip; the same questions at every size and frame rate."""
    asked = clip_questions(clip, domain, seed, index, fps=fps, count=count)
    return [question_row(q, f"{seed}-{index:05d}-{i}", video) for i, q in enumerate(asked)]


def clip_questions(
    clip: SyntheticClip, domain: Domain, seed: int, index: int, *, fps: float, count: int
) -> list[Question]:
    """What `clip_rows` asks, with all that is known of the answers."""
    rng = np.random.default_rng(derive_seed(domain, "questions", seed, index))
    times = (np.arange(FRAMES_NEEDED) + 0.5) / FRAMES_NEEDED * clip.duration
    return ask_about(
        clip, rng, count=count, frame_times=times.tolist(), frame_period=1 / fps,
        types=QUESTION_TYPES, held_out_share=_HELD_OUT_SHARE,
    )  # fmt: skip


def question_row(question: Question, name: str, video: str) -> dict[str, Any]:
    """`type` chooses how the answer is scored; `tolerance` is in seconds; `phrasing` says whether
    training ever shows this wording."""
    row: dict[str, Any] = {
        "id": name,
        "video": video,
        "type": question.type,
        "question": question.text,
        "answer": question.answer,
        "phrasing": "held_out" if question.held_out else "train",
    }
    if question.options:
        row["options"] = list(question.options)
    if question.tolerance is not None:
        row["tolerance"] = question.tolerance
    return row


def write_video(
    clip: SyntheticClip, path: Path, *, size: tuple[int, int], fps: float, codec: str = "libx264"
) -> None:
    """One clip as a video file, complete or not there at all."""
    frames = frames_of(clip, size=size, fps=fps)
    write_frames(path, frames, fps=fps, codec=codec, options=_CODEC_OPTIONS.get(codec))


def frames_of(clip: SyntheticClip, *, size: tuple[int, int], fps: float) -> Iterator[np.ndarray]:
    """`(H, W, 3)` uint8, one after another, with the grain of a camera."""
    width, height = size
    count = max(2, round(clip.duration * fps))
    times = np.arange(count) / count
    generator = torch.Generator().manual_seed(clip.style_seed)
    strength = 0.015 * 255 * float(torch.rand((), generator=generator))
    # One noise field, at another offset in every frame: drawing new noise would take most of the time.
    grain = strength * torch.randn(
        height + _GRAIN_ROOM, width + _GRAIN_ROOM, 3, generator=generator
    )
    for start in range(0, count, _FRAMES_AT_ONCE):
        for frame in render_clips(
            [clip], [times[start : start + _FRAMES_AT_ONCE]], (height, width)
        )[0]:
            top, left = torch.randint(_GRAIN_ROOM, (2,), generator=generator).tolist()
            seen = grain[top : top + height, left : left + width]
            yield torch.add(seen, frame, alpha=255).round_().clamp_(0, 255).byte().numpy()


def _check(*, clips: int, seconds: tuple[float, float]) -> None:
    if clips < 1:
        raise UsageError(f"{clips} clips were asked for: at least 1 is needed")
    if not 1 <= seconds[0] <= seconds[1] <= 600:
        raise UsageError(f"seconds {seconds[0]:g}-{seconds[1]:g}: give A-B with 1 <= A <= B <= 600")
