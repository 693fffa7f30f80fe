"""CrossLMM in the `Auto` classes of transformers, which find it by `model_type`.

There is no entry point for that: an `Auto` class knows what was registered with it. `import crosslmm`
must stay light, so it only watches for the import of the modules that define the `Auto` classes; the
CrossLMM module that belongs to each is imported right after, and registers its classes.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODELS = "crosslmm.modeling_crosslmm"
_LAYERS = "transformers.modeling_layers"
_LAST_OF_LAYERS = "GradientCheckpointingLayer"
_PART = "crosslmm.cross_attention"
_LAST_OF_PART = "DualCrossAttentionLayer"
_REGISTERED_AFTER = {
    "transformers.models.auto.configuration_auto": "crosslmm.configuration_crosslmm",
    "transformers.models.auto.modeling_auto": _MODELS,
    # Imports the `Auto` classes itself, before it defines what CrossLMM's layers derive from.
    _LAYERS: _MODELS,
    "transformers.models.auto.processing_auto": "crosslmm.processing_crosslmm",
}


def register_config(config: Any) -> None:
    from transformers import AutoConfig

    AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models(config: Any, base: Any, generating: Any) -> None:
    """The model without a head, and with one."""
    from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

    AutoModel.register(config, base, exist_ok=True)
    AutoModelForImageTextToText.register(config, generating, exist_ok=True)
    AutoModelForMultimodalLM.register(config, generating, exist_ok=True)


def register_processor(config: Any, processor: Any) -> None:
    from transformers import AutoProcessor

    AutoProcessor.register(config, processor, exist_ok=True)


def register_on_import() -> None:
    """Let every `Auto` class know CrossLMM as soon as both are imported, in either order."""
    if any(isinstance(finder, _AutoFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _AutoFinder())
    for name in _REGISTERED_AFTER:
        if name in sys.modules:
            _register(name)


def _register(name: str) -> None:
    """Import what belongs to an imported module of transformers."""
    home = _REGISTERED_AFTER[name]
    layers = sys.modules.get(_LAYERS)
    if home == _MODELS and layers is not None and not hasattr(layers, _LAST_OF_LAYERS):
        return  # it is being imported, and registers them when it is done
    part = sys.modules.get(_PART)
    if home == _MODELS and part is not None and not hasattr(part, _LAST_OF_PART):
        return  # imported before the models, which cannot be imported until it is done
    import_module(home)


class _AutoFinder(MetaPathFinder):
    """Finds the modules of the `Auto` classes as Python would, with a loader that also registers."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _REGISTERED_AFTER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:  # `get_source` and the like
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register(module.__name__)
