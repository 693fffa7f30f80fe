"""The sample clip of `crosslmm demo`: a scene of the evaluation domain, so never trained on.

Clip and questions are chosen among those that the shipped weights answer correctly: it shows what the
tool does. How often the model is right is in its card.
"""

from pathlib import Path
from typing import Any

from crosslmm.errors import UsageError
from crosslmm.synthetic import phrasing
from crosslmm.synthetic.clips import plan_clip, write_video
from crosslmm.synthetic.scenes import SyntheticClip

SAMPLE_QUESTIONS = (
    "How many objects are there?",
    "What happens?",
    "Describe the video.",
)
_SEED, _INDEX = 7, 48
_SIZE, _FPS, _SECONDS = (256, 256), 24.0, 6.0


def sample_clip() -> SyntheticClip:
    return plan_clip("eval", _SEED, _INDEX, seconds=(_SECONDS, _SECONDS), aspect=1.0)


def sample_answers() -> list[dict[str, Any]]:
    """The truth for `SAMPLE_QUESTIONS`, as rows that `crosslmm.evaluation.scoring.is_right` takes."""
    clip = sample_clip()
    answers = (
        ("count", str(len(clip.things))),
        ("events", phrasing.describe_events(clip)),
        ("describe", phrasing.describe_clip(clip, clip.things).text),
    )
    return [
        {"type": kind, "question": question, "answer": answer}
        for question, (kind, answer) in zip(SAMPLE_QUESTIONS, answers, strict=True)
    ]


def write_sample(out: Path) -> Path:
    """Write the sample as `out`, or where that is a folder, into it; returns the file.

    Raises UsageError where that file exists already.
    """
    path = out if out.suffix == ".mp4" else out / "sample.mp4"
    if path.exists():
        raise UsageError(f"{path}: exists already; delete it, or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(sample_clip(), path, size=_SIZE, fps=_FPS)
    return path
