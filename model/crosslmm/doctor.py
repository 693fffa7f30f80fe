"""Checks of this machine that run the real thing: each reader decodes a clip, a layer is quantized and
multiplied, the default model is inspected.

`failure` means that no question can be answered; `warning` that some option would fail.
"""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, cast

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.cache import free_disk, hub_cache
from crosslmm.errors import first_line
from crosslmm.files import gigabytes
from crosslmm.options import ReaderName, Sampling

Status = Literal["ok", "note", "warning", "failure"]

REQUIRED = (
    "torch",
    "transformers",
    "accelerate",
    "av",
    "huggingface-hub",
    "jinja2",
    "numpy",
    "pillow",
    "safetensors",
)
LEAST_MEMORY = 2e9  # bytes
LEAST_DISK = 5e9


@dataclass(frozen=True)
class Check:
    name: str
    status: Status
    detail: str
    remedy: str | None = None


CheckFunction = Callable[[], Check | Iterator[Check]]


def diagnose(checks: Mapping[str, CheckFunction] | None = None) -> Iterator[Check]:
    """Run the checks one by one, by default all of `CHECKS`; none raises."""
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            found = check()
            yield from [found] if isinstance(found, Check) else found
        except Exception as error:  # whatever a broken installation raises is the finding
            yield Check(name, "failure", first_line(error)[:200])


def check_python() -> Check:
    detail = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", f"{detail}, {os.cpu_count()} CPU cores")


def check_packages() -> Check:
    found, absent = [f"crosslmm {metadata.version('crosslmm')}"], []
    for name in REQUIRED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        return Check(
            "packages",
            "failure",
            f"missing: {', '.join(absent)}",
            f"pip install {' '.join(absent)}",
        )
    return Check("packages", "ok", ", ".join(found))


def check_readers() -> Iterator[Check]:
    from crosslmm.video.readers import reader_statuses

    working = []
    with tempfile.TemporaryDirectory(prefix="crosslmm-doctor-") as folder:
        clip = Path(folder) / "clip.mp4"
        try:
            codec = _write_clip(clip)
        except Exception as error:
            yield Check(
                "readers", "failure", f"PyAV cannot write a clip: {first_line(error)[:200]}"
            )
            return
        for reader in reader_statuses():
            name = f"reader {reader.name}"
            if reader.problem is not None:
                yield Check(name, "note", reader.problem)
                continue
            try:
                _read_clip(clip, reader.name)
            except Exception as error:
                yield Check(name, "warning", f"{reader.version}: {first_line(error)[:200]}")
                continue
            working.append(reader.name)
            yield Check(name, "ok", f"{reader.version}, decoded a clip of {codec}")
    if not working:
        yield Check("readers", "failure", "no reader works", "pip install --force-reinstall av")


def _write_clip(path: Path) -> str:
    """Eight grey frames, each brighter than the one before."""
    import numpy as np

    from crosslmm.video.writing import default_codec, write_frames

    frames = (np.full((48, 64, 3), 20 + 30 * number, np.uint8) for number in range(8))
    write_frames(path, frames, fps=8)
    return "H.264" if default_codec() == "libx264" else "MPEG-4"


def _read_clip(path: Path, reader: str) -> None:
    from crosslmm.video import sample

    frames = sample(path, Sampling(frames=4, reader=cast(ReaderName, reader), deadline=20.0))
    levels = frames.pixels.reshape(len(frames), -1).mean(axis=1)
    expected = [20 + 30 * index for index in frames.indices]
    if len(frames) != 4 or max(abs(levels - expected)) > 8:
        raise ValueError(f"decoded frames {frames.indices} with wrong pixels")


def check_device() -> Check:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("device", "ok", f"{name}, {gigabytes(free)} of {gigabytes(total)} free")
    if torch.backends.mps.is_available():
        return Check("device", "ok", "Apple GPU (mps)")
    threads = torch.get_num_threads()
    detail = f"CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    return Check("device", "note", f"{detail}; no GPU, large models will be slow")


def check_memory() -> Check:
    from crosslmm.host import available_ram

    free = available_ram()
    status: Status = "ok" if free >= LEAST_MEMORY else "warning"
    return Check("memory", status, f"{gigabytes(free)} of memory free")


def check_disk() -> Check:
    free = free_disk()
    detail = f"{gigabytes(free)} free in {hub_cache()}"
    if free >= LEAST_DISK:
        return Check("disk", "ok", detail)
    return Check("disk", "warning", detail, "set HF_HOME to a folder on a larger disk")


def check_quantization() -> Check:
    import torch

    try:
        import bitsandbytes

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dense = torch.nn.Linear(64, 64, bias=False)
        layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4")
        layer.load_state_dict(dense.state_dict())
        layer, inputs = layer.to(device), torch.eye(64)
        with torch.no_grad():
            difference = layer(inputs.to(device)).cpu() - dense(inputs)
        if difference.abs().max() > 0.25 * dense.weight.abs().max():
            raise ValueError("wrong result of a 4-bit product")
    except Exception as error:
        detail = f"bitsandbytes: {first_line(error)[:200]}"
        return Check("quantization", "warning", detail, "use `quantization` none")
    version = metadata.version("bitsandbytes")
    return Check("quantization", "ok", f"bitsandbytes {version}, 4-bit product correct on {device}")


def check_default_model() -> Check:
    from crosslmm.checkpoints.inspection import inspect
    from crosslmm.host import available_ram

    choice = catalog.default_model()
    try:
        catalog.resolve_model(choice.name)
        model = inspect(choice.name)
    except catalog.CheckpointError as error:
        first, *rest = str(error).splitlines()
        return Check("model", "failure", first, " ".join(rest) or None)
    detail = f"{choice.name}: {model.kind}, {model.parameters / 1e6:,.1f} M parameters"
    if choice.origin == "built-in":
        detail += "; built in, for synthetic clips only"
    if model.size > available_ram():
        return Check("model", "warning", f"{detail}; larger than free memory")
    return Check("model", "ok", detail)


CHECKS: dict[str, CheckFunction] = {
    "python": check_python,
    "packages": check_packages,
    "readers": check_readers,
    "device": check_device,
    "memory": check_memory,
    "disk": check_disk,
    "quantization": check_quantization,
    "model": check_default_model,
}
