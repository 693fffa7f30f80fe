"""Ctrl-C that always works.

Python runs its signal handler between two bytecodes, so a long call into C (an import of torch, a
matrix product, a decoder) holds Ctrl-C back until it returns, and a thread that does not end holds
the exit back. The signal therefore also wakes a watching thread, which ends the process when it is
still there a moment later, or at once at a second Ctrl-C.
"""

import os
import select
import signal
import sys
import threading
from contextlib import suppress
from typing import NoReturn

EXIT_CODE = 130
GRACE = 1.0  # seconds for the KeyboardInterrupt to unwind

_requested = threading.Event()


def install() -> None:
    """Watch for Ctrl-C; called once, from the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by nohup, or by a script's `&`
        return
    signal.signal(signal.SIGINT, _handle)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="ctrl-c", daemon=True).start()


def requested() -> bool:
    """Whether Ctrl-C was pressed: what is raised while unwinding may be another error."""
    return _requested.is_set()


def leave(code: int) -> NoReturn:
    """End the process now, its reading processes with it, the terminal's cursor shown.

    Without Python's own ending, which waits for threads that are busy, or aborts over them.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _end(code)


def _end(code: int) -> NoReturn:
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            child.kill()
    with suppress(OSError, ValueError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h")
    os._exit(code)


def _handle(number: int, frame: object) -> NoReturn:
    _requested.set()
    raise KeyboardInterrupt


def _watch(reader: int) -> None:
    while os.read(reader, 1)[0] != signal.SIGINT:
        pass
    select.select([reader], [], [], GRACE)
    with suppress(OSError):
        os.write(2, b"crosslmm: interrupted\n")
    _end(EXIT_CODE)
