"""Moments, regions and files of evidence, of numbers that are known."""

import base64
import hashlib
import html.parser
import io
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from crosslmm.errors import UsageError, VideoError
from crosslmm.evidence import Evidence, EvidenceVideo, Word
from crosslmm.options import Sampling
from tests.support.clips import write_clip

TIMES = (1.0, 3.0, 5.0, 7.0)


def make(heat: Any, **changes: Any) -> Evidence:
    """video, duration: of the one video, unless `videos` are several."""
    heat = np.asarray(heat, dtype=float)
    count = len(heat)
    one = EvidenceVideo(changes.pop("video", "clip.mp4"), changes.pop("duration", 8.0), count)
    fields = {
        "videos": (one,),
        "question": "what?",
        "answer": "a word",
        "model": "tiny",
        "indices": tuple(range(count)),
        "times": TIMES[:count],
        "heat": heat / max(heat.sum(), 1e-9),
        "words": (Word("a", 0, 1, (1.0, 0.0, 0.0, 0.0)), Word("word", 2, 6, (0.0, 0.0, 0.5, 0.5))),
        "source": "cross-attention",
        "seconds": 0.1,
    }
    return Evidence(**fields | changes)


def flat(*scores: float) -> np.ndarray:
    return np.asarray(scores)[:, None, None] * np.ones((1, 2, 2))


@pytest.mark.parametrize(
    ("scores", "spans"),
    [
        ((1, 8, 2, 1), [(2.0, 6.0, 10 / 12)]),
        ((8, 1, 1, 5), [(0.0, 2.0, 8 / 15), (6.0, 8.0, 5 / 15)]),
        ((1, 1, 1, 1), [(0.0, 8.0, 1.0)]),
        ((0, 0, 0, 0), []),
    ],
)
def test_a_span_reaches_halfway_to_frames_that_were_hardly_read(scores: tuple, spans: list) -> None:
    evidence = make(flat(*scores))
    assert [(span.start, span.end) for span in evidence.spans] == [each[:2] for each in spans]
    assert [span.score for span in evidence.spans] == pytest.approx([each[2] for each in spans])
    record = evidence.as_dict()["spans"]
    assert [(span["start"], span["end"]) for span in record] == [each[:2] for each in spans]


@pytest.mark.parametrize(
    ("scores", "moments"),
    [
        ((1, 8, 1, 1), [(1, 1.0, 4.0)]),
        ((8, 1, 1, 5), [(0, 0.0, 2.0), (3, 5.0, 8.0)]),
        ((1, 5, 8, 1), [(2, 1.0, 6.0)]),
        ((1, 1, 1, 1), [(0, 0.0, 8.0)]),
        ((0, 0, 0, 0), []),
    ],
)
def test_a_moment_begins_after_the_frame_before(scores: tuple, moments: list) -> None:
    found = make(flat(*scores)).moments
    assert [(moment.frame, moment.start, moment.end) for moment in found] == moments
    assert all(
        moment.score == pytest.approx(scores[moment.frame] / sum(scores)) for moment in found
    )


def test_what_lies_between_frames_that_are_far_apart_was_not_looked_at() -> None:
    times = (1.0, 1.5, 2.0, 2.5, 60.0, 60.5, 61.0)
    evidence = make(flat(1, 1, 1, 8, 8, 1, 1), times=times, duration=90.0)
    assert [(span.start, span.end) for span in evidence.spans] == [(2.25, 4.5), (58.0, 60.25)]
    evidence = make(flat(0, 0, 0, 8, 0, 0, 8), times=times, duration=90.0)
    assert [(span.start, span.end) for span in evidence.spans] == [(2.25, 4.5), (60.75, 63.0)]
    ends = {(moment.start, moment.end) for moment in evidence.moments}
    assert ends == {(2.0, 4.5), (60.5, 63.0)}
    evidence = make(flat(8, 0, 0, 0, 8, 0, 0), times=times, duration=90.0)
    assert [(span.start, span.end) for span in evidence.spans] == [(0.0, 1.25), (58.0, 60.25)]


def test_regions_are_what_stands_out_in_a_frame() -> None:
    heat = np.zeros((1, 4, 4))
    heat[0, 0, 0:2] = 8  # across, at the top left
    heat[0, 3, 3] = 5  # not touching it
    heat[0, 2, 0] = 1
    first, second = make(heat).regions(0)
    assert first.box == (0.0, 0.0, 0.5, 0.25)
    assert first.score == pytest.approx(16 / 22)
    assert second.box == (0.75, 0.75, 1.0, 1.0)
    assert make(np.zeros((1, 4, 4))).regions(0) == ()


def test_the_numbers_are_json_with_an_item_a_line(tmp_path: Path) -> None:
    evidence = make(flat(1, 8, 1, 1), video="odd\udcff.mp4")
    evidence.save(tmp_path / "e.json")
    text = (tmp_path / "e.json").read_text()
    assert json.loads(text)["moments"] == evidence.as_dict()["moments"]
    assert sum('"index"' in line for line in text.splitlines()) == 4


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    evidence = make(flat(1, 8, 1, 1), video=str(tmp_path / "gone.mp4"))
    with pytest.raises(UsageError, match=r"ending in \.html, \.png or \.json"):
        evidence.save(tmp_path / "e.txt")
    with pytest.raises(VideoError, match="no such file"):
        evidence.save(tmp_path / "e.png")
    with pytest.raises(VideoError, match="no such file"):
        evidence.save(tmp_path / "e.html")
    assert list(tmp_path.iterdir()) == []


def frames_of(clip: Path, count: int) -> dict[str, Any]:
    """Fields of evidence of the first frames of a clip of 10 frames per second."""
    return {
        "video": str(clip),
        "indices": tuple(range(count)),
        "times": tuple(number / 10 for number in range(count)),
        "duration": 3.0,
        "words": (),
    }


class Page(html.parser.HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.inside[self._open] = self.inside.get(self._open, "") + data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_a_page_runs_nothing_but_its_own_script(clip: Path, tmp_path: Path) -> None:
    name = tmp_path / "a" / "<script>alert(3)<&.mp4"
    name.parent.mkdir()
    name.write_bytes(clip.read_bytes())
    words = (Word(EVIL[:40], 0, 40, (0.5, 0.5)),)
    fields = frames_of(name, 2) | {"words": words}
    evidence = make(flat(1, 2), question=EVIL, answer=EVIL, model=EVIL, **fields)
    evidence.save(tmp_path / "e.html")
    page = Page((tmp_path / "e.html").read_text())
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    (policy,) = [
        attrs["content"] or ""
        for attrs in page.of("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inside[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert page.inside["h1"] == EVIL
    assert [attrs["src"] for attrs in page.of("video")] == [
        "./a/%3Cscript%3Ealert%283%29%3C%26.mp4"
    ]
    links = [
        attrs[name] or "" for _, attrs in page.tags for name in ("src", "href") if name in attrs
    ]
    assert all(link.startswith(("data:image/", "#frame-", "./a/")) for link in links)
    assert "style" not in {name for _, attrs in page.tags for name in attrs}


def test_a_page_is_bounded_and_shows_words(clip: Path, tmp_path: Path) -> None:
    words = (Word("a", 0, 1, tuple([1.0] + [0.0] * 29)),)
    fields = frames_of(clip, 30) | {"words": words, "answer": "a &"}
    make(np.random.default_rng(0).random((30, 5, 5)), **fields).save(tmp_path / "e.html")
    page = Page((tmp_path / "e.html").read_text())
    assert len(page.of("figure")) == 12
    assert len([attrs for attrs in page.of("rect") if "data-height" in attrs]) == 30
    (word,) = [attrs for attrs in page.of("span") if attrs.get("class") == "word"]
    assert word["tabindex"] == "0"
    scores = [int(digit, 36) / 35 for digit in word["data-scores"] or ""]
    assert scores == [1.0] + [0.0] * 29
    assert (tmp_path / "e.html").stat().st_size < 500_000


def test_a_sheet_shows_the_best_frames_under_their_heat(clip: Path, tmp_path: Path) -> None:
    heat = np.zeros((3, 2, 2))
    heat[1, 0, 0] = 1
    question = "a question " * 60 + "x" * 400
    make(heat, question=question, **frames_of(clip, 3)).save(tmp_path / "e.png")
    sheet = Image.open(io.BytesIO((tmp_path / "e.png").read_bytes()))
    assert sheet.format == "PNG"
    assert max(sheet.size) < 2000
    below = np.asarray(sheet.convert("RGB"))[-480:]  # the timeline
    outline = (below == (255, 96, 0)).all(axis=2).sum(axis=0)
    by_frame = [int(outline[18 + 438 * n : 438 * (n + 1)].sum()) for n in range(3)]
    assert [count > 100 for count in by_frame] == [False, True, False]


def test_a_sheet_of_a_text_without_spaces_takes_no_longer(clip: Path, tmp_path: Path) -> None:
    """Of what does not fit, no line is measured: of this one that would take minutes."""
    began = time.monotonic()
    make(flat(1), question="x" * 200_000, **frames_of(clip, 1)).save(tmp_path / "e.png")
    assert time.monotonic() - began < 20


def test_frames_are_read_again_within_the_limits_of_the_first_time(
    clip: Path, tmp_path: Path
) -> None:
    fields = frames_of(clip, 1) | {"sampling": Sampling(max_pixels=10)}
    with pytest.raises(VideoError, match="`max_pixels`"):
        make(flat(1), **fields).save(tmp_path / "e.png")


def test_every_link_of_a_page_leads_somewhere(clip: Path, tmp_path: Path) -> None:
    """Also of moments whose frame is not among those shown."""
    make(flat(*[1, 5] * 15), **frames_of(clip, 30)).save(tmp_path / "e.html")
    page = Page((tmp_path / "e.html").read_text())
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [(attrs["href"] or "")[1:] for attrs in page.of("a")]
    assert len(links) == 15 + 12
    assert set(links) <= anchors


def of_two(clip: Path, other: Path, *scores: float, **changes: Any) -> Evidence:
    """Of frames at 0, 1 and 2 s of a clip of 3 s, and at 0 and 0.5 s of one of 2 s."""
    fields = {
        "videos": (EvidenceVideo(str(clip), 3.0, 3), EvidenceVideo(str(other), 2.0, 2)),
        "indices": (0, 10, 20, 0, 3),
        "times": (0.0, 1.0, 2.0, 0.0, 0.5),
        "words": (),
    }
    return make(flat(*scores), **fields | changes)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other <b>.mp4"
    write_clip(path, frames=12, fps=6)
    return path


def height_of(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def test_moments_and_spans_end_where_their_video_does(clip: Path, other: Path) -> None:
    """Neighbours in the list are none where another video begins, and the peak of all is what counts."""
    evidence = of_two(clip, other, 1, 1, 5, 8, 0.5)
    assert [(each.video, each.start, each.end) for each in evidence.moments] == [
        (str(other), 0.0, 0.25),
        (str(clip), 1.0, 3.0),
    ]
    assert [[(each.start, each.end) for each in own] for own in evidence.spans_by_video] == [
        [(1.5, 3.0)],
        [(0.0, 0.25)],
    ]
    none = of_two(clip, other, 1, 1, 1, 0, 0)
    assert [len(own) for own in none.spans_by_video] == [1, 0]
    record = evidence.as_dict()
    assert record["videos"] == [str(clip), str(other)]
    assert [each["video"] for each in record["frames"]] == [str(clip)] * 3 + [str(other)] * 2
    assert [each["video"] for each in record["spans"]] == [str(clip), str(other)]
    one = make(flat(1, 8)).as_dict()
    assert "video" not in one["moments"][0] | one["spans"][0] | one["frames"][0]
    assert "videos" not in one


def test_a_page_of_several_videos(clip: Path, other: Path, tmp_path: Path) -> None:
    evidence = of_two(clip, other, 1, 1, 5, 8, 0.5)
    evidence.save(tmp_path / "e.html")
    text = (tmp_path / "e.html").read_text()
    page = Page(text)
    players = page.of("video")
    assert [each["id"] for each in players] == ["player-0", "player-1"]
    for player, video in zip(players, (clip, other), strict=True):
        assert (tmp_path / unquote(player["src"] or "")).resolve() == video
    assert len({each["poster"] for each in players}) == 2
    bars = [attrs for attrs in page.of("rect") if "data-height" in attrs]
    assert [attrs["data-frame"] for attrs in bars] == list("01234")
    assert [attrs["data-video"] for attrs in bars] == list("00011")
    assert max(float(attrs["data-height"] or "") for attrs in bars[:3]) == 5 / 8
    assert "other &lt;b&gt;.mp4" in text
    first, second = [attrs for attrs in page.of("a") if attrs["data-time"] in ("0.000", "1.000")][
        :2
    ]
    assert (first["data-video"], second["data-video"]) == ("1", "0")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_sheet_has_the_frames_of_each_video(clip: Path, other: Path, tmp_path: Path) -> None:
    evidence = of_two(clip, other, 1, 1, 5, 8, 0.5)
    evidence.save(tmp_path / "e.png")
    make(flat(1, 1, 5), **frames_of(clip, 3)).save(tmp_path / "one.png")
    heights = [height_of(tmp_path / name) for name in ("one.png", "e.png")]
    assert heights[1] > 1.5 * heights[0]
    gone = of_two(clip, tmp_path / "gone.mp4", 1, 1, 5, 8, 0.5)
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        gone.save(tmp_path / "g.png")


def test_what_leads_to_the_answer_is_dimmed(clip: Path, tmp_path: Path) -> None:
    said = "1: nothing <b>, so a word"
    words = tuple(
        Word(match[0], match.start(), match.end(), (0.5, 0.5))
        for match in re.finditer(r"\S+", said)
    )
    fields = frames_of(clip, 2) | {"words": words, "answer": said, "reasoning": 19}
    make(flat(1, 2), **fields).save(tmp_path / "e.html")
    (answer,) = re.findall(r'<p class="answer".*?>(.*)</p>', (tmp_path / "e.html").read_text())
    dimmed, rest = re.fullmatch(r'<span class="reasoning">(.*</span> )</span>(.*)', answer).groups()
    plain = [html.unescape(re.sub(r"<[^>]+>", "", part)) for part in (dimmed, rest)]
    assert plain == ["1: nothing <b>, so ", "a word"]
    assert dimmed.count('class="word"') == 4
    assert rest.count('class="word"') == 2
    make(flat(1, 2), **frames_of(clip, 2)).save(tmp_path / "plain.html")
    assert 'class="reasoning"' not in (tmp_path / "plain.html").read_text()


def test_an_answer_on_a_sheet_is_not_cut_by_what_leads_to_it(clip: Path, tmp_path: Path) -> None:
    said = "what is seen " * 200
    heights = []
    for answer, reasoning in ((said + "the end", len(said)), (said, 0)):
        fields = frames_of(clip, 2) | {"answer": answer, "reasoning": reasoning}
        make(flat(1, 2), **fields).save(tmp_path / f"{reasoning}.png")
        heights.append(height_of(tmp_path / f"{reasoning}.png"))
    assert heights[0] - heights[1] == 24, "a line for the answer"
