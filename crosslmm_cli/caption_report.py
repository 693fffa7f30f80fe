"""What `crosslmm caption` says on stderr: how far it is, failures as they happen, and a summary."""

import time

from crosslmm.captioning import CaptionResult, Summary
from crosslmm_cli.output import Output

_CAPTION = 120  # characters shown of a caption
_LINE_EVERY = 10.0  # seconds between lines of progress without a terminal


class CaptionReport:
    """A progress bar on a terminal, otherwise a line every few seconds; a line for each failure, and
    with `verbose` for each video; a summary at the end."""

    def __init__(self, output: Output, summary: Summary, *, verbose: bool = False) -> None:
        self._output = output
        self._summary = summary
        self._verbose = verbose
        self._next_line = time.monotonic() + _LINE_EVERY

    def begin(self) -> None:
        if self._output.draws_progress:
            self._output.progress("caption", 0, 0, label="preparing")

    def draw(self) -> None:
        """Show on a terminal how many are done."""
        label = ", ".join(["captioning", *self._exceptions()])
        self._output.progress("caption", self._summary.fresh, self._summary.to_do, label=label)

    def progress(self, result: CaptionResult) -> None:
        """Called for each result of the run."""
        if result.error is not None:
            self._output.notice(f"failed: {result.error}")
        elif self._verbose:
            self._output.notice(result_line(result))
        summary = self._summary
        if self._output.draws_progress:
            self.draw()
        elif self._output.wants_progress and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY
            pace = summary.seconds / summary.fresh
            left = (summary.to_do - summary.fresh) * pace
            line = [f"{summary.fresh:,} of {summary.to_do:,} done", *self._exceptions()]
            if summary.captioned and summary.seconds:
                line.append(f"{_rate(60 * summary.captioned / summary.seconds)} per minute")
            line.append(f"about {_duration(left)} left")
            self._output.notice(", ".join(line))

    def end(self) -> None:
        self._output.finish_progress()
        for line in summary_lines(self._summary):
            self._output.notice(line)

    def _exceptions(self) -> list[str]:
        summary = self._summary
        skipped = summary.kept + summary.kept_failures + summary.no_videos
        counts = {"failed": summary.failed, "skipped": skipped}
        return [f"{count:,} {what}" for what, count in counts.items() if count]


def result_line(result: CaptionResult) -> str:
    """A captioned video in one line: its path, what it took, and the beginning of the caption."""
    took = _duration(sum(result.timing.values()))
    how = f"{len(result.frames):,} frames, {took}"
    if result.same_as is not None:
        how = f"same as {result.same_as}"
    words = " ".join((result.caption or "").split())
    caption = words if len(words) <= _CAPTION else f"{words[: _CAPTION - 1].rstrip()}…"
    return f"{result.path} ({how}): {caption}"


def summary_lines(summary: Summary) -> list[str]:
    """A run's counts, and where its time went."""
    counts = [f"{summary.captioned:,} captioned in {_duration(summary.seconds)}"]
    if summary.captioned and summary.seconds:
        counts[0] += f", {_rate(60 * summary.captioned / summary.seconds)} per minute"
    if summary.copies:
        counts.append(f"{summary.copies:,} of them copies of other files")
    if summary.failed:
        counts.append(f"{summary.failed:,} failed")
    if summary.kept:
        counts.append(f"{summary.kept:,} already done")
    if summary.kept_failures:
        counts.append(f"{summary.kept_failures:,} failed before (`retry_failed` tries them again)")
    if summary.no_videos:
        counts.append(f"{_files(summary.no_videos)} skipped (not a video)")
    lines = ["; ".join(counts)]
    if summary.shares is not None and summary.captioned + summary.failed:
        shares = summary.shares
        lines.append(
            f"model busy {shares.busy:.0%} of the time (encode {shares.encode:.0%}, "
            f"generate {shares.generate:.0%}), idle {shares.idle:.0%}; "
            f"decode {shares.decode:.0%}, summed over all readers"
        )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"


def _rate(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _files(count: int) -> str:
    return f"{count:,} other {'file' if count == 1 else 'files'}"
