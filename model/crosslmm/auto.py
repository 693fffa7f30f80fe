"""CrossLMM in the `Auto` classes of transformers, which find it by `model_type`.

There is no entry point for that: an `Auto` class knows what was registered with it, so each class is
registered when the module that defines it is imported.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from crosslmm.configuration_crosslmm import CrossLMMConfig

AutoConfig.register(CrossLMMConfig.model_type, CrossLMMConfig, exist_ok=True)


def register_models(base: type[PreTrainedModel], generating: type[PreTrainedModel]) -> None:
    """The model without a head, and with one."""
    AutoModel.register(CrossLMMConfig, base, exist_ok=True)
    AutoModelForImageTextToText.register(CrossLMMConfig, generating, exist_ok=True)


def register_processor(processor: type[ProcessorMixin]) -> None:
    AutoProcessor.register(CrossLMMConfig, processor, exist_ok=True)
