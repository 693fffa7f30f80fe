"""SubRip (SRT) and WebVTT subtitles, written from cues."""

from collections.abc import Iterable, Iterator

# Start and end in seconds, and text.
Cue = tuple[float, float, str]


def format_srt(cues: Iterable[Cue]) -> str:
    """SRT: numbered cues, with commas in their times."""
    return "\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(_normalize(cues), start=1)
    )


def format_vtt(cues: Iterable[Cue]) -> str:
    """WebVTT: its text is markup, so special characters are escaped."""
    blocks = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escape(text)}\n"
        for start, end, text in _normalize(cues)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _normalize(cues: Iterable[Cue]) -> Iterator[tuple[int, int, str]]:
    """Cues with times in milliseconds; empty ones are dropped, and none lasts no time."""
    for start, end, text in cues:
        # A blank line or an arrow in the text would end the cue.
        lines = [line.strip() for line in text.splitlines()]
        text = "\n".join(line for line in lines if line).replace("-->", "→")
        first, last = round(start * 1000), round(end * 1000)
        if text:
            yield first, max(last, first + 1), text


def _clock(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
