"""The sample clip of `crosslmm demo`: a scene of the evaluation domain, so never trained on."""

from pathlib import Path

from crosslmm.synthetic.clips import plan_clip, write_video
from crosslmm.synthetic.scene import Clip

SAMPLE_QUESTIONS = (
    "Describe the video.",
    "What happens?",
    "What is printed on the leftmost object at the start?",
)
SAMPLE_SEED = 7
_SAMPLE_INDEX = 0
_SIZE, _FPS = (256, 256), 24.0


def sample_clip() -> Clip:
    return plan_clip("eval", SAMPLE_SEED, _SAMPLE_INDEX, seconds=(6.0, 6.0), aspect=1.0)


def write_sample(out: Path) -> Path:
    """Write the sample as `out`, or where that is a folder, into it; returns the file."""
    path = out if out.suffix == ".mp4" else out / "sample.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(sample_clip(), path, size=_SIZE, fps=_FPS)
    return path
