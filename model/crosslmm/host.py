"""What is certain of this machine without importing torch, which takes seconds.

`known_device` and `cpu_dtype` give None where only torch knows, so that torch decides wherever there
is a doubt.
"""

import ctypes
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version

_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # what oneDNN may use of the processor


def known_device(device: str | None = None) -> str | None:
    """`cpu` where it is asked for, or is what torch chooses."""
    if device in (None, "auto"):
        return "cpu" if _is_without_gpu() else None
    return device if device == "cpu" else None


def cpu_dtype() -> str | None:
    """float32 where the processor cannot compute in bfloat16; what others do, torch knows."""
    if any(name in os.environ for name in _ISA_LIMITS) or platform.machine() != "x86_64":
        return None
    try:
        with open("/proc/cpuinfo") as file:
            flags = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    if flags is None or {"avx512f", "avx_ne_convert"} & set(flags[1].split()):
        return None
    return "float32"


def processor_name() -> str:
    return platform.processor() or platform.machine()


def available_ram() -> int:
    """Bytes of main memory that this process can allocate, within its control group's limit."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        with (
            open("/sys/fs/cgroup/memory.max") as limit,
            open("/sys/fs/cgroup/memory.current") as current,
        ):
            return min(available, int(limit.read()) - int(current.read()))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return available


def _is_without_gpu() -> bool:
    """Whether torch certainly has no GPU: it is built without, or NVIDIA's driver is missing."""
    if sys.platform != "linux":
        return False
    try:
        build = version("torch").partition("+")[2]
    except PackageNotFoundError:
        return False
    if build == "cpu":
        return True
    if build and not build.startswith("cu"):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False
