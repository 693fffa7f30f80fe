"""Evidence: the moments and places of videos that an answer was read from, and files that show them.

What computes it from a model's attention is `inference/evidence.py`.
"""

from typing import TYPE_CHECKING

from crosslmm.evidence.paths import check_evidence_path

if TYPE_CHECKING:
    from crosslmm.evidence.evidence import Evidence
    from crosslmm.evidence.maps import EvidenceVideo, Moment, Region, TimeSpan, Word

__all__ = [
    "Evidence",
    "EvidenceVideo",
    "Moment",
    "Region",
    "TimeSpan",
    "Word",
    "check_evidence_path",
]

_MODULES = {
    "Evidence": "evidence",
    **dict.fromkeys(("EvidenceVideo", "Moment", "Region", "TimeSpan", "Word"), "maps"),
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # NumPy, which checking a path does not need

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
