"""Checkpoints that are complete or absent, whenever the process is killed.

The `Trainer` writes a checkpoint's files one by one into its final folder, and would resume from
an incomplete one. Here they are written to a staging folder that all ranks share and renamed when
the last rank has finished; before deletion they are renamed back into it.
"""

import errno
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from crosslmm.errors import CheckpointError, CrossLMMError, first_line
from crosslmm.files import read_json, sync_entry, sync_folder
from crosslmm.finite_values import broken_values

# How torch reports a full disk, by its writer of archives, and a folder that is gone.
_UNWRITTEN = re.compile("PytorchStreamWriter|inline_container|iostream error|Parent directory")
STATE = "trainer_state.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STAGING = ".partial"
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, None where there is none."""
    return next(reversed(list_checkpoints(folder)), None)


def find_resume_point(folder: Path) -> tuple[Path | None, int]:
    """The checkpoint that a run resumes from and its step; None and 0 for a new run. Raises
    CheckpointError where it is damaged, or something stands in the way of others."""
    _check_staging(folder)
    last = latest_checkpoint(folder)
    if last is None:
        return None, 0
    _check_state(last)
    return last, int(last.name.rpartition("-")[2])


def _check_staging(folder: Path) -> None:
    """CheckpointError where something else stands in the way of a run's checkpoints."""
    staging = folder / _STAGING
    if staging.is_symlink() or (staging.exists() and not staging.is_dir()):
        raise CheckpointError(
            f"{staging}: in the way of a folder that checkpoints are written to; move it away"
        )


def _check_state(checkpoint: Path) -> None:
    """CheckpointError where the state that a run would resume from is damaged."""
    path = checkpoint / STATE
    try:
        state = read_json(path)
        known = isinstance(state["global_step"], int) and isinstance(state["log_history"], list)
        reason = None if known else "not a trainer's state"
        losses = [entry.get("loss", 0.0) for entry in state["log_history"]]
        if not all(map(math.isfinite, losses)):
            reason = "its loss is NaN or infinite"
    except OSError as error:
        reason = error.strerror
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else "not a trainer's state"
    if reason is not None:
        raise _unusable(f"{path}: cannot be read ({reason})", checkpoint)


def _check_complete(checkpoint: Path) -> None:
    """CheckpointError where a file is missing without which the library would begin with a new optimizer
    or schedule."""
    for part in ("optimizer", "scheduler"):
        if not any(checkpoint.glob(f"{part}*")):
            raise _unusable(f"{checkpoint}: has no {part}", checkpoint)


def _unusable(what: str, checkpoint: Path) -> CheckpointError:
    return CheckpointError(
        f"{what}; move {checkpoint.name} away, and the run resumes from the checkpoint before it, or "
        "from its beginning"
    )


@contextmanager
def explain_unsaved(folder: Path) -> Iterator[None]:
    """Turns what the libraries raise where a checkpoint cannot be written into a CheckpointError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _UNWRITTEN.search(str(error)):
            raise
        last = latest_checkpoint(folder)
        full = _says_full(error)
        advice = "make room and start again" if full else "once that is put right, start again"
        raise CheckpointError(
            f"{folder}: a checkpoint could not be written ({first_line(error)[:160]})\n"
            f"{advice}: the run resumes from {last.name if last else 'its beginning'}"
        ) from error


def _says_full(error: Exception) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"os error (\d+)", str(error)):  # as safetensors says it
        number = int(match[1])
    return "Parent directory" not in str(error) if number is None else number in _FULL


@contextmanager
def explain_unread(checkpoint: str | None) -> Iterator[None]:
    """Turns what the libraries raise where a file of a checkpoint is damaged into a CheckpointError:
    torch would advise to load it as a pickle."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, CrossLMMError):
        raise
    except Exception as error:
        what = f"{checkpoint}: is damaged ({type(error).__name__})"
        raise _unusable(what, Path(checkpoint or "")) from error


def check_finite(checkpoint: str | None, state: Any) -> None:
    """CheckpointError where what was loaded of a checkpoint holds NaN or infinity: every step from it
    would, too."""
    if broken := list(broken_values(state)):
        what = f"{checkpoint}: holds NaN or infinity, first in {broken[0]}"
        raise _unusable(what, Path(checkpoint or ""))


def check_loaded(model: nn.Module, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """CheckpointError where a checkpoint lacked weights of the model, or had others."""
    weights = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    missing = set(missing)
    loaded = {weight.data_ptr() for name, weight in weights.items() if name not in missing}
    # Of tied weights only one is stored.
    absent = [name for name in missing if weights[name].data_ptr() not in loaded]
    wrong = [*sorted(absent), *unexpected]
    if wrong:
        raise CheckpointError(f"a checkpoint of this run does not fit its model: {wrong[0]}")


class TrainingDiverged(CrossLMMError):
    """The loss, its gradient or a weight is not a finite number; later checkpoints would be useless."""


class AtomicCheckpoints(Trainer):
    """A `Trainer` whose checkpoints are complete as soon as they exist, and finite."""

    remedy = ""  # what may help where training diverges
    _saving = False

    def _get_output_dir(self, trial: Any = None) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, _STAGING) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Raises TrainingDiverged rather than keep what no run can go on from: the loss is looked at
        only where it is logged."""
        if broken := gather_object(list(broken_values(self.training_state()))):
            raise self.diverged(broken[0])
        folder = Path(super()._get_output_dir(trial))
        staging = folder / _STAGING
        self._clear(staging)
        self._saving = True
        try:
            with explain_unsaved(folder):
                super()._save_checkpoint(model, trial)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            written = staging / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            with explain_unsaved(folder):
                self.finish_checkpoint(written)
                sync_folder(written)
            final = folder / written.name
            if final.exists():
                os.replace(final, staging / "replaced")
            os.replace(written, final)
            sync_entry(folder)
            for old in list_checkpoints(folder)[: -(self.args.save_total_limit or 10**9)]:
                os.replace(old, staging / old.name)
        self._clear(staging)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with explain_unread(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            check_finite(resume_from_checkpoint, self.training_state()["weights"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            _check_complete(Path(checkpoint))
        with explain_unread(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None:
                check_finite(checkpoint, self.training_state())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_unread(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises where transformers would only warn of weights that a checkpoint lacks."""
        model: Any = self.model
        check_loaded(model, load_result.missing_keys, load_result.unexpected_keys)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Raises TrainingDiverged, once it is logged, where the loss or its gradient is not finite."""
        super().log(logs, *args, **kwargs)
        broken = [name for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name, 0.0))]
        if broken:
            raise self.diverged(f"the {broken[0]}")

    def diverged(self, what: str) -> TrainingDiverged:
        last = latest_checkpoint(Path(str(self.args.output_dir)))
        return TrainingDiverged(
            f"{what} of step {self.state.global_step} is not a finite number{self.remedy}\n"
            f"the last checkpoint before is {last or 'none'}"
        )

    def training_state(self) -> dict[str, Any]:
        """What a checkpoint keeps: weights, and the states of optimizer and schedule where there are
        such."""
        model: Any = self.model
        state = {"weights": dict(model.named_parameters())}
        for name, part in (("optimizer", self.optimizer), ("schedule", self.lr_scheduler)):
            if part is not None:
                state[name] = part.state_dict()
        return state

    def finish_checkpoint(self, folder: Path) -> None:
        """Add to a checkpoint before it appears; called on the process that saves."""

    def _clear(self, staging: Path) -> None:
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
