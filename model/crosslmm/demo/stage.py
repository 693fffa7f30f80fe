"""One stage of the demo's training on the transformers `Trainer`: resumable at any moment.

A stage is a module that returns its loss, and a source of complete batches by number. As batch i is
the same in every run, resuming skips no data. Only the number passes through the data loader; the
collator makes the batch, so each process of a distributed run draws only its own, and one process
alone takes the same steps.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from crosslmm.demo.optimizer import Rates, make_optimizer
from crosslmm.device import computes_bfloat16
from crosslmm.errors import UsageError
from crosslmm.files import read_json
from crosslmm.training.checkpoints import (
    STATE,
    AtomicCheckpoints,
    check_loaded,
    explain_unread,
    find_resume_point,
)
from crosslmm.training.processes import count_processes, keep_to_arguments
from crosslmm.training.run_folder import hold_run


class BatchSource(Protocol):
    """Batches by number: a pure function of it, whatever was drawn before."""

    def at(self, number: int) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class StageOptions(Rates):
    """How long and how fast a stage trains, all rates under one cosine with warm-up.

    - `batches`: of one step, which the processes share; one process takes them one after another.
    - `final_rate`: what part of the rates is left at the end of the cosine.
    """

    steps: int
    batches: int = 2
    final_rate: float = 0.02
    warmup_steps: int = 100
    save_steps: int = 50
    log_steps: int = 25
    max_grad_norm: float = 1.0
    seed: int = 0


class _Numbers(IterableDataset[int]):
    def __init__(self, start: int):
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


class _StageTrainer(AtomicCheckpoints):
    """Averages whatever scalars the module returns beside its loss, into the log."""

    def __init__(self, *, options: StageOptions, **kwargs: Any):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False  # a loss is the mean of its batch already
        self.options = options
        self._values: dict[str, list[Tensor]] = {}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(cast(nn.Module, self.model), self.options)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        output = model(**inputs)
        for name, value in output.items():
            if name != "loss":
                self._values.setdefault(name, []).append(value.detach().float())
        return (output["loss"], output) if return_outputs else output["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        means = {n: round(float(torch.stack(v).mean()), 4) for n, v in self._values.items()}
        self._values = {}
        logs = {**logs, **means}
        super().log(logs, *args, **kwargs)


class _ProgressReporter(TrainerCallback):
    def __init__(self, stage: str, report: Callable[[str], None]):
        self.stage, self.report = stage, report

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "train_runtime" in logs:  # the trainer's own summary
            return
        hidden = ("epoch", "learning_rate", "grad_norm")
        values = [
            f"{k.replace('_', ' ')} {float(v):.4g}" for k, v in logs.items() if k not in hidden
        ]
        step = f"{self.stage}: step {state.global_step:,} of {state.max_steps:,}"
        self.report(", ".join([step, *values]))


def run_stage(
    module: nn.Module,
    source: BatchSource,
    options: StageOptions,
    *,
    folder: Path,
    report: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Train `module` on `source`, resuming from the latest checkpoint in `folder`.

    Returns the log, one record per `log_steps`. A stage that has finished is only loaded. Raises
    UsageError where the processes cannot share the batches of a step.
    """
    processes = count_processes()
    if options.batches % processes:
        raise UsageError(
            f"{processes} processes cannot share the {options.batches} batches of a step equally"
        )
    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=1,  # a number, which stands for a batch
        gradient_accumulation_steps=options.batches // processes,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": options.final_rate},
        warmup_steps=options.warmup_steps,
        max_grad_norm=options.max_grad_norm,
        bf16=computes_bfloat16(torch.device("cpu" if on_cpu else "cuda")),
        use_cpu=on_cpu,
        logging_steps=options.log_steps,
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        save_total_limit=2,
        seed=options.seed,
        ignore_data_skip=True,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_backend="gloo" if processes > 1 and on_cpu else None,
        accelerator_config={"dispatch_batches": False},
    )
    keep_to_arguments(arguments)
    first = arguments.process_index == 0
    with hold_run(folder, first=first):
        last, done = find_resume_point(folder)
        if last is not None and done >= options.steps:
            with explain_unread(str(last)):
                check_loaded(module, *load_model(module, last / "model.safetensors", strict=False))
            if report is not None and first:
                report(f"{folder.name}: already complete")
            history: list[dict[str, float]] = read_json(last / STATE)["log_history"]
            return history
        if done and report is not None and first:
            report(f"{folder.name}: resuming from step {done:,}")
        trainer = _StageTrainer(
            options=options,
            model=module,
            args=arguments,
            train_dataset=_Numbers(done * options.batches),
            data_collator=lambda numbers: source.at(numbers[0]),
        )
        trainer.remove_callback(PrinterCallback)
        if report is not None and first:
            trainer.add_callback(_ProgressReporter(folder.name, report))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        return list(trainer.state.log_history)
