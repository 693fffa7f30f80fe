"""The transformers `Trainer`, extended: rates by part, frames in bytes, gates in the log.

Everything else, several devices and nodes included, is the `Trainer`'s and accelerate's.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerState, TrainingArguments

from crosslmm.errors import CheckpointError, UsageError, VideoError
from crosslmm.files import atomic_write, open_regular, parse_json, read_lines
from crosslmm.limits import MAX_LIST_BYTES
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.training.checkpoints import STATE, AtomicCheckpoints
from crosslmm.training.collator import Collator
from crosslmm.training.dataset import Skipped, VideoDataset
from crosslmm.training.processes import count_processes, count_workers, keep_to_arguments
from crosslmm.training.recipe import Recipe
from crosslmm.training.stages import gate_values, group_names, parameter_groups

LOG = "log.jsonl"
SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class TrainingProgress:
    """One entry of the log: `loss` while training, `eval_loss` after an evaluation.

    `gates` are tanh of each branch's gates, first layer to last; `skipped` counts samples so far.
    """

    step: int
    steps: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    learning_rate: float | None
    gates: dict[str, list[float]]
    skipped: int


def training_arguments(recipe: Recipe, folder: Path, *, evaluates: bool) -> TrainingArguments:
    """The recipe as arguments of transformers; the batch is divided over the processes that run."""
    on_gpu = torch.cuda.is_available()
    on_cpu = not (on_gpu or torch.backends.mps.is_available())
    if recipe.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(False):
        raise UsageError("this GPU does not compute in bfloat16; give `precision`=fp32")
    devices = count_processes()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.device_batch_size,
        per_device_eval_batch_size=recipe.device_batch_size,
        gradient_accumulation_steps=recipe.accumulation(devices),
        num_train_epochs=recipe.epochs,
        max_steps=-1 if recipe.steps is None else recipe.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        use_cpu=on_cpu,
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=recipe.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.save_every,
        save_total_limit=recipe.keep_checkpoints,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=recipe.evaluate_every,
        prediction_loss_only=True,
        label_names=["labels"],
        seed=recipe.seed,
        dataloader_num_workers=count_workers(recipe.workers),
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
    )
    keep_to_arguments(arguments)
    return arguments


def planned_steps(arguments: TrainingArguments, samples: int) -> int:
    """The steps of a complete run over so many samples, resumed or not."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batches = math.ceil(samples / (arguments.train_batch_size * arguments.world_size))
    per_epoch = math.ceil(batches / arguments.gradient_accumulation_steps)
    return math.ceil(per_epoch * arguments.num_train_epochs)


class CrossLMMTrainer(AtomicCheckpoints):
    """Trains a model whose trainable parameters `stages.freeze` or `lora` has chosen.

    report: called on the first process with each entry of the log. Raises VideoError when more
    samples had to be skipped than the recipe allows.
    """

    remedy = ": lower `learning_rate`, or give `precision`=fp32"

    def __init__(
        self,
        *,
        model: nn.Module,
        recipe: Recipe,
        processor: CrossLMMProcessor,
        arguments: TrainingArguments,
        train_dataset: VideoDataset,
        eval_dataset: VideoDataset | None = None,
        report: Callable[[TrainingProgress], None] | None = None,
    ) -> None:
        config: Any = model.config
        use_cache = config.use_cache
        super().__init__(
            model=model,
            args=arguments,
            data_collator=Collator(processor, tokens_per_frame=recipe.tokens_per_frame),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
        )
        config.use_cache = use_cache  # the library's note to itself, not part of a checkpoint
        self.recipe = recipe
        self.processor = processor
        self.report = report
        self.remove_callback(PrinterCallback)
        self.add_callback(_LogFile(self))
        self._folder = Path(str(arguments.output_dir))
        self._groups = group_names(model, recipe)
        self._datasets = [train_dataset, *([] if eval_dataset is None else [eval_dataset])]
        self._new: list[Skipped] = []
        self.skipped = read_skipped(self._folder / SKIPPED)

    @property
    def network(self) -> Any:
        """The model that is trained, not wrapped for several devices."""
        return self.model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            groups = parameter_groups(self.network if model is None else model, self._groups)
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Onto the device, and there from bytes to what the encoder takes."""
        self._new.extend(inputs["skipped"])
        rest = {name: value for name, value in inputs.items() if name != "skipped"}
        prepared: dict[str, Any] = super()._prepare_inputs(rest)
        frames = prepared.pop("frames")
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        pixels = self.processor.normalise(frames.flatten(0, 1), dtype=dtype)
        prepared["pixel_values_videos"] = pixels.unflatten(0, frames.shape[:2])
        return prepared

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        count = super()._get_num_items_in_batch(batch_samples, device)
        self._learned = count
        # A step whose samples were all skipped must add nothing, not 0 / 0.
        return count.clamp(min=1) if isinstance(count, torch.Tensor) else count

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """A batch whose samples were all skipped, on all devices, has no loss to be averaged."""
        loss, *rest = super().prediction_step(*args, **kwargs)
        measured = not isinstance(self._learned, torch.Tensor) or bool(self._learned)
        return (loss if measured else None, *rest)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.take_skipped()
        values = gate_values(self.network)
        logged: dict[str, Any] = {**logs, "v2v_gates": values["v2v"], "t2v_gates": values["t2v"]}
        super().log(logged, start_time)
        measured = "loss" in logs or "eval_loss" in logs
        if measured and self.report is not None and self.is_world_process_zero():
            self.report(
                TrainingProgress(
                    step=self.state.global_step,
                    steps=self.state.max_steps,
                    epoch=float(self.state.epoch or 0),
                    loss=logs.get("loss"),
                    eval_loss=logs.get("eval_loss"),
                    learning_rate=logs.get("learning_rate"),
                    gates=values,
                    skipped=len(self.skipped),
                )
            )

    def restore(self, checkpoint: Path) -> None:
        """Take over the weights and the log of a run's last checkpoint; `train` would go on to the end
        of the epoch."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / STATE))

    def _get_learning_rate(self) -> float:
        """That of `learning_rate`, where parts of the model have others."""
        scheduler: Any = self.lr_scheduler
        rates: list[float] = scheduler.get_last_lr()
        known = self.recipe.learning_rate in scheduler.base_lrs
        return rates[scheduler.base_lrs.index(self.recipe.learning_rate) if known else 0]

    def finish_checkpoint(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    def recheck_skipped(self) -> None:
        """Forget those samples of earlier sessions that can be trained on by now."""
        if not self.skipped:
            return
        share = slice(self.args.process_index, None, self.args.world_size)
        still: list[Skipped] = []
        for dataset in self._datasets:
            still += dataset.recheck(self.skipped, share)
        self.skipped = {item.origin: item.reason for item in gather_object(still)}

    def take_skipped(self) -> None:
        """Gather the skipped samples of every process; the same on all of them afterwards."""
        found = gather_object(self._new)
        self._new = []
        fresh = {item.origin: item.reason for item in found if item.origin not in self.skipped}
        self.skipped.update(fresh)
        if fresh and self.is_world_process_zero():
            append_lines(self._folder / SKIPPED, _entries(fresh))
        total = sum(map(len, self._datasets))
        if len(self.skipped) > self.recipe.max_skipped * total:
            origin, reason = next(iter(self.skipped.items()))
            raise VideoError(
                f"{len(self.skipped)} of {total} samples cannot be trained on, more than "
                f"max_skipped {self.recipe.max_skipped:g} allows; "
                f"{self._folder / SKIPPED} names them\n"
                f"the first: {origin}: {reason}"
            )


class _LogFile(TrainerCallback):
    """The log as JSON lines, with the last step always, and without those that a resumed run repeats;
    and the file of skipped samples, of this run alone."""

    def __init__(self, trainer: CrossLMMTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed run may save and log at others
        if state.global_step == 0:
            self._trainer.skipped.clear()
        self._trainer.recheck_skipped()
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            atomic_write(folder / LOG, _lines(state.log_history))
            atomic_write(folder / SKIPPED, _lines(_entries(self._trainer.skipped)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            append_lines(Path(args.output_dir) / LOG, state.log_history[-1:])


def _entries(skipped: dict[str, str]) -> list[dict[str, str]]:
    return [{"origin": origin, "reason": reason} for origin, reason in skipped.items()]


def append_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Append to a file of a run; raises OSError where it is a link."""
    with open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
        file.write(_lines(entries))


def _lines(entries: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def read_skipped(path: Path) -> dict[str, str]:
    """Reasons by origin, from a run's file of skipped samples; an incomplete line is ignored. Raises
    CheckpointError for one of more than `MAX_LIST_BYTES`, and OSError for a link."""
    skipped = {}
    with suppress(FileNotFoundError), open_regular(path, os.O_RDONLY) as file:
        if os.fstat(file.fileno()).st_size > MAX_LIST_BYTES:
            raise CheckpointError(f"{path}: longer than {MAX_LIST_BYTES:,} bytes; move it away")
        for line in read_lines(file):
            try:
                entry = parse_json(line)
                skipped[str(entry["origin"])] = str(entry["reason"])
            except (LookupError, TypeError, ValueError):
                continue
    return skipped
