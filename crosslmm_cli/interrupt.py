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

EXIT_CODE = 130
GRACE = 1.0  # seconds for the KeyboardInterrupt to unwind


def install() -> None:
    """Watch for Ctrl-C; called once, from the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with nohup or by a script's `&`
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="ctrl-c", daemon=True).start()


def _watch(reader: int) -> None:
    while os.read(reader, 1)[0] != signal.SIGINT:
        pass
    select.select([reader], [], [], GRACE)
    _leave()


def _leave() -> None:
    """End the process now: its decoders with it, the terminal's cursor back."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            child.kill()
    stderr = sys.__stderr__
    if stderr is not None and stderr.isatty():
        os.write(stderr.fileno(), b"\x1b[?25h\r\n")
    os._exit(EXIT_CODE)
