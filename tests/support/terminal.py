"""A command in a pseudo-terminal of 80 columns, and what its screen shows."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pyte

COLUMNS, LINES = 80, 40


class Terminal:
    """`crosslmm` with these arguments, or another `program`, in a terminal of its own; use with
    `with`."""

    def __init__(
        self,
        *arguments: object,
        program: Path | None = None,
        columns: int = COLUMNS,
        **environment: str,
    ) -> None:
        self.raw = b""
        self._screen = pyte.Screen(columns, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        self._process = subprocess.Popen(
            [
                sys.executable,
                *(["-m", "crosslmm_cli"] if program is None else [str(program)]),
                *map(str, arguments),
            ],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=_environment(environment),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def press_ctrl_c(self) -> None:
        self.type("\x03")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, text: str, *, seconds: float = 120) -> None:
        """Until the screen shows this."""
        until = time.monotonic() + seconds
        while text not in "\n".join(self._screen.display):
            assert time.monotonic() < until, f"{text!r} never came:\n{self.screen}"
            assert self._read(1.0), f"ended without {text!r}:\n{self.screen}"

    def wait_for_output(self, *, seconds: float = 120) -> None:
        """Until anything is written."""
        until = time.monotonic() + seconds
        while not self.raw:
            assert time.monotonic() < until, "nothing was written"
            assert self._read(1.0), "ended without a word"

    def wait(self, *, seconds: float = 120) -> int:
        """The exit code, once all is on the screen."""
        until = time.monotonic() + seconds
        while self._read(1.0):
            assert time.monotonic() < until, self.screen
        return self._process.wait(10)

    @property
    def screen(self) -> str:
        """The screen's lines down to the cursor; a line that the cursor is at has no end."""
        lines = [line.rstrip() for line in self._screen.display]
        shown = lines[: self._screen.cursor.y + 1]
        assert not any(lines[self._screen.cursor.y + 1 :]), "something stands below the cursor"
        return "\n".join(shown)

    @property
    def cursor_is_shown(self) -> bool:
        return not self._screen.cursor.hidden

    @property
    def colours(self) -> list[bytes]:
        return re.findall(rb"\x1b\[(?:\d+;)*(?:3|4|9)\d(?:;\d+)*m", self.raw)

    def _read(self, seconds: float) -> bool:
        """Show what came within this time; False once the other side has closed."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # what Linux says when the other side has closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    return {**kept, "TERM": "xterm-256color", **changes}
