"""Subtitles as independent parsers read them."""

from typing import Any

import numpy as np
import pytest

from crosslmm.captioning.outputs.sidecar import FORMATTERS
from crosslmm.captioning.segments import equal_spans

pysrt = pytest.importorskip("pysrt")
vtt = pytest.importorskip("webvtt")

AWKWARD = [
    (0.0, 2.5, "A red circle & a <b>square</b>."),
    (2.5, 61.0004, "two\n\nparagraphs --> with an arrow"),
    (61.0004, 61.0004, "an instant"),
    (61.0004, 70.0, ""),
    (70.0, 75.0, None),
    (3599.9996, 360000.25, "a hundred hours, ünïcode 猫"),
]


subrip, webvtt, caption_text = FORMATTERS["srt"], FORMATTERS["vtt"], FORMATTERS["txt"]


def as_record(parts: list[tuple[float, float, str | None]]) -> dict[str, Any]:
    segments = [{"start": start, "end": end, "caption": text} for start, end, text in parts]
    return {"caption": "one\ntwo", "segments": segments}


def test_srt_is_parsed_completely() -> None:
    cues = pysrt.from_string(subrip(as_record(AWKWARD)), error_handling=pysrt.ERROR_RAISE)
    assert [cue.index for cue in cues] == [1, 2, 3, 4]
    assert [(cue.start.ordinal, cue.end.ordinal) for cue in cues] == [
        (0, 2500), (2500, 61000), (61000, 61001), (3600000, 360000250),
    ]  # fmt: skip
    assert cues[1].text == "two\nparagraphs → with an arrow"
    assert cues[0].text == "A red circle & a <b>square</b>."


def test_vtt_is_parsed_completely() -> None:
    text = webvtt(as_record(AWKWARD))
    cues = vtt.from_string(text).captions
    assert [(cue.start, cue.end) for cue in cues] == [
        ("00:00:00.000", "00:00:02.500"), ("00:00:02.500", "00:01:01.000"),
        ("00:01:01.000", "00:01:01.001"), ("01:00:00.000", "100:00:00.250"),
    ]  # fmt: skip
    assert cues[1].text == "two\nparagraphs → with an arrow"
    assert "&lt;b&gt;square&lt;/b&gt;" in text


def test_subtitles_without_a_single_caption_are_still_files() -> None:
    assert len(pysrt.from_string(subrip(as_record([])))) == 0
    assert vtt.from_string(webvtt(as_record([]))).captions == []


def test_a_text_sidecar_is_the_caption() -> None:
    assert caption_text(as_record([])) == "one\ntwo\n"


@pytest.mark.parametrize(
    ("duration", "seconds", "expected"),
    [
        (30.0, 10.0, [(0, 10), (10, 20), (20, 30)]),
        (34.9, 10.0, [(0, 10), (10, 20), (20, 34.9)]),
        (35.1, 10.0, [(0, 10), (10, 20), (20, 30), (30, 35.1)]),
        (3.0, 10.0, [(0, 3.0)]),
    ],
)
def test_a_short_rest_belongs_to_the_last_segment(
    duration: float, seconds: float, expected: list[tuple[float, float]]
) -> None:
    assert equal_spans(duration, seconds, np.arange(0, duration, 0.5)) == expected
