"""Captions as lines of JSON: the manifest itself, under the name that the user gave."""

from collections.abc import Sequence
from pathlib import Path

from crosslmm.captioning.outputs import CaptionOutput, output_file
from crosslmm.captioning.sources import Source


class JSONLinesOutput(CaptionOutput):
    """A line for each video."""

    is_manifest = True


def make_output(
    format: str, out: Path | None, part: str, sources: Sequence[Source]
) -> JSONLinesOutput:
    path = output_file(format, out, part)
    return JSONLinesOutput(path, path)
