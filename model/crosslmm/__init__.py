"""CrossLMM: question answering about long videos with few visual tokens (arXiv 2505.17020).

Importing this package is light: torch and transformers are imported when first needed. It makes the
`Auto` classes of transformers know CrossLMM (see `auto`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosslmm.auto import register_on_import
from crosslmm.versions import __version__

if TYPE_CHECKING:
    from crosslmm.captioning import caption
    from crosslmm.configuration_crosslmm import CrossLMMConfig
    from crosslmm.errors import CheckpointError, CrossLMMError, OutOfMemory, UsageError, VideoError
    from crosslmm.inference.answer import Answer
    from crosslmm.inference.assistant import Assistant, load
    from crosslmm.inference.feature_cache import FeatureCache
    from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
    from crosslmm.processing_crosslmm import CrossLMMProcessor
    from crosslmm.video import Frames, sample

_HOMES = {
    "Answer": "inference.answer",
    "Assistant": "inference.assistant",
    "FeatureCache": "inference.feature_cache",
    "load": "inference.assistant",
    "caption": "captioning",
    "CrossLMMConfig": "configuration_crosslmm",
    "CheckpointError": "errors",
    "CrossLMMError": "errors",
    "OutOfMemory": "errors",
    "UsageError": "errors",
    "VideoError": "errors",
    "CrossLMMForConditionalGeneration": "modeling_crosslmm",
    "CrossLMMProcessor": "processing_crosslmm",
    "Frames": "video",
    "sample": "video",
}

__all__ = [*_HOMES, "__version__"]

register_on_import()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
