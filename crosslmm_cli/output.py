"""Everything that the command line writes.

Results go to stdout and nothing else does; notices, progress and errors go to stderr. One object
decides between text, JSON and quiet, and between a terminal and anything else. Without a terminal no
control code is written; with NO_COLOR, none but those that move the progress display.

The terminal has one live display, whichever object started it, and it is removed before an error or a
result is written.
"""

import json
import os
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from crosslmm_cli.flags import current_flags, with_flags
from crosslmm_cli.interrupt import hold_interrupt

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

# Text from a model or a file must not control the terminal: C0 and C1 codes but newline and tab, and
# what shows letters in another order than they have, such as a file's ending as another one.
_REORDERING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
CONTROL_CODES = {
    code: None
    for code in (*range(32), 127, *range(128, 160), *_REORDERING)
    if chr(code) not in "\n\t"
}
# Those that JSON lets stand as they are.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(127, 160)}

STAGES = {
    "load": "loading the model",
    "decode": "decoding frames",
    "encode": "encoding frames",
    "prefill": "prefilling",
    "download": "downloading",
    "machine": "looking at this machine",
    "repository": "looking at the repository",
}


def one_line(text: str) -> str:
    """A name of a file may hold line breaks, and what follows would look like a line of ours."""
    return " ".join(text.splitlines())


def supports_ansi(stream: TextIO) -> bool:
    """Whether colours and moving displays may be written to `stream`."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def _moves_cursor(stream: TextIO) -> bool:
    return os.environ.get("TERM") != "dumb" and stream.isatty()


class _Display:
    """The progress display of this process; nothing is shown until a stage is.

    Rich writes its buffer again where it was interrupted after writing it, which leaves a bar behind.
    Ctrl-C may also remove the display from another thread, which waits for a line that is being drawn.

    `line_is_open`: a result on the terminal has no end yet, so that the cursor is behind it.
    """

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.closed = False
        self.line_is_open = False
        self._lock = threading.RLock()

    @hold_interrupt()
    def update(self, stage: str, done: int, total: int, label: str) -> None:
        with self._lock:
            if not self.closed:
                self._draw(stage, done, total, label)

    def _draw(self, stage: str, done: int, total: int, label: str) -> None:
        if self.progress is None:
            self.progress = _progress_display()
            self.progress.start()
        if stage not in self.tasks:
            kind = "bytes" if stage == "download" else "items"
            self.tasks[stage] = self.progress.add_task(label, total=None, kind=kind, first=done)
        self.progress.update(
            self.tasks[stage], description=label, completed=done, total=total or None
        )

    def end_line(self) -> str:
        """What ends an open line, where stderr is on the same terminal."""
        ends = self.line_is_open and sys.stderr.isatty()
        self.line_is_open = False
        return "\n" if ends else ""

    @hold_interrupt()
    def stop(self) -> None:
        with self._lock:
            if self.progress is not None:
                self.progress.stop()
            self.progress, self.tasks = None, {}


_display = _Display()


def close_display() -> None:
    """Remove the live display for good: another thread may still report progress as the process ends."""
    _display.closed = True
    _display.stop()
    if end := _display.end_line():
        print(end, end="", file=sys.stderr, flush=True)


def stop_display() -> None:
    """Remove the live display, so that what is written next begins on an empty line."""
    _display.stop()


class Output:
    """The one writer of a command; `quiet` leaves results and errors only, `progress` False draws
    no display.

    Notices and errors name the command's flags where the library names its parameters.
    """

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, progress: bool = True
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._wants_progress = progress and not quiet
        self._stdout = sys.stdout  # what other libraries print is redirected
        self._flags = current_flags()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character that the terminal lacks must not fail
                stream.reconfigure(errors="backslashreplace")

    @property
    def on_terminal(self) -> bool:
        return self._stdout.isatty()

    @property
    def draws_progress(self) -> bool:
        return self._wants_progress and _moves_cursor(sys.stderr)

    @property
    def wants_progress(self) -> bool:
        """Whether progress is told at all, as a display or in lines."""
        return self._wants_progress

    def text(self, text: str, *, end: str = "\n", faint: bool = False) -> None:
        """A result, or a piece of one, shown at once; faint where the terminal can."""
        self.finish_progress()
        shown = text.translate(CONTROL_CODES) + end if self.on_terminal else text + end
        if faint and text and supports_ansi(self._stdout):
            shown = f"\x1b[2m{shown}\x1b[22m"
        if shown and self.on_terminal:
            _display.line_is_open = not shown.endswith("\n")
        self._stdout.write(shown)
        self._stdout.flush()

    def stream(self, pieces: Iterable[str], *, is_faint: Callable[[], bool]) -> None:
        """A result in pieces, and the end of its line; a terminal gets complete words, some faint."""
        if not self.on_terminal:
            for piece in pieces:
                self.text(piece, end="")
            self.text("")
            return
        from crosslmm_cli.word_wrap import WordWrap  # Rich, which errors do not need

        wrap = WordWrap(lambda: _terminal_width(self._stdout))
        try:
            for piece in pieces:
                self.text(wrap.feed(piece.translate(CONTROL_CODES)), end="", faint=is_faint())
        finally:
            self.text(wrap.finish(), end="")
        self.text("")

    def record(self, record: Mapping[str, Any]) -> None:
        """A result as one line of JSON, in ASCII where stdout is not in JSON's own UTF-8."""
        self.finish_progress()
        ascii_only = (self._stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
        line = json.dumps(record, ensure_ascii=ascii_only).translate(_JSON_ESCAPES)
        self._stdout.write(line + "\n")
        self._stdout.flush()

    def table(
        self,
        rows: Sequence[Sequence[str]],
        *,
        header: bool = True,
        right: Sequence[int] = (),
        first_width: int = 0,
    ) -> None:
        """Aligned columns; on a terminal long cells are wrapped within their column.

        `header`: the first row names the columns. `right`: the columns of numbers. `first_width`:
        the least width of the first column, for tables that are written row by row.
        """
        rows = [[one_line(cell) for cell in row] for row in rows]
        if self.on_terminal:
            self._rich_table(rows, header=header, right=right, first_width=first_width)
            return
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        widths[0] = max(widths[0], first_width)
        for row in rows:
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.text("  ".join(cells).rstrip())

    def _rich_table(
        self,
        rows: Sequence[Sequence[str]],
        *,
        header: bool,
        right: Sequence[int],
        first_width: int,
    ) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        self.finish_progress()
        table = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0))
        for column, name in enumerate(rows[0]):
            table.add_column(
                Text(name) if header else "",
                justify="right" if column in right else "left",
                overflow="fold",
                min_width=first_width if column == 0 and first_width else None,
            )
        for row in rows[1:] if header else rows:
            table.add_row(*(Text(cell.translate(CONTROL_CODES)) for cell in row))
        plain: Any = {"color_system": None, "force_terminal": False}  # laid out all the same
        Console(file=self._stdout, **({} if supports_ansi(self._stdout) else plain)).print(table)

    def notice(self, text: str, *, always: bool = False) -> None:
        """A line on stderr; `always`: where notices are hidden, too."""
        if always or not self.quiet:
            self._to_stderr(with_flags(text, self._flags))

    def error(self, text: str) -> None:
        self.finish_progress()
        self._to_stderr(f"crosslmm: {with_flags(text, self._flags)}")

    def traceback(self, error: BaseException) -> None:
        self.finish_progress()
        lines = _display.end_line() + "".join(traceback.format_exception(error))
        print(lines.translate(CONTROL_CODES), end="", file=sys.stderr, flush=True)

    def confirm(self, question: str, *, default: bool = False) -> bool:
        """A yes or no from stdin; the question goes to stderr, again until one of them is given.

        Raises Abort at the end of stdin.
        """
        self.finish_progress()
        width = _terminal_width(sys.stderr) if sys.stderr.isatty() else None
        prompt = _wrap(f"{question} [{'Y/n' if default else 'y/N'}]:", width)
        answers = {"": default, "y": True, "yes": True, "n": False, "no": False}
        while True:
            try:
                print(f"{prompt} ", end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                line = ""
            if not line:
                print(file=sys.stderr)  # the cursor is still behind the question
                raise typer.Abort
            answer = line.strip().lower()
            if answer in answers:
                return answers[answer]
            prompt = "please answer y or n:"

    def progress(self, stage: str, done: int, total: int, *, label: str | None = None) -> None:
        """Draw how far a stage is, on a terminal only; `total` is 0 where it is not known.

        `label`: what is shown instead of the stage's usual label.
        """
        if self.draws_progress:
            _display.update(stage, done, total, label or STAGES.get(stage, stage))

    def finish_progress(self) -> None:
        """Remove the display; the next call of `progress` starts a new one."""
        stop_display()

    @hold_interrupt()
    def _to_stderr(self, text: str) -> None:
        text = _display.end_line() + text.translate(CONTROL_CODES)
        progress = _display.progress
        if progress is not None:
            text = _wrap(text, progress.console.width)
            progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            width = _terminal_width(sys.stderr) if sys.stderr.isatty() else None
            # One write: Ctrl-C makes the terminal drop what it has not shown yet, such as a line's end.
            print(_wrap(text, width) + "\n", end="", file=sys.stderr, flush=True)


def _terminal_width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _wrap(text: str, width: int | None) -> str:
    """Each line broken between words, its indent kept; a longer word, such as a path, stays whole."""
    if width is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ) or [line]
    return "\n".join(lines)


def _progress_display() -> "Progress":
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
    )
    from rich.text import Text

    class Amount(ProgressColumn):
        """Done of total, and the rate."""

        def render(self, task: Task) -> Text:
            if task.total is None:
                return Text(f"{task.elapsed or 0:.0f} s")
            amount = (lambda n: decimal(int(n))) if task.fields["kind"] == "bytes" else _count
            speed = speed_of(task)
            rate = f", {amount(speed)}/s" if speed else ""
            return Text(f"{amount(task.completed)} of {amount(task.total)}{rate}")

    class Remaining(ProgressColumn):
        """How long it will take, at the rate shown."""

        def render(self, task: Task) -> Text:
            speed = speed_of(task)
            if not speed or task.total is None:
                return Text("-:--")
            seconds = round(max(task.total - task.completed, 0) / speed)
            hours, minutes = divmod(seconds // 60, 60)
            clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
            return Text(f"{clock}:{seconds % 60:02}")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        Amount(),
        Remaining(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # it would send the answer to stderr
    )


def speed_of(task: "Task") -> float | None:
    """Per second: the mean of all, since items come in bursts; of bytes, the latest."""
    if task.fields["kind"] == "bytes":
        return task.speed
    done = task.completed - task.fields["first"]
    return done / task.elapsed if done > 0 and task.elapsed else None


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
