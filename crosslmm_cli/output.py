"""Where every word of the command line goes.

Results go to stdout and nothing else does; notices, progress and errors go to stderr. One object
decides between text, JSON and quiet, and between a terminal and anything else: without a terminal,
or with NO_COLOR, no control code is written.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SOME_FAILED = 3
"""Exit code where some of many videos failed."""

# A model's or a file's words must not steer the terminal: C0 and C1 codes but newline and tab.
_STEERING = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}

STAGES = {
    "load": "loading the model",
    "decode": "reading frames",
    "encode": "encoding frames",
    "prefill": "taking the video in",
    "download": "downloading",
}


def supports_ansi(stream: TextIO) -> bool:
    """Whether colours and moving displays may be written to `stream`."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


class Output:
    """The one writer of a command. `quiet` leaves results and errors only."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._stdout = sys.stdout  # a library that prints is sent elsewhere
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character the terminal lacks is no failure
                stream.reconfigure(errors="backslashreplace")

    @property
    def on_terminal(self) -> bool:
        return self._stdout.isatty()

    def text(self, text: str, *, end: str = "\n") -> None:
        """A result, or a piece of one, shown at once."""
        self.finish_progress()
        self._stdout.write((text.translate(_STEERING) if self.on_terminal else text) + end)
        self._stdout.flush()

    def record(self, record: Mapping[str, Any]) -> None:
        """A result as one line of JSON, in ASCII where stdout is not in JSON's own UTF-8."""
        self.finish_progress()
        ascii_only = (self._stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
        self._stdout.write(json.dumps(record, ensure_ascii=ascii_only) + "\n")
        self._stdout.flush()

    def table(self, rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """Aligned columns, the first row their names; `right` are the columns of numbers."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.rjust(width) if place in right else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.text("  ".join(cells).rstrip())

    def notice(self, text: str) -> None:
        if not self.quiet:
            self._to_stderr(text)

    def error(self, text: str) -> None:
        self.finish_progress()
        self._to_stderr(f"crosslmm: {text}")

    def progress(self, stage: str, done: int, total: int, *, words: str | None = None) -> None:
        """How far a stage is, drawn on a terminal only; `total` 0 where that is not known.

        `words` say what the stage is, where they are not always the same.
        """
        if self.quiet or not supports_ansi(sys.stderr):
            return
        if self._progress is None:
            self._progress = _progress_display()
            self._progress.start()
        words = words or STAGES.get(stage, stage)
        if stage not in self._tasks:
            kind = "bytes" if stage == "download" else "items"
            self._tasks[stage] = self._progress.add_task(words, total=None, kind=kind)
        self._progress.update(
            self._tasks[stage], description=words, completed=done, total=total or None
        )

    def finish_progress(self) -> None:
        """Take the display away; the next call of `progress` starts another."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()

    def _to_stderr(self, text: str) -> None:
        text = text.translate(_STEERING)
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _progress_display() -> "Progress":
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Amount(ProgressColumn):
        """Done of total, and the rate."""

        def render(self, task: Task) -> Text:
            if task.total is None:
                return Text(f"{task.elapsed or 0:.0f} s")
            words = (lambda n: decimal(int(n))) if task.fields["kind"] == "bytes" else _count
            rate = f", {words(task.speed)}/s" if task.speed else ""
            return Text(f"{words(task.completed)} of {words(task.total)}{rate}")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        Amount(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # it would send the answer to stderr
    )


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def size_text(size: float) -> str:
    """Bytes as people write them: 1.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
