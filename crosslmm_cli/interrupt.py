"""Ctrl-C that always works.

Python runs its signal handler between two bytecodes, so a long call into C (an import of torch, a
matrix product, a decoder) delays Ctrl-C until it returns, and a thread that does not end delays the
exit. The signal therefore also wakes a watcher thread, which ends the process if it is still running
a moment later, or at once at a second Ctrl-C.
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
_cleanup: list[Callable[[], None]] = []
_remarks: list[str] = []


@dataclass
class _Deferral:
    """A Ctrl-C that ends nothing; both the handler and the watcher thread see the signal."""

    callback: Callable[[], None] | None = None
    pending: bool = False  # the watcher has not seen it yet

    def take(self) -> bool:
        """Whether the signal that the watcher has just seen is the deferred one."""
        deferred, self.pending = self.pending, False
        return deferred


@dataclass
class _Held:
    """Whether Ctrl-C waits, and the signal that came meanwhile."""

    active: bool = False
    signal: int | None = None


_deferral = _Deferral()
_held = _Held()


def install() -> None:
    """Watch for Ctrl-C; called once, from the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by nohup, or by a script's `&`
        return
    signal.signal(signal.SIGINT, _handle)
    sys.unraisablehook = _ignore_interrupt
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Detached, because it has to live as long as the process.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="ctrl-c", daemon=True).start()


@contextmanager
def defer_first_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C only calls `callback`; the second ends the process as usual."""
    _deferral.callback, _deferral.pending = callback, True
    try:
        yield
    finally:
        _deferral.callback, _deferral.pending = None, False


@contextmanager
def hold_interrupt() -> Iterator[None]:
    """Inside, Ctrl-C waits for the end: for what is short and must not be left half done, such as a
    line that is being drawn."""
    if _held.active or threading.current_thread() is not threading.main_thread():
        yield  # Python raises it in the main thread only
        return
    _held.active = True
    try:
        yield
    finally:
        _held.active = False
        number, _held.signal = _held.signal, None
        if number is not None:
            _handle(number, None)


@contextmanager
def released_interrupt() -> Iterator[None]:
    """Inside, another library reads the terminal and watches for signals in its own way."""
    descriptor = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)


def before_exit(step: Callable[[], None]) -> None:
    """Call `step` where Ctrl-C ends the process from outside, before its line is written."""
    _cleanup.append(step)


@contextmanager
def remark(text: str) -> Iterator[None]:
    """Inside, a Ctrl-C that ends the process adds this to what it says."""
    _remarks.append(text)
    try:
        yield
    except KeyboardInterrupt:
        raise  # `message` is still to say it
    except BaseException:
        _remarks.remove(text)
        raise
    _remarks.remove(text)


def message() -> str:
    """What is said of a Ctrl-C that ends the process."""
    return "\n".join(["interrupted", *_remarks])


def requested() -> bool:
    """Whether Ctrl-C was pressed; unwinding from it may raise another error."""
    return _requested.is_set()


def force_exit(code: int) -> NoReturn:
    """End the process and its children now, and show the terminal's cursor again.

    Python's own exit would wait for busy threads, or abort on them.
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
    if _held.active:
        _held.signal = number
        return None
    callback, _deferral.callback = _deferral.callback, None
    if callback is not None:
        return callback()
    _requested.set()
    raise KeyboardInterrupt


def _ignore_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    """Say nothing of a KeyboardInterrupt that came where Python cannot raise it, such as in what it
    calls before a fork: the watcher ends the process."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _watch(reader: socket.socket) -> None:
    while reader.recv(1)[0] != signal.SIGINT or _deferral.take():
        pass
    select.select([reader], [], [], GRACE)
    # In threads of their own, since the interrupted code may hold the locks that they need.
    for step in _cleanup:
        thread = threading.Thread(target=step, daemon=True)
        thread.start()
        thread.join(GRACE)
    with suppress(OSError):
        os.write(2, f"crosslmm: {message()}\n".encode())
    _end(EXIT_CODE)
