"""The other side of ``process_reader``: decodes in a process that can be killed.

Started as its own interpreter, never by fork or by re-running the user's ``__main__``. It reads one
line of JSON on stdin and writes frames to stdout: a line of JSON each, and the pixels. It dies with
its parent, whichever way that dies: stdin ends, and on Linux the kernel kills it.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from crosslmm.errors import VideoError
from crosslmm.video import image

if TYPE_CHECKING:
    import numpy as np

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class DecodeJob:
    """What the worker is to decode: frame ``numbers`` of ``path``, shown at ``times`` (seconds).

    ``count`` is how many frames the packet index says there are; ``display`` the upright
    (height, width) with square pixels, ``size`` the one to give; the rest as in ``PacketIndex``.
    """

    path: str
    numbers: list[int]
    times: list[float]
    count: int
    hidden: int
    leading: bool
    sequential: bool
    mirrored: bool
    container: str
    display: tuple[int, int]
    size: tuple[int, int]
    resample: int

    def refuse(self, reader: str, why: str) -> VideoError:
        """The error for a file that this reader would get wrong."""
        return VideoError(f"{self.path}: {reader} {why}; use --reader pyav")


def main() -> None:
    """Serve one order, then end."""
    out = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not get between the frames.
    os.dup2(2, 1)
    parent = os.getppid()
    die_with_parent(parent)
    order_line = sys.stdin.buffer.readline()
    threading.Thread(target=_die_at_end_of_input, daemon=True).start()
    given = json.loads(order_line)
    read = given.pop("read")
    job = DecodeJob(**{**given, "display": tuple(given["display"]), "size": tuple(given["size"])})
    module, _, function = read.partition(":")
    try:
        frames: Iterator[tuple[int, np.ndarray]] = getattr(import_module(module), function)(job)
        time_of = dict(zip(job.numbers, job.times, strict=True))
        for number, pixels in frames:
            square = image.resize(pixels, job.display, job.resample)
            shown = image.resize(square, job.size, job.resample)
            head = {"index": number, "time": time_of[number], "shape": shown.shape}
            _send(out, head, shown.tobytes())
        _send(out, {"end": True})
    except VideoError as error:
        _send(out, {"error": str(error)})
    except ImportError as error:
        _send(out, {"error": f"{job.path}: the reader does not load here ({error})"})
    except Exception:  # whatever a library may raise; its own words are of no use to the reader
        reader = module.rpartition(".")[2]
        _send(out, {"error": str(job.refuse(reader, "could not decode this file"))})


def _send(out, head: dict, payload: bytes = b"") -> None:  # type: ignore[no-untyped-def]
    out.write(json.dumps(head).encode() + b"\n")
    out.write(payload)
    out.flush()


def _die_at_end_of_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def die_with_parent(parent: int) -> None:
    """Leave Ctrl-C to the process `parent`, and end when it does (on Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
