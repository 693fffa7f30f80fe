"""A loaded model with its processor: what sessions, batches and the encoder run on."""

import secrets
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from crosslmm.checkpoints import catalog
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.device import device_name
from crosslmm.errors import UsageError
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.footage import FootageCheck, read_check
from crosslmm.inference.schema_tokens import SchemaTokens
from crosslmm.merging import MERGERS, TokenBudget, choose_budget
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import features_setting
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.versions import library_versions

Progress = Callable[[str, int, int], None]
Notice = Callable[[str], None]


@dataclass(eq=False, repr=False)
class Runtime:
    """A model, its processor and how they were loaded.

    - name: as it was given to `load`; folder: of the checkpoint, None for a model made in memory;
      adapter: of the one that was applied to it.
    - load_seconds: what loading took.
    - cache: where what is encoded of videos is kept; checkpoint_state: of the files that were loaded.
    - merging: of all videos where nothing else is asked for; None for none.
    - key: tells it from any other.
    - on_notice: called with a line of text when something is done otherwise than asked.
    """

    model: CrossLMMForConditionalGeneration
    processor: CrossLMMProcessor
    _: KW_ONLY
    name: str = ""
    folder: Path | None = None
    adapter: Path | None = None
    quantization: str = "none"
    load_seconds: float = 0.0
    cache: FeatureCache | None = None
    checkpoint_state: str = ""
    merging: TokenBudget | None = None
    on_notice: Notice | None = None
    key: str = field(default_factory=lambda: secrets.token_hex(8), init=False)
    _told_of_images: bool = field(default=False, init=False)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def tokens_per_frame(self) -> int:
        return self.processor.tokens_per_frame

    @property
    def budget(self) -> TokenBudget:
        """How many tokens the language model reads of a video when nothing else is asked for."""
        return self.merging or TokenBudget(self.tokens_per_frame)

    def choose_budget(
        self,
        *,
        tokens_per_frame: int | None = None,
        merge: str | None = None,
        keep: str | int | None = None,
    ) -> TokenBudget:
        """`budget` with what is asked for instead; see `merging.choose_budget`. Raises UsageError."""
        return budget_for(
            self.model.config,
            self.budget,
            tokens_per_frame=tokens_per_frame,
            merge=merge,
            keep=keep,
        )

    @property
    def default_frames(self) -> int:
        """Frames taken of a video when nothing else is asked for."""
        return int(self.model.config.default_frames)

    @property
    def context(self) -> int:
        """Tokens that the model was made for, in all."""
        return self.model.config.context

    @cached_property
    def settings(self) -> dict[str, str]:
        """How the model runs: device, dtype, quantization, attention, and features if packed."""
        return {
            "device": str(self.device),
            "device_name": device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "quantization": self.quantization,
            "attention": str(self.model.config.text._attn_implementation),
        } | features_setting(self.model.model.feature_bits)

    @cached_property
    def footage(self) -> FootageCheck | None:
        """What tells footage that the model cannot know; only the built-in one has it."""
        return None if self.adapter else read_check(self.folder)

    @cached_property
    def schema_tokens(self) -> SchemaTokens:
        """For answers that fit a JSON Schema. Raises UsageError."""
        if self.footage is not None:
            raise UsageError("`schema` needs a model that writes text; the built-in one does not")
        stops = self.model.generation_config.eos_token_id or []
        vocabulary = int(self.model.config.text.vocab_size)
        listed = [*stops] if isinstance(stops, list) else [stops]
        return SchemaTokens(self.processor.tokenizer, listed, vocabulary)

    @cached_property
    def versions(self) -> dict[str, str]:
        return library_versions()

    def notice_image(self) -> None:
        """Say, once, what a still image loses in a checkpoint of LLaVA-OneVision."""
        if self._told_of_images or self.folder is None:
            return
        if catalog.is_llava_onevision(self.folder):
            self._told_of_images = True
            self.notice(
                f"the image is read as a video of one frame, {self.tokens_per_frame} tokens; "
                "LLaVA-OneVision in transformers also reads it as tiles at a higher resolution, "
                "which shows small details"
            )

    def notice(self, text: str) -> None:
        if self.on_notice:
            self.on_notice(text)


def budget_for(
    config: CrossLMMConfig,
    usual: TokenBudget,
    *,
    tokens_per_frame: int | None,
    merge: str | None,
    keep: str | int | None,
) -> TokenBudget:
    """`merging.choose_budget` for a model of this configuration. Raises UsageError."""
    return choose_budget(
        usual,
        trained=config.tokens_per_frame,
        patches=config.patches_per_frame,
        methods=MERGERS,
        tokens_per_frame=tokens_per_frame,
        merge=merge,
        keep=keep,
        error=UsageError,
    )
