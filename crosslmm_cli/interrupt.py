"""Ctrl-C that always works.

Python runs its signal handler between two bytecodes, so a long call into C (an import of torch, a
matrix product, a decoder) holds Ctrl-C back until it returns, and a thread that does not end holds
the exit back. The signal therefore also wakes a watching thread, which ends the process when it is
still there a moment later, or at once at a second Ctrl-C.
"""

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

EXIT_CODE = 130
GRACE = 1.0  # seconds for the KeyboardInterrupt to unwind

_requested = threading.Event()


@dataclass
class _Spared:
    """A Ctrl-C that ends nothing: not yet told by the handler, not yet seen by the watcher."""

    notice: Callable[[], None] | None = None
    unseen: bool = False

    def seen(self) -> bool:
        """Whether the signal that the watcher has seen is that one."""
        spared, self.unseen = self.unseen, False
        return spared


_spared = _Spared()


def install() -> None:
    """Watch for Ctrl-C; called once, from the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by nohup, or by a script's `&`
        return
    signal.signal(signal.SIGINT, _handle)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Detached, because it has to live as long as the process.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="ctrl-c", daemon=True).start()


@contextmanager
def defer_first_interrupt(notice: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C only calls `notice`; the second ends the process as ever."""
    _spared.notice, _spared.unseen = notice, True
    try:
        yield
    finally:
        _spared.notice, _spared.unseen = None, False


def requested() -> bool:
    """Whether Ctrl-C was pressed: what is raised while unwinding may be another error."""
    return _requested.is_set()


def force_exit(code: int) -> NoReturn:
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


def _handle(number: int, frame: object) -> None:
    notice, _spared.notice = _spared.notice, None
    if notice is not None:
        return notice()
    _requested.set()
    raise KeyboardInterrupt


def _watch(reader: socket.socket) -> None:
    while reader.recv(1)[0] != signal.SIGINT or _spared.seen():
        pass
    select.select([reader], [], [], GRACE)
    with suppress(OSError):
        os.write(2, b"crosslmm: interrupted\n")
    _end(EXIT_CODE)
