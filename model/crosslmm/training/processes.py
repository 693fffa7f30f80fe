"""The processes that a launcher, `torchrun` or `accelerate launch`, started for one run."""

import os

import torch
from accelerate import PartialState
from transformers import TrainingArguments


def count_processes() -> int:
    """As the launcher says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_workers(asked: int) -> int:
    """Processes that read data, no more than there are cores for them."""
    return min(asked, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else asked)


def join_processes() -> PartialState:
    """All of them, to wait for each other; without a GPU, too, where accelerate asks to be told so."""
    return PartialState(cpu=not torch.cuda.is_available())


def keep_to_arguments(arguments: TrainingArguments) -> None:
    """Against what transformers takes from the surroundings instead: of two GPUs without a launcher
    DataParallel, which knows no masks and would drop every second batch, and the precision of
    `accelerate config`."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
