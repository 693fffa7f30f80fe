"""Evidence as a contact sheet: question, answer, and the frames with the most evidence."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from crosslmm.evidence.maps import EvidenceMaps
from crosslmm.evidence.pictures import Picture, best_frames, encode, read_pictures

_MOST_FRAMES = 6
_COLUMNS = 3
_WIDTH = 420  # of a frame
_GAP, _LINE = 18, 24
_MOST_LINES = 6  # of a text
_INK, _PALE, _MARK = "#1c1c1e", "#6e6e73", "#ff6000"
_BARS = 56


def draw_sheet(evidence: EvidenceMaps) -> bytes:
    """A PNG. Raises VideoError where the frames cannot be read again."""
    pictures = list(read_pictures(evidence, best_frames(evidence, _MOST_FRAMES), width=_WIDTH))
    columns = min(_COLUMNS, len(pictures))
    width = _GAP + max(columns, 2) * (_WIDTH + _GAP)
    text, several = _font(18), len(evidence.videos) > 1
    parts = (
        (evidence.question, _font(20, bold=True), _INK),
        (evidence.answer[: evidence.reasoning], text, _PALE),
        (evidence.answer[evidence.reasoning :], text, _INK),
    )
    lines = [
        (line, font, ink)
        for said, font, ink in parts
        if said
        for line in _wrap(said, font, width - 2 * _GAP)
    ]
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    heights = [max(each.image.height for each in row) for row in rows]
    top = _GAP + _LINE * len(lines) + _GAP
    timeline = _LINE * several + _BARS + _LINE + _GAP
    height = top + timeline * len(evidence.videos)
    height += sum(each + _LINE + _GAP for each in heights)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (line, font, ink) in enumerate(lines):
        pen.text((_GAP, _GAP + number * _LINE), line, fill=ink, font=font)
    for number, video in enumerate(evidence.videos):
        if several:
            name = f"Video {number + 1}: {os.path.basename(video.name)}"
            line = _cut(name, _font(15, bold=True), width - 2 * _GAP)
            pen.text((_GAP, top), line, fill=_INK, font=_font(15, bold=True))
        bars = (_GAP, top + _LINE * several, width - _GAP, top + _LINE * several + _BARS)
        _draw_timeline(pen, evidence, number, bars)
        top += timeline
    for row, tall in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = _GAP + column * (_WIDTH + _GAP)
            sheet.paste(picture.blended(), (left, top))
            _draw_boxes(pen, evidence, picture, (left, top))
            place = (left, top + picture.image.height + 3)
            _draw_caption(pen, evidence, picture.frame, place)
        top += tall + _LINE + _GAP
    return encode(sheet, "PNG")


def _draw_caption(
    pen: ImageDraw.ImageDraw, evidence: EvidenceMaps, frame: int, place: tuple[int, int]
) -> None:
    caption = f"{evidence.times[frame]:.2f} s"
    if len(evidence.videos) > 1:
        caption = f"video {evidence.video_of(frame) + 1}, {caption}"
    bold = _font(15, bold=True)
    pen.text(place, caption, fill=_INK, font=bold)
    share = f"{evidence.scores[frame]:.0%} of the evidence"
    pen.text((place[0] + bold.getlength(caption) + 16, place[1]), share, fill=_PALE, font=_font(15))


def _draw_timeline(
    pen: ImageDraw.ImageDraw, evidence: EvidenceMaps, number: int, box: tuple[int, int, int, int]
) -> None:
    """Of one of the videos, its bars relative to the highest of all."""
    left, top, right, bottom = box
    video, frames = evidence.videos[number], evidence.ranges[number]
    highest = max(evidence.scores, default=0.0) or 1.0
    length = max(video.duration, *evidence.times[frames.start : frames.stop], 1e-6)
    peaks = {moment.frame for moment in evidence.moments}
    reach = max(2, (right - left) // (2 * max(len(frames), 1)) - 2)
    for frame in frames:
        middle = left + (right - left) * evidence.times[frame] / length
        tall = max(1, round((bottom - top) * evidence.scores[frame] / highest))
        ink = _MARK if frame in peaks else "#c7c7cc"
        edges = (max(left, middle - reach), bottom - tall, min(right, middle + reach), bottom)
        pen.rectangle(edges, fill=ink)
    pen.line((left, bottom, right, bottom), fill=_PALE)
    font = _font(13)
    pen.text((left, bottom + 4), "0 s", fill=_PALE, font=font)
    pen.text((right, bottom + 4), f"{video.duration:.1f} s", fill=_PALE, font=font, anchor="ra")


def _draw_boxes(
    pen: ImageDraw.ImageDraw, evidence: EvidenceMaps, picture: Picture, corner: tuple[int, int]
) -> None:
    wide, tall = picture.image.size
    for region in evidence.regions(picture.frame)[:1]:
        left, top, right, bottom = region.box
        edges = (left * wide, top * tall, right * wide - 1, bottom * tall - 1)
        moved = [edge + corner[number % 2] for number, edge in enumerate(edges)]
        pen.rectangle(moved, outline=_MARK, width=2)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Lines that fit, of which the last ends in … where there are too many."""
    lines = list(islice(_lines(" ".join(text.split()), font, width), _MOST_LINES + 1))
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][:-1] + "…"]
    return lines


def _cut(text: str, font: Any, width: int) -> str:
    """As much of a line as fits."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    return next(_lines(text.replace(" ", "\u00a0"), font, width))[:-1] + "…"


def _lines(text: str, font: Any, width: int) -> Iterator[str]:
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        while font.getlength(word) > width:  # longer than a line
            fits = max(1, int(len(word) * width / font.getlength(word)) - 1)
            yield word[:fits]
            word = word[fits:]
        line = word
    yield line


def _font(size: int, *, bold: bool = False) -> Any:
    """DejaVu, which Matplotlib brings and which knows many scripts."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf", name), size)
