"""The paper's stages: a model under the loss of given answers."""

from pathlib import Path
from typing import Any

import torch

from crosslmm.checkpoints import loading
from crosslmm.checkpoints.quantization import keep_gradients
from crosslmm.errors import UsageError
from crosslmm.merging import check_tokens_per_frame
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training import lora
from crosslmm.training.method import ADAPTER, MODEL, Prepared
from crosslmm.training.recipe import Recipe
from crosslmm.training.records import Records
from crosslmm.training.stages import freeze, gate_values
from crosslmm.training.trainer import CrossLMMTrainer


class Supervised:
    """Stages `align` and `tune`. media_folder: as of `Records`."""

    def __init__(self, recipe: Recipe, *, media_folder: str | Path | None = None) -> None:
        self.recipe = recipe
        self.media_folder = media_folder

    def identity(self) -> dict[str, Any]:
        folder = self.media_folder
        return {"media_folder": None if folder is None else str(Path(folder).resolve())}

    def read_samples(self, data: str | Path, *, held_out: bool) -> Records:
        seed = 0 if held_out else self.recipe.seed
        records = Records(data, folder=self.media_folder, seed=seed)
        _check_media(records)
        return records

    def prepare(self, source: Path, device: torch.device) -> Prepared:
        recipe = self.recipe
        config = loading.load_config(source)
        tokens = recipe.tokens_per_frame or config.tokens_per_frame
        check_tokens_per_frame(tokens, config.patches_per_frame, error=UsageError)
        quantized = recipe.quantization != "none"
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        # On a CPU a norm of float16 takes no bfloat16, and frozen weights are written as they were read.
        unmixed = dtype == torch.float16 and device.type == "cpu"
        model = loading.load_model(
            source,
            device=device if quantized else torch.device("cpu"),
            dtype=torch.float32 if recipe.precision == "fp32" or unmixed else dtype,
            quantization=recipe.quantization,
            config=config,
        )
        keep_gradients(model)
        notes = []
        if recipe.stage == "align" and any(gate_values(model)["t2v"]):
            notes.append("T2V is open in this checkpoint; align leaves it as it is")
        module: Any = model
        if recipe.lora is None:
            freeze(model, recipe.stage)
        else:
            module = lora.add_adapters(model, recipe.lora)
        return Prepared(module, model, config, dtype, tuple(notes))

    def make_trainer(self, **arguments: Any) -> CrossLMMTrainer:
        return CrossLMMTrainer(**arguments)

    def begin(self, **_: Any) -> None:
        """Nothing comes before training."""

    def export(
        self, trainer: CrossLMMTrainer, source: Path, folder: Path, prepared: Prepared
    ) -> None:
        """The processor has the tokens per frame of the recipe; the configuration keeps those of the
        checkpoint, which positions refer to, in training too."""
        processor = trainer.processor
        if self.recipe.tokens_per_frame is not None:
            processor.tokens_per_frame = self.recipe.tokens_per_frame
        if self.recipe.lora is not None:
            if trainer.args.should_save:
                lora.save_adapter(trainer.network, folder / ADAPTER)
                trained = loading.load_model(
                    source,
                    device=torch.device("cpu"),
                    dtype=prepared.dtype,
                    adapter=folder / ADAPTER,
                )
                loading.save_checkpoint(folder / MODEL, trained, processor)
            return
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.args.should_save:
            with torch.device("meta"):
                trained = CrossLMMForConditionalGeneration(loading.load_config(source))
            trained.generation_config = trainer.network.generation_config
            weights = {name: weight.to("cpu", prepared.dtype) for name, weight in weights.items()}
            trained.load_state_dict(weights, assign=True)
            trained.tie_weights()
            loading.save_checkpoint(folder / MODEL, trained, processor)


def _check_media(records: Records, looked_at: int = 100) -> None:
    """A wrong folder is found at once, not after a share of the data was skipped."""
    paths = [path for index in range(min(looked_at, len(records))) for path in records[index].media]
    if paths and not any(path.exists() for path in paths):
        raise UsageError(
            f"{paths[0]}: not found, nor any of the first {len(paths)} videos and images of the "
            "data; give their folder as `media_folder`"
        )
