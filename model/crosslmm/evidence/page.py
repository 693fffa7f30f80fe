"""Evidence as one page that needs nothing else: no network, no other file but, where they are there,
the videos for their players.

All that comes from a video or a model is escaped, and a policy in the page lets nothing run or load
but what is written here.
"""

import base64
import hashlib
import os
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from crosslmm.evidence.maps import EvidenceMaps, Word
from crosslmm.evidence.pictures import best_frames, encode, read_pictures

_MOST_FRAMES = 12
_WIDTH = 480  # of a frame
_DIGITS = digits + ascii_lowercase
_FILES = Path(__file__).parent / "web"


def draw_page(evidence: EvidenceMaps, path: Path) -> bytes:
    """HTML, to be written to `path`. Raises VideoError where the frames cannot be read again."""
    style, script = (Path(_FILES, name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            "media-src 'self' file:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(_FILES, "page.html.jinja").read_text("utf-8"))
    pictures = [
        {
            "frame": picture.frame,
            "video": evidence.video_of(picture.frame),
            "time": evidence.times[picture.frame],
            "score": evidence.scores[picture.frame],
            "image": _data_uri(encode(picture.image, "JPEG"), "jpeg"),
            "heat": _data_uri(encode(picture.heat, "PNG"), "png"),
            "size": picture.image.size,
        }
        for picture in read_pictures(evidence, best_frames(evidence, _MOST_FRAMES), width=_WIDTH)
    ]
    page = template.render(
        evidence=evidence,
        policy=policy,
        style=Markup(style),  # noqa: S704  a file of this package
        script=Markup(script),  # noqa: S704  a file of this package
        pictures=pictures,
        shown={picture["frame"] for picture in pictures},
        reasoning=_pieces(evidence, 0, evidence.reasoning),
        pieces=_pieces(evidence, evidence.reasoning, len(evidence.answer)),
        timelines=_timelines(evidence, path),
    )
    return page.encode("utf-8", "backslashreplace")


def _pieces(evidence: EvidenceMaps, start: int, end: int) -> list[tuple[str, str | None]]:
    """What was said from `start` to `end`: words with their scores, what is between them with None."""
    pieces: list[tuple[str, str | None]] = []
    done = start
    for word in evidence.words:
        if start <= word.start < end:
            pieces += [(evidence.answer[done : word.start], None), (word.text, _scores(word))]
            done = word.end
    return [*pieces, (evidence.answer[done:end], None)]


def _scores(word: Word) -> str:
    """Relative to the highest, in the order of the frames: a digit of base 36 for each, because a page
    has as many as words times frames."""
    highest = max(word.scores, default=0.0) or 1.0
    return "".join(_DIGITS[round(35 * score / highest)] for score in word.scores)


def _timelines(evidence: EvidenceMaps, page: Path) -> list[dict[str, Any]]:
    """Of each video, with a link to it for a player, and a bar for each frame, relative to the highest
    of all."""
    highest = max(evidence.scores, default=0.0) or 1.0
    peaks = {moment.frame for moment in evidence.moments}
    bars = [
        {"time": time, "score": score, "height": score / highest, "peak": frame in peaks}
        for frame, (time, score) in enumerate(evidence.frames)
    ]
    return [
        {
            "name": video.name,
            "duration": video.duration,
            "player": _link(video.name, page),
            "bars": bars[frames.start : frames.stop],
            "frames": frames,
        }
        for video, frames in zip(evidence.videos, evidence.ranges, strict=True)
    ]


def _link(video: str, page: Path) -> str | None:
    """From the page to the video, where both are files of one drive."""
    if not Path(video).is_file():
        return None
    try:
        relative = os.path.relpath(video, page.absolute().parent)
    except ValueError:
        return None
    # With ./ a name with a colon is no protocol.
    return "./" + quote(Path(os.fsdecode(relative)).as_posix().encode("utf-8", "surrogateescape"))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
