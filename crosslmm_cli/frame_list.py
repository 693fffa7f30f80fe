"""Frames that a user names, one per line: `12.5`, `1:05`, `#120`, or JSON with a list `index`."""

import sys
from pathlib import Path
from typing import Any

import typer

from crosslmm.errors import UsageError
from crosslmm.files import parse_json, read_regular
from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm_cli.options import seconds

_MOST_DIGITS = 18


def read_frame_list(
    file: str | None, videos: list[str], questions: list[str]
) -> tuple[float | str, ...] | None:
    """What `file` names, `-` being stdin, as `Sampling` takes it in `at`; None where there is no file.

    videos, questions: as given, one of which may read stdin, too.
    """
    if file is None:
        return None
    if file == "-":
        for what, given in (("video", videos), ("question", questions)):
            if "-" in given:
                raise UsageError(f"-: stdin holds the {what} or the frames, not both")
        data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise UsageError(f"-: stdin holds over {MAX_TEXT_BYTES >> 20} MiB of frames")
    else:
        try:
            data = read_regular(Path(file), longest=MAX_TEXT_BYTES)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{file}: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not UTF-8 text") from None
    return _parse(text, file)


def _parse(text: str, file: str) -> tuple[float | str, ...]:
    named: list[float | str] = []
    objects = 0
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        where = f"{file}, line {number}"
        if entry.startswith("{"):
            objects += 1
            named += _indices(entry, where)
        else:
            named.append(_moment(entry, where))
    if objects > 1:
        raise UsageError(f"{file}: {objects:,} lists of frames; give the line of this video only")
    if not named:
        raise UsageError(f"{file}: no frames are named in it")
    return tuple(named)


def _moment(entry: str, where: str) -> float | str:
    if entry.startswith("#"):
        digits = entry[1:]
        if digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS:
            return entry
    else:
        try:
            return seconds(entry)
        except typer.BadParameter:
            pass
    raise UsageError(
        f"{where}: {_shown(entry)} is neither a time (12.5, 1:05) nor the index of a frame (#120)"
    )


def _indices(entry: str, where: str) -> list[str]:
    try:
        record: Any = parse_json(entry)
    except ValueError:
        raise UsageError(f"{where}: not valid JSON") from None
    found = record.get("index")
    if not isinstance(found, list) or not all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 10**_MOST_DIGITS
        for each in found
    ):
        raise UsageError(f"{where}: `index` must be a list of frame numbers, counted from 0")
    return [f"#{each}" for each in found]


def _shown(entry: str) -> str:
    return repr(entry if len(entry) <= 40 else entry[:39] + "…")
