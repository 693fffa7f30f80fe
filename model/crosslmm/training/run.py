"""A complete training run: from a recipe, a checkpoint and data to a folder with a new checkpoint.

The run's folder holds `run.json` (recipe, data, versions), `log.jsonl`, `skipped.jsonl`, the last
checkpoints, and at the end `model`, an ordinary CrossLMM folder. Started again on the same folder, the
run resumes; with another recipe it is refused.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging

from crosslmm.checkpoints import catalog, loading
from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.files import atomic_write, holds_run, read_json
from crosslmm.inference.encoding import memory_errors
from crosslmm.inference.generation import stop_token_ids
from crosslmm.merging import check_tokens_per_frame
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training import lora
from crosslmm.training.checkpoints import check_state, latest_checkpoint
from crosslmm.training.dataset import VideoDataset
from crosslmm.training.recipe import Recipe
from crosslmm.training.records import Records
from crosslmm.training.stages import TrainablePart, freeze, gate_values, summarise
from crosslmm.training.trainer import (
    CrossLMMTrainer,
    TrainingProgress,
    planned_steps,
    training_arguments,
)
from crosslmm.versions import library_versions

RUN = "run.json"
MODEL = "model"
ADAPTER = "adapter"

# A resumed run may change these: they have no influence on the weights.
_FREE = ("log_every", "save_every", "keep_checkpoints", "evaluate_every", "workers", "max_skipped")


@dataclass(frozen=True)
class RunPlan:
    """A run about to start. `resumed_at` is the step to resume from, 0 for a new run."""

    recipe: Recipe
    parts: tuple[TrainablePart, ...]
    samples: int
    eval_samples: int
    steps: int
    devices: int
    accumulation: int
    device: str
    resumed_at: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: the new checkpoint's folder, and how many samples were skipped."""

    folder: Path
    steps: int
    loss: float | None
    skipped: int


def train(
    recipe: Recipe,
    *,
    model: str | Path,
    data: str | Path,
    out: str | Path,
    eval_data: str | Path | None = None,
    media_folder: str | Path | None = None,
    on_start: Callable[[RunPlan], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    dry_run: bool = False,
) -> TrainingResult | None:
    """Train `model` (a folder, a name or a Hub id on disk) on `data` by `recipe`, in folder `out`.

    `on_start` and `on_progress` are called on the first process. With `dry_run` nothing is trained
    or written. None is returned then, and on all processes but the first. Raises UsageError,
    CheckpointError, VideoError.
    """
    source, folder = catalog.resolve(model).absolute(), Path(out)  # as an adapter names its base
    identity = {
        "model": str(source.resolve()),
        "data": str(Path(data).resolve()),
        "recipe": asdict(recipe),
    }
    _check_same_run(folder, identity)
    samples = Records(data, folder=media_folder, seed=recipe.seed)
    _check_same_data(folder, len(samples))
    eval_samples = None if eval_data is None else Records(eval_data, folder=media_folder)
    for records in (samples, eval_samples):
        _check_media(records)

    arguments = training_arguments(recipe, folder, evaluates=eval_samples is not None)
    set_seed(recipe.seed)
    processor = loading.load_processor(source)
    tuned, dtype, notes = _prepare(source, recipe, arguments.device)
    if recipe.frames is None and recipe.fps is None:
        recipe = replace(recipe, frames=loading.load_config(source).default_frames)
    stops = _stop_token_ids(tuned, processor)
    train_set, eval_set = (
        VideoDataset(records, recipe=recipe, processor=processor, stop_token_ids=stops)
        if records is not None
        else None
        for records in (samples, eval_samples)
    )
    assert train_set is not None
    for dataset in (train_set, eval_set):
        if dataset is not None:
            dataset.check_template()
    resumed = latest_checkpoint(folder)
    if resumed is not None:
        check_state(resumed)
    plan = RunPlan(
        recipe=recipe,
        parts=tuple(summarise(tuned)),
        samples=len(samples),
        eval_samples=len(eval_samples or ()),
        steps=planned_steps(arguments, len(samples)),
        devices=arguments.world_size,
        accumulation=arguments.gradient_accumulation_steps,
        device=str(arguments.device),
        resumed_at=int(resumed.name.rpartition("-")[2]) if resumed else 0,
        notes=tuple(notes),
    )
    first = arguments.process_index == 0
    if first and on_start is not None:
        on_start(plan)
    if dry_run:
        return None
    if first:
        _note_session(folder, identity, plan)
    trainer = CrossLMMTrainer(
        model=tuned,
        recipe=recipe,
        processor=processor,
        arguments=arguments,
        train_dataset=train_set,
        eval_dataset=eval_set,
        report=on_progress,
    )
    trainer.accelerator.wait_for_everyone()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with memory_errors():
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except MemoryError as error:
        raise OutOfMemory(
            f"{arguments.device} ran out of memory at step {trainer.state.global_step}: lower "
            "`device_batch_size` or `frames`, or train adapters (`lora`)"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    trainer.take_skipped()
    if not (folder / MODEL).exists():
        _export(trainer, source, folder, processor, dtype)
    if not first:
        return None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainingResult(
        folder=folder / MODEL,
        steps=trainer.state.global_step,
        loss=losses[-1] if losses else None,
        skipped=len(trainer.skipped),
    )


def _prepare(
    source: Path, recipe: Recipe, device: torch.device
) -> tuple[Any, torch.dtype, list[str]]:
    """The model with its trainable parameters chosen, its checkpoint's dtype, and notes on it."""
    config = loading.load_config(source)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    tokens = recipe.tokens_per_frame or config.tokens_per_frame
    check_tokens_per_frame(tokens, config.patches_per_frame, error=UsageError)
    quantization = recipe.lora.quantization if recipe.lora else "none"
    model = loading.load_model(
        source,
        device=device if quantization != "none" else torch.device("cpu"),
        dtype=torch.float32 if recipe.precision == "fp32" else dtype,
        quantization=quantization,
        config=config,
    )
    notes = []
    if recipe.stage == "align" and any(gate_values(model)["t2v"]):
        notes.append("T2V is open in this checkpoint; align leaves it as it is")
    if os.environ.get("ACCELERATE_USE_CPU") == "True" and "WORLD_SIZE" not in os.environ:
        notes.append(
            "accelerate launch starts one process on the CPU, whatever number it is given; for several: "
            "torchrun, with the number as `nproc_per_node`"
        )
    if recipe.lora is None:
        freeze(model, recipe.stage)
        return model, dtype, notes
    return lora.add_adapters(model, recipe.lora), dtype, notes


def _export(
    trainer: CrossLMMTrainer, source: Path, folder: Path, processor: Any, dtype: torch.dtype
) -> None:
    """Write the trained model as an ordinary checkpoint, in the dtype of the one it started from."""
    if trainer.recipe.tokens_per_frame is not None:
        processor.tokens_per_frame = trainer.recipe.tokens_per_frame
    if trainer.recipe.lora is not None:
        if trainer.args.should_save:
            trainer.network.save_pretrained(folder / ADAPTER)
            trained = loading.load_model(
                source, device=torch.device("cpu"), dtype=dtype, adapter=folder / ADAPTER
            )
            _save(trained, folder, processor, trainer.recipe)
    else:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.args.should_save:
            with torch.device("meta"):
                trained = CrossLMMForConditionalGeneration(loading.load_config(source))
            trained.generation_config = trainer.network.generation_config
            weights = {name: weight.to("cpu", dtype) for name, weight in weights.items()}
            trained.load_state_dict(weights, assign=True)
            trained.tie_weights()
            _save(trained, folder, processor, trainer.recipe)
    trainer.accelerator.wait_for_everyone()


def _save(
    model: CrossLMMForConditionalGeneration, folder: Path, processor: Any, recipe: Recipe
) -> None:
    if recipe.tokens_per_frame is not None:
        model.config.tokens_per_frame = recipe.tokens_per_frame
    loading.save_checkpoint(folder / MODEL, model, processor)


def _stop_token_ids(model: Any, processor: Any) -> list[int]:
    found = {*stop_token_ids(model.generation_config), processor.tokenizer.eos_token_id} - {None}
    return sorted(int(token) for token in found)


def _check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    if not holds_run(folder, RUN):
        return
    before = _read_run(folder)
    recipe, earlier = identity["recipe"], before["recipe"]
    changed = [
        f"{key} {earlier.get(key)!r} → {value!r}"
        for key, value in recipe.items()
        if key not in _FREE and earlier.get(key) != value
    ]
    changed += [
        f"{key} {before[key]} → {identity[key]}"
        for key in ("model", "data")
        if before[key] != identity[key]
    ]
    if changed:
        raise UsageError(
            f"{folder}: holds a run that differs: {'; '.join(changed[:3])}\n"
            "give another folder, or the same options to resume it"
        )


def _read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says. Raises UsageError where it is damaged."""
    path = folder / RUN
    kinds = {"recipe": dict, "model": str, "data": object, "samples": int, "sessions": list}
    try:
        record: dict[str, Any] = read_json(path)
        wrong = [name for name, kind in kinds.items() if not isinstance(record[name], kind)]
        reason = f"its {wrong[0]} is of another type" if wrong else None
    except OSError as error:
        reason = str(error.strerror)
    except (LookupError, TypeError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else "not written by crosslmm, or cut off"
    if reason is not None:
        raise UsageError(
            f"{path}: cannot be read ({reason}); restore it to resume the run, or give another folder"
        )
    return record


def _check_same_data(folder: Path, samples: int) -> None:
    """The order of the samples follows from their number: with more or fewer it would change."""
    if not (folder / RUN).exists():
        return
    before = _read_run(folder)["samples"]
    if before != samples:
        raise UsageError(
            f"{folder}: its data had {before:,} samples and now has {samples:,}; give another folder"
        )


def _check_media(records: Records | None, looked_at: int = 100) -> None:
    """A wrong folder is found at once, not after a share of the data was skipped."""
    if records is None:
        return
    paths = [path for index in range(min(looked_at, len(records))) for path in records[index].media]
    if paths and not any(path.exists() for path in paths):
        raise UsageError(
            f"{paths[0]}: not found, nor any of the first {len(paths)} videos and images of the "
            "data; give their folder as `media_folder`"
        )


def _note_session(folder: Path, identity: dict[str, Any], plan: RunPlan) -> None:
    """Write `run.json`, or add this session to it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RUN
    record = _read_run(folder) if path.exists() else {**identity, "sessions": []}
    record["recipe"] = identity["recipe"]
    record["parts"] = [asdict(part) for part in plan.parts]
    record["samples"], record["steps"] = plan.samples, plan.steps
    record["sessions"].append(
        {
            "resumed_at": plan.resumed_at,
            "device": plan.device,
            "devices": plan.devices,
            "versions": library_versions("accelerate", "peft", "bitsandbytes"),
        }
    )
    atomic_write(path, f"{json.dumps(record, indent=1, ensure_ascii=False)}\n".encode())
