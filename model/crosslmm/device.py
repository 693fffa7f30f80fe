"""The device and the precision that a model runs with."""

import torch

from crosslmm.errors import UsageError
from crosslmm.host import available_ram, processor_name
from crosslmm.options import check_device


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The requested device, or the best available: CUDA, then Apple's, then the CPU.

    Raises UsageError for one that is not available.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    chosen = torch.device(check_device(str(device)))
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            raise UsageError(f"{device}: not on this machine, which has {count} CUDA devices")
        return torch.device("cuda", chosen.index or 0)
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"{device}: not on this machine")
    return chosen


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The requested precision, or bfloat16 where the device computes in it, else float32.

    Raises UsageError for an unknown name.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in names:
        raise UsageError(f"{dtype}: not a precision; give auto or one of {', '.join(names)}")
    return names[dtype]


def device_name(device: torch.device) -> str:
    """What the device is called: a GPU's model, or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device; on the CPU, available main memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return available_ram()


def computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Wheels for macOS come without the library, and so without the operator.
        available = torch.backends.mkldnn.is_available()
        return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True
