"""Everything that the command line writes.

Results go to stdout and nothing else does; notices, progress and errors go to stderr. One object
decides between text, JSON and quiet, and between a terminal and anything else: without a terminal,
or with NO_COLOR, no control code is written.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from crosslmm_cli.flags import current_flags, with_flags

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Text from a model or a file must not control the terminal: C0 and C1 codes but newline and tab.
_CONTROL_CODES = {
    code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"
}

STAGES = {
    "load": "loading the model",
    "decode": "decoding frames",
    "encode": "encoding frames",
    "prefill": "prefilling",
    "download": "downloading",
}


def supports_ansi(stream: TextIO) -> bool:
    """Whether colours and moving displays may be written to `stream`."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


class Output:
    """The one writer of a command; `quiet` leaves results and errors only.

    Notices and errors name the command's flags where the library names its parameters.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._stdout = sys.stdout  # what other libraries print is redirected
        self._flags = current_flags()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character that the terminal lacks must not fail
                stream.reconfigure(errors="backslashreplace")

    @property
    def on_terminal(self) -> bool:
        return self._stdout.isatty()

    def text(self, text: str, *, end: str = "\n") -> None:
        """A result, or a piece of one, shown at once."""
        self.finish_progress()
        self._stdout.write((text.translate(_CONTROL_CODES) if self.on_terminal else text) + end)
        self._stdout.flush()

    def record(self, record: Mapping[str, Any]) -> None:
        """A result as one line of JSON, in ASCII where stdout is not in JSON's own UTF-8."""
        self.finish_progress()
        ascii_only = (self._stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
        self._stdout.write(json.dumps(record, ensure_ascii=ascii_only) + "\n")
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
        if supports_ansi(self._stdout):
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
            table.add_row(*(Text(cell.translate(_CONTROL_CODES)) for cell in row))
        Console(file=self._stdout).print(table)

    def notice(self, text: str) -> None:
        if not self.quiet:
            self._to_stderr(with_flags(text, self._flags))

    def error(self, text: str) -> None:
        self.finish_progress()
        self._to_stderr(f"crosslmm: {with_flags(text, self._flags)}")

    def progress(self, stage: str, done: int, total: int, *, label: str | None = None) -> None:
        """Draw how far a stage is, on a terminal only; `total` is 0 where it is not known.

        `label`: what is shown instead of the stage's usual label.
        """
        if self.quiet or not supports_ansi(sys.stderr):
            return
        if self._progress is None:
            self._progress = _progress_display()
            self._progress.start()
        label = label or STAGES.get(stage, stage)
        if stage not in self._tasks:
            kind = "bytes" if stage == "download" else "items"
            self._tasks[stage] = self._progress.add_task(label, total=None, kind=kind)
        self._progress.update(
            self._tasks[stage], description=label, completed=done, total=total or None
        )

    def finish_progress(self) -> None:
        """Remove the display; the next call of `progress` starts a new one."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()

    def _to_stderr(self, text: str) -> None:
        text = text.translate(_CONTROL_CODES)
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
            amount = (lambda n: decimal(int(n))) if task.fields["kind"] == "bytes" else _count
            rate = f", {amount(task.speed)}/s" if task.speed else ""
            return Text(f"{amount(task.completed)} of {amount(task.total)}{rate}")

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
    """A number of bytes in a readable unit, such as 1.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
