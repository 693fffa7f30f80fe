"""A complete training run: from a recipe, a checkpoint and data to a folder with a new checkpoint.

The run's folder holds `run.json` (recipe, data, versions), `log.jsonl`, `skipped.jsonl`, the last
checkpoints, and at the end `model`, an ordinary CrossLMM folder. Started again on the same folder, the
run resumes; with another recipe it is refused.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from crosslmm.checkpoints import catalog, loading
from crosslmm.checkpoints.quiet import without_bars
from crosslmm.device import computes_bfloat16, resolve_device
from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.files import atomic_write, read_json
from crosslmm.inference.encoding import memory_errors
from crosslmm.inference.generation import stop_token_ids
from crosslmm.training.answers import AnswerProgress
from crosslmm.training.checkpoints import find_resume_point
from crosslmm.training.dataset import VideoDataset
from crosslmm.training.distillation import Distillation
from crosslmm.training.method import MODEL, Method
from crosslmm.training.recipe import Recipe
from crosslmm.training.run_folder import hold_run, holds_run
from crosslmm.training.stages import TrainablePart, summarise
from crosslmm.training.supervised import Supervised
from crosslmm.training.trainer import TrainingProgress, planned_steps, training_arguments
from crosslmm.versions import library_versions

RUN = "run.json"

# A resumed run may change these: they have no influence on the weights but by rounding.
_FREE = ("device_batch_size", "gradient_checkpointing", "log_every", "save_every", "keep_checkpoints",
         "evaluate_every", "workers", "max_skipped")  # fmt: skip
_DEFAULTS = {option.name: option.default for option in fields(Recipe)}


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
    teacher: str | Path | None = None,
    prompts: str | Path | None = None,
    on_start: Callable[[RunPlan], None] | None = None,
    on_answers: Callable[[AnswerProgress], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    dry_run: bool = False,
) -> TrainingResult | None:
    """Train `model` (a folder, a name or a Hub id on disk) on `data` by `recipe`, in folder `out`.

    Stage `distill` takes videos, or folders of them, for `data` and `eval_data`; `teacher` is the model
    itself unless another is given, and `prompts` a file of what it is asked, one per line.

    `on_start`, `on_answers` and `on_progress` are called on the first process. With `dry_run` nothing
    is trained or written. None is returned then, and on all processes but the first. Raises UsageError,
    CheckpointError, VideoError.
    """
    source, folder = catalog.resolve(model).absolute(), Path(out)  # as an adapter names its base
    declared = json.loads(json.dumps(asdict(recipe)))
    if recipe.precision == "auto":
        recipe = replace(
            recipe, precision="bf16" if computes_bfloat16(resolve_device()) else "fp32"
        )
    method: Method
    if recipe.stage == "distill":
        if media_folder is not None:
            raise UsageError("`media_folder` is of records; `data` names the videos to distill on")
        method = Distillation(
            recipe,
            teacher=model if teacher is None else teacher,
            prompts=prompts,
            report=on_answers,
        )
    else:
        if teacher is not None or prompts is not None:
            raise UsageError("`teacher` and `prompts` are for the distill stage")
        method = Supervised(recipe, media_folder=media_folder)
    identity = {
        "model": str(source.resolve()),
        "data": str(Path(data).resolve()),
        **method.identity(),
        "recipe": declared,
    }
    _check_same_run(folder, identity)
    samples = method.read_samples(data, held_out=False)
    _check_same_data(folder, len(samples))
    eval_samples = None if eval_data is None else method.read_samples(eval_data, held_out=True)

    arguments = training_arguments(recipe, folder, evaluates=eval_samples is not None)
    set_seed(recipe.seed)
    processor = loading.load_processor(source)
    prepared = method.prepare(source, arguments.device)
    if recipe.frames is None and recipe.fps is None:
        recipe = replace(recipe, frames=prepared.config.default_frames)
    stops = _stop_token_ids(prepared.model, processor)
    train_set, eval_set = (
        VideoDataset(
            records,
            recipe=recipe,
            processor=processor,
            stop_token_ids=stops,
            context=prepared.config.context,
        )
        if records is not None
        else None
        for records in (samples, eval_samples)
    )
    assert train_set is not None
    for dataset in (train_set, eval_set):
        if dataset is not None:
            dataset.check_template()
    resumed, resumed_at = find_resume_point(folder)
    plan = RunPlan(
        recipe=recipe,
        parts=tuple(summarise(prepared.module)),
        samples=len(samples),
        eval_samples=len(eval_samples or ()),
        steps=planned_steps(arguments, len(samples)),
        devices=arguments.world_size,
        accumulation=arguments.gradient_accumulation_steps,
        device=str(arguments.device),
        resumed_at=resumed_at,
        notes=(*prepared.notes, *_launcher_notes()),
    )
    if plan.steps == 1:
        arguments.warmup_steps = 0  # a rate that rises begins at zero: nothing would be trained
    is_complete = resumed is not None and plan.resumed_at >= plan.steps
    if not is_complete and (folder / MODEL).exists():
        raise UsageError(
            f"{folder / MODEL}: already exists, though this run has not come to its end; move it away, "
            "or give another `out`"
        )
    first = arguments.process_index == 0
    if first and on_start is not None:
        on_start(plan)
    if dry_run:
        return None
    with hold_run(folder, first=first):
        if first:
            _note_session(folder, identity, plan)
        if not is_complete:
            method.begin(
                datasets=[dataset for dataset in (train_set, eval_set) if dataset is not None],
                folder=folder,
            )
        trainer = method.make_trainer(
            model=prepared.module,
            recipe=recipe,
            processor=processor,
            arguments=arguments,
            train_dataset=train_set,
            eval_dataset=eval_set,
            report=on_progress,
        )
        trainer.accelerator.wait_for_everyone()
        try:
            with memory_errors(), without_bars():
                if is_complete and resumed is not None:
                    trainer.restore(resumed)
                else:
                    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        except MemoryError as error:
            raise OutOfMemory(
                f"{arguments.device} ran out of memory at step {trainer.state.global_step}: lower "
                "`device_batch_size` or `frames`, or train adapters (`lora`)"
            ) from error
        trainer.take_skipped()
        if not (folder / MODEL).exists():
            method.export(trainer, source, folder, prepared)
        trainer.accelerator.wait_for_everyone()
        if not first:
            return None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainingResult(
        folder=folder / MODEL,
        steps=trainer.state.global_step,
        loss=losses[-1] if losses else None,
        skipped=len(trainer.skipped),
    )


def _launcher_notes() -> list[str]:
    if os.environ.get("ACCELERATE_USE_CPU") == "True" and "WORLD_SIZE" not in os.environ:
        return [
            "accelerate launch starts one process on the CPU, whatever number it is given; for several: "
            "torchrun, with the number as `nproc_per_node`"
        ]
    return []


def _stop_token_ids(model: Any, processor: Any) -> list[int]:
    found = {*stop_token_ids(model.generation_config), processor.tokenizer.eos_token_id} - {None}
    return sorted(int(token) for token in found)


def _check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    if not holds_run(folder, RUN):
        return
    before = _read_run(folder)
    recipe, earlier = _flat(identity["recipe"]), _flat(_DEFAULTS | before["recipe"])
    changed = [
        f"{key} {earlier.get(key)!r} → {value!r}"
        for key, value in recipe.items()
        if key not in _FREE and earlier.get(key) != value
    ]
    changed += [
        "other `prompts`" if key == "prompts" else f"`{key}` {before.get(key)} → {value}"
        for key, value in identity.items()
        if key != "recipe" and before.get(key) != value
    ]
    if changed:
        raise UsageError(
            f"{folder}: holds a run that differs: {'; '.join(changed[:3])}\n"
            "give another folder, or the same options to resume it"
        )


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """Its options by the names that overrides have, such as lora.rank."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {f"{key}.{name}": each for name, each in inner} or {key: value}
    return flat


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
            "precision": plan.recipe.precision,
            "versions": library_versions("accelerate", "peft", "bitsandbytes"),
        }
    )
    atomic_write(path, f"{json.dumps(record, indent=1, ensure_ascii=False)}\n".encode())
