"""Evidence as a contact sheet: question, answer, and the frames with the most evidence."""

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
_MOST_LINES = 6  # of the answer
_INK, _PALE, _MARK = "#1c1c1e", "#6e6e73", "#ff6000"
_BARS = 56


def draw_sheet(evidence: EvidenceMaps) -> bytes:
    """A PNG. Raises VideoError where the frames cannot be read again."""
    pictures = list(read_pictures(evidence, best_frames(evidence, _MOST_FRAMES), width=_WIDTH))
    columns = min(_COLUMNS, len(pictures))
    width = _GAP + max(columns, 2) * (_WIDTH + _GAP)
    question, answer = _font(20, bold=True), _font(18)
    lines = [
        (text, question, _INK) for text in _wrap(evidence.question, question, width - 2 * _GAP)
    ]
    lines += [(text, answer, _INK) for text in _wrap(evidence.answer, answer, width - 2 * _GAP)]
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    heights = [max(each.image.height for each in row) for row in rows]
    top = _GAP + _LINE * len(lines) + _GAP
    height = top + _BARS + _LINE + _GAP + sum(each + _LINE + _GAP for each in heights)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, font, ink) in enumerate(lines):
        pen.text((_GAP, _GAP + number * _LINE), text, fill=ink, font=font)
    _draw_timeline(pen, evidence, (_GAP, top, width - _GAP, top + _BARS))
    top += _BARS + _LINE + _GAP
    for row, tall in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = _GAP + column * (_WIDTH + _GAP)
            sheet.paste(picture.blended(), (left, top))
            _draw_boxes(pen, evidence, picture, (left, top))
            caption = f"{evidence.times[picture.frame]:.2f} s"
            share = f"   {evidence.scores[picture.frame]:.0%} of the evidence"
            pen.text(
                (left, top + picture.image.height + 3),
                caption,
                fill=_INK,
                font=_font(15, bold=True),
            )
            pen.text((left + 80, top + picture.image.height + 3), share, fill=_PALE, font=_font(15))
        top += tall + _LINE + _GAP
    return encode(sheet, "PNG")


def _draw_timeline(
    pen: ImageDraw.ImageDraw, evidence: EvidenceMaps, box: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = box
    highest = max(evidence.scores, default=0.0) or 1.0
    length = max(evidence.duration, *evidence.times, 1e-6)
    peaks = {moment.frame for moment in evidence.moments}
    reach = max(2, (right - left) // (2 * max(len(evidence.times), 1)) - 2)
    for frame, (time, score) in enumerate(evidence.frames):
        middle = left + (right - left) * time / length
        tall = max(1, round((bottom - top) * score / highest))
        ink = _MARK if frame in peaks else "#c7c7cc"
        edges = (max(left, middle - reach), bottom - tall, min(right, middle + reach), bottom)
        pen.rectangle(edges, fill=ink)
    pen.line((left, bottom, right, bottom), fill=_PALE)
    font = _font(13)
    pen.text((left, bottom + 4), "0 s", fill=_PALE, font=font)
    pen.text((right, bottom + 4), f"{evidence.duration:.1f} s", fill=_PALE, font=font, anchor="ra")


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
