"""The score of evidence, on maps of which it is known what is right."""

import numpy as np
import pytest

from benchmarks.evidence import Truth, area_under_curve, by_chance, find_truth, score, summarize
from benchmarks.spans import overlap, seen_during
from crosslmm.evidence.maps import EvidenceMaps, EvidenceVideo
from crosslmm.synthetic.clips import clip_questions, plan_clip

TIMES = (1.0, 3.0, 5.0, 7.0)
SEEN = np.asarray([True, True, False, True])
BOXES = np.tile([0.5, 0.0, 1.0, 0.5], (4, 1))


def maps(frame: int, row: int, column: int) -> EvidenceMaps:
    heat = np.full((4, 4, 4), 1e-3)
    heat[frame, row, column] = 1
    video = EvidenceVideo("v", 8.0, 4)
    return EvidenceMaps(
        (video,), "q", "a", "m", (0, 1, 2, 3), TIMES, heat / heat.sum(), (), "self-attention", 0.0
    )


@pytest.mark.parametrize(
    ("frame", "held", "first"), [(1, 1.0, 1.0), (0, 0.0, 0.0), (2, 0.0, 0.0), (3, 0.0, 0.0)]
)
def test_a_moment_is_right_where_it_holds_the_event(frame: int, held: float, first: float) -> None:
    truth = Truth(times=(2.5,))
    scored = score("evidence", "when", maps(frame, 0, 0), truth)
    assert (scored.moment, scored.frame) == (held, first)
    chance, middle = by_chance("when", maps(frame, 0, 0), truth)
    assert (chance.moment, chance.frame) == (0.25, 0.25)
    assert (middle.moment, middle.frame) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("frame", "row", "column", "on"),
    [(1, 0, 3, 1.0), (1, 2, 3, 0.0), (2, 0, 3, 0.0)],
)
def test_a_region_is_right_on_the_object_in_a_frame_that_shows_it(
    frame: int, row: int, column: int, on: float
) -> None:
    truth = Truth(boxes=BOXES, visible=SEEN)
    scored = score("evidence", "size", maps(frame, row, column), truth)
    assert scored.region == on
    assert scored.overlap == (0.25 if on else 0.0)
    (chance, _) = by_chance("size", maps(frame, row, column), truth)
    assert chance.region == pytest.approx(0.25 * 3 / 4)
    rows = list(summarize([scored, chance]))
    assert {row["method"] for row in rows} == {"evidence", "chance"}


def test_the_area_under_the_curve() -> None:
    true = np.asarray([False, True, True, False])
    assert area_under_curve(np.asarray([0.1, 0.9, 0.8, 0.2]), true) == 1
    assert area_under_curve(np.ones(4), true) == 0.5
    assert area_under_curve(np.ones(4), ~np.zeros(4, bool)) is None


def test_truth_comes_with_the_questions() -> None:
    clip = plan_clip("eval", 5, 0, seconds=(4.0, 4.0), aspect=1.0)
    asked = clip_questions(clip, "eval", 5, 0, fps=12.0, count=12)
    frames = tuple(((np.arange(8) + 0.5) / 8 * clip.duration).tolist())
    found = {question.type: find_truth(question, clip, frames) for question in asked}
    assert found["count"] is found["describe"] is None
    about = [truth for truth in found.values() if truth is not None]
    assert any(truth.times for truth in about)
    assert any(truth.boxes is not None and truth.boxes.shape == (8, 4) for truth in about)


def test_the_overlap_of_spans_with_the_time_in_which_a_thing_is_seen() -> None:
    assert overlap([(0.0, 8.0)], (2.0, 4.0)) == 0.25
    assert overlap([(1.0, 3.0), (5.0, 6.0)], (2.0, 4.0)) == pytest.approx(1 / 4)
    assert overlap([(5.0, 6.0)], (2.0, 4.0)) == 0
    assert overlap([(2.0, 4.0)], (2.0, 4.0)) == 1
    found = []
    for index in range(6):
        clip = plan_clip("eval", 5, index, seconds=(4.0, 4.0), aspect=1.0)
        asked = clip_questions(clip, "eval", 5, index, fps=12.0, count=12)
        found += [(clip, seen) for each in asked if (seen := seen_during(each, clip)) is not None]
    assert found
    for clip, (start, end) in found:
        assert 0 <= start < end <= clip.duration
        assert end - start <= 0.9 * clip.duration
