"""Synthetic clips with a ground truth: scenes, a renderer, questions with exact answers, video files.

They train the built-in demo model and measure it. Training and evaluation scenes come from different
domains of seeds and never meet (`seeds.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslmm.synthetic.clips import write_clips
    from crosslmm.synthetic.needles import write_needles
    from crosslmm.synthetic.sample import SAMPLE_QUESTIONS, write_sample

_HOMES = {
    "SAMPLE_QUESTIONS": "sample",
    "write_clips": "clips",
    "write_needles": "needles",
    "write_sample": "sample",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
