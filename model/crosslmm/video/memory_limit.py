"""How much memory this process may hold: set in workers, where a file decides what is taken."""

import contextlib
import os
import sys
import threading
import time

# The exit code of a process that took more than it may and was watched.
OUT_OF_MEMORY = 78
_LOOK = 0.05  # seconds between two looks at what a process holds

_memory_limit: int | None = None


def memory_is_limited() -> bool:
    """Whether this is a worker that was given a limit."""
    return _memory_limit is not None


def out_of_memory(limit: int | None = None) -> str:
    """What to say of a file for which memory ran out: here, or in a worker with that limit."""
    limit = limit or _memory_limit
    most = "" if limit is None else f"; a reader may take {limit >> 20:,} MiB"
    return f"out of memory while reading it{most}"


def limit_memory(size: int) -> None:
    """Let this process hold so many bytes in all, with what it holds by now.

    On Linux, allocating more is an error. The limit is one of data and not of addresses, since a library
    such as torch maps many gigabytes of files that it hardly reads. Elsewhere no such limit is kept, and
    the process is watched.
    """
    global _memory_limit
    _memory_limit = size
    if sys.platform != "linux":
        watch_memory(size)
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    room = max(0, size - (process_status("VmRSS") or 0))
    wanted = min(_memory_taken() + room, 1 << 60)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def watch_memory(size: int) -> None:
    """End this process, with the exit code `OUT_OF_MEMORY`, soon after it holds more than so many bytes;
    what its libraries hold by now leaves at least a quarter of that for its work."""
    most = max(size, _memory_held() + size // 4)

    def look() -> None:
        while _memory_held() <= most:
            time.sleep(_LOOK)
        os._exit(OUT_OF_MEMORY)

    threading.Thread(target=look, name="crosslmm-memory", daemon=True).start()


def memory_left() -> float:
    """Bytes that this process may still allocate; infinity where there is no limit."""
    if _memory_limit is None:
        return float("inf")
    if sys.platform != "linux":
        return _memory_limit - _memory_held()
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[0] - _memory_taken()


def _memory_taken() -> int:
    return process_status("VmData") or 0


def _memory_held() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def process_status(field: str) -> int | None:
    """A size from the kernel's status of this process, in bytes; None where it does not tell."""
    with (
        contextlib.suppress(OSError),
        open("/proc/self/status", encoding="ascii", errors="replace") as status,
    ):
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    return None
