"""What `crosslmm caption` says on stderr: how far it is, failures as they happen, and a summary."""

import os
import re
import time
from dataclasses import dataclass

from crosslmm.captioning import CaptionResult, Summary
from crosslmm_cli.output import Output, one_line

_CAPTION = 120  # characters shown of a caption
_LINE_EVERY = 10.0  # seconds between lines of progress without a terminal
_NUMBER = re.compile(r"\d[\d.,]*")


class WarningCounts:
    """The warnings of many videos, by kind: those whose texts differ in their numbers or the
    file's name only."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def add(self, result: CaptionResult) -> None:
        for text in result.warnings:
            alike = _NUMBER.sub("#", text.replace(os.path.basename(result.path), "#"))
            kind = self._kinds.setdefault(alike, _Kind(result.path, text))
            kind.videos += 1
            kind.is_same = kind.is_same and kind.text == text

    def lines(self) -> list[str]:
        return [f"warning: {kind}" for kind in self._kinds.values()]


@dataclass
class _Kind:
    """The first video and its text; whether the others have the same one."""

    path: str
    text: str
    videos: int = 0
    is_same: bool = True

    def __str__(self) -> str:
        if self.videos == 1:
            return f"{self.path}: {self.text}"
        example = "" if self.is_same else f", such as {self.path}"
        return f"{self.videos:,} videos{example}: {self.text}"


class CaptionReport:
    """A progress bar on a terminal, otherwise a line every few seconds; a line for each failure, and
    with `verbose` for each video and its warnings; a summary at the end, warnings by kind."""

    def __init__(self, output: Output, summary: Summary, *, verbose: bool = False) -> None:
        self._output = output
        self._summary = summary
        self._verbose = verbose
        self._warnings = WarningCounts()
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
        self._warnings.add(result)
        if result.error is not None:
            self._output.notice(one_line(f"failed: {result.error}"))
        elif self._verbose:
            self._output.notice(one_line(result_line(result)))
            for warning in result.warnings:
                self._output.notice(one_line(f"warning: {result.path}: {warning}"))
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
        for line in [*self._warnings.lines(), *summary_lines(self._summary)]:
            self._output.notice(one_line(line))

    def _exceptions(self) -> list[str]:
        summary = self._summary
        skipped = summary.kept + summary.kept_failures + summary.no_videos
        counts = {"failed": summary.failed, "skipped": skipped}
        return [f"{count:,} {what}" for what, count in counts.items() if count]


def result_line(result: CaptionResult) -> str:
    """A captioned video in one line: its path, what it took, and the beginning of the caption."""
    took = _duration(sum(result.timing.values()))
    count = len(result.frames)
    how = f"{count:,} {'frame' if count == 1 else 'frames'}, {took}"
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
        copies = "a copy of another file" if summary.copies == 1 else "copies of other files"
        counts.append(f"{summary.copies:,} of them {copies}")
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
    if seconds < 0.1:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"


def _rate(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _files(count: int) -> str:
    return f"{count:,} other {'file' if count == 1 else 'files'}"
