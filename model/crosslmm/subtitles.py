"""A video's record as text: a caption, SubRip subtitles, WebVTT subtitles.

Functions of the record alone, so that a lost file is written again from the manifest.
"""

from collections.abc import Callable, Iterator

from crosslmm.captioning.results import Record


def caption_text(record: Record) -> str:
    """The caption, as trainers of image and video generators read it."""
    return f"{record['caption']}\n"


def subrip(record: Record) -> str:
    """SRT: numbered cues, with commas in their times."""
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(_cues(record), start=1)
    ]
    return "\n".join(cues)


def webvtt(record: Record) -> str:
    """WebVTT: its text is markup, so its special characters are escaped."""
    cues = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escape(text)}\n"
        for start, end, text in _cues(record)
    ]
    return "\n".join(["WEBVTT\n", *cues])


SIDECARS: dict[str, Callable[[Record], str]] = {
    "txt": caption_text,
    "srt": subrip,
    "vtt": webvtt,
}


def _cues(record: Record) -> Iterator[tuple[int, int, str]]:
    """Start and end in milliseconds and text, none of them empty or overlapping."""
    for part in record["segments"]:
        # A blank line or an arrow in the text would end the cue.
        lines = [line.strip() for line in (part["caption"] or "").splitlines()]
        text = "\n".join(line for line in lines if line).replace("-->", "→")
        start, end = round(part["start"] * 1000), round(part["end"] * 1000)
        if text:
            yield start, max(end, start + 1), text


def _clock(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
