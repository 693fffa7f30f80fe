"""Which of the published checkpoints this machine can run, in which precision, with how many frames.

All of it is what `load` does by default, counted beforehand: the device and precision that it chooses,
the tokens per frame that the checkpoint was trained with, and the estimate that it makes of memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.cache import DISK_MARGIN, begun, free_disk, hub_cache
from crosslmm.checkpoints.published import LICENSES
from crosslmm.cost.budget import frames_in_context, most_frames
from crosslmm.cost.memory import memory_needed, weight_parts
from crosslmm.cost.settings import Settings
from crosslmm.cost.shape import PUBLISHED, ModelShape
from crosslmm.errors import CheckpointError
from crosslmm.files import gigabytes
from crosslmm.host import available_ram, cpu_dtype, known_device, processor_name
from crosslmm.limits import DEFAULT_FRAMES, quantizes_by_default
from crosslmm.options import ResolvedQuantization


@dataclass(frozen=True)
class Machine:
    """device: as torch names it; memory: bytes free on it; dtype: the precision that it computes in;
    disk: bytes free for downloads."""

    device: str
    device_name: str
    memory: int
    dtype: str
    disk: int

    @property
    def device_type(self) -> str:
        return self.device.partition(":")[0]


@dataclass(frozen=True)
class Fit:
    """A published checkpoint on a machine.

    - download: bytes still to come; 0 where it is on disk.
    - memory: bytes at the peak with `frames` frames, the default number or as many as fit.
    - most_frames: as many as fit in memory and in the context, at `tokens_per_frame`.
    - problem: why it does not fit; None where it does.
    """

    name: str
    license: str
    installed: bool
    download: int
    dtype: str
    quantization: ResolvedQuantization
    tokens_per_frame: int
    frames: int
    most_frames: int
    memory: int
    problem: str | None

    @property
    def takes_default(self) -> bool:
        """Whether it runs with the default number of frames."""
        return self.problem is None and self.frames == DEFAULT_FRAMES


def inspect_machine() -> Machine:
    """The device that models run on by default, and the disk that they are downloaded to."""
    known, dtype = known_device(), cpu_dtype()
    if known is not None and dtype is not None:
        return Machine(known, processor_name(), available_ram(), dtype, free_disk())
    from crosslmm.device import device_name, free_memory, resolve_device, resolve_dtype  # torch

    device = resolve_device()
    return Machine(
        device=str(device),
        device_name=device_name(device),
        memory=free_memory(device),
        dtype=str(resolve_dtype(None, device)).removeprefix("torch."),
        disk=free_disk(),
    )


def fit_all(machine: Machine) -> list[Fit]:
    """Every published checkpoint on this machine, smallest first."""
    return [fit(machine, name) for name in LICENSES]


def propose(fits: Sequence[Fit], machine: Machine) -> Fit | None:
    """The checkpoint to get: on a GPU the largest that takes the default number of frames, elsewhere
    the smallest, since what is computed grows with size as memory does. None where none fits."""
    able = [found for found in fits if found.problem is None]
    if machine.device_type != "cpu":
        able = [found for found in able if found.takes_default][-1:] or able
    return able[0] if able else None


def fit(machine: Machine, name: str) -> Fit:
    shape = PUBLISHED[name]
    stored = replace(shape, interval=None)  # the cross-attention is not in the download
    parameters = sum(part.parameters for part in weight_parts(stored))
    quantization: ResolvedQuantization = (
        "4bit" if quantizes_by_default(machine.device_type, parameters) else "none"
    )
    settings = Settings(dtype=machine.dtype, quantization=quantization)
    installed = _is_installed(name)
    size = sum(part.bytes for part in weight_parts(stored))
    download = 0 if installed else max(size - begun(name), 0)
    most = _most_frames(shape, machine.memory, settings)
    frames = min(most, DEFAULT_FRAMES) or DEFAULT_FRAMES
    memory = memory_needed(shape, frames=frames, dtype=machine.dtype, quantization=quantization)
    problem = None
    if not most:
        least = memory_needed(shape, frames=1, dtype=machine.dtype, quantization=quantization)
        problem = (
            f"needs {gigabytes(least.total)} of memory for a single frame, and {machine.device} has "
            f"{gigabytes(machine.memory)} free"
        )
    elif download and download + DISK_MARGIN > machine.disk:
        problem = (
            f"needs {gigabytes(download + DISK_MARGIN)} of disk, and {gigabytes(machine.disk)} are "
            f"free in {hub_cache()}"
        )
    return Fit(
        name=name,
        license=LICENSES[name],
        installed=installed,
        download=download,
        dtype=machine.dtype,
        quantization=quantization,
        tokens_per_frame=shape.tokens_per_frame,
        frames=frames,
        most_frames=most,
        memory=memory.total,
        problem=problem,
    )


def _most_frames(shape: ModelShape, budget: int, settings: Settings) -> int:
    """As many frames as fit in memory and in the context."""
    context = frames_in_context(shape, None, settings.text_tokens)
    return min(most_frames(shape, budget, settings=settings), context)


def _is_installed(name: str) -> bool:
    try:
        catalog.resolve(name)
    except CheckpointError:
        return False
    return True
