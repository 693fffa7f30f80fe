"""What is asked about clips, what is taught to say to it, and how answers are scored."""

import collections
import re

import numpy as np
import pytest

from crosslmm.evaluation.scoring import facts_f1
from crosslmm.evaluation.scoring import is_right as score
from crosslmm.synthetic.asker import Asker, ask_about
from crosslmm.synthetic.clips import clip_rows
from crosslmm.synthetic.narrator import Narrator
from crosslmm.synthetic.phrasing import (
    HELD_OUT,
    QUESTIONS,
    YES_NO,
    describe_event,
    describe_frames,
    first_frames,
)
from crosslmm.synthetic.questions import QUESTION_TYPES
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip, make_clip
from crosslmm.synthetic.vocabulary import SHAPES

MIDDLES = (np.arange(FRAMES_NEEDED) + 0.5) / FRAMES_NEEDED


@pytest.fixture(scope="module")
def clips() -> list[SyntheticClip]:
    lengths = np.geomspace(2, 60, 60)
    return [make_clip("eval", 3, i, duration=float(d)) for i, d in enumerate(lengths)]


def _questions(clips: list[SyntheticClip], held_out: float) -> list:
    asked = []
    for index, clip in enumerate(clips):
        times = (MIDDLES * clip.duration).tolist()
        rng = np.random.default_rng(index)
        asked += ask_about(
            clip, rng, count=20, frame_times=times, frame_period=1 / 24, held_out_share=held_out
        )
    return asked


def test_every_type_is_asked_and_yes_is_half_of_it(clips: list[SyntheticClip]) -> None:
    asked = _questions(clips, 0.3)
    assert {question.type for question in asked} == set(QUESTION_TYPES)
    said = collections.Counter(q.answer for q in asked if q.type == "yes_no")
    assert 0.4 < said["yes"] / said.total() < 0.6
    letters = collections.Counter(q.answer for q in asked if q.type == "multiple_choice")
    assert min(letters[letter] for letter in "ABCD") > letters.total() / 8


def test_held_out_wordings_are_never_trained_on(clips: list[SyntheticClip]) -> None:
    for wordings in (*QUESTIONS.values(), *YES_NO.values()):
        assert len(set(wordings)) == len(wordings)
        assert len(wordings) > HELD_OUT + 1
    kept = [
        re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(wording)))
        for wordings in (*QUESTIONS.values(), *YES_NO.values())
        for wording in wordings[-HELD_OUT:]
    ]
    shown = {
        wording
        for wordings in (*QUESTIONS.values(), *YES_NO.values())
        for wording in wordings[:-HELD_OUT]
    }
    open_ended = [one for one in kept if not any(one.fullmatch(wording) for wording in shown)]
    assert len(open_ended) > len(kept) / 2
    for question in _questions(clips, 0.0):
        text = question.text.split("\n")[0]
        assert not any(one.fullmatch(text) for one in open_ended), question


def test_training_and_held_out_questions_differ_in_wording(clips: list[SyntheticClip]) -> None:
    trained = {q.text for q in _questions(clips, 0.0) if q.type in ("describe", "events")}
    held = {q.text for q in _questions(clips, 1.0) if q.type in ("describe", "events")}
    assert trained
    assert held
    assert not trained & held


def test_right_answers_score_and_wrong_ones_do_not(clips: list[SyntheticClip]) -> None:
    rows = [row for i, clip in enumerate(clips)
            for row in clip_rows(clip, "eval", 3, i, video="x.mp4", fps=24, count=20)]  # fmt: skip
    assert all(score(row, row["answer"]) for row in rows)
    assert all(not score(row, "") for row in rows)
    for row in rows:
        others = {r["answer"] for r in rows if r["type"] == row["type"]} - {row["answer"]}
        wrong = sorted(others)[0]
        if row["type"] == "when":
            wrong = f"at {float(row['answer'].split()[1]) + row['tolerance'] + 0.1:.2f} seconds"
        assert not score(row, wrong), (row, wrong)


def test_what_is_taught_for_a_time_is_within_its_tolerance(clips: list[SyntheticClip]) -> None:
    timed = [q for q in _questions(clips, 0.0) if q.tolerance is not None]
    assert timed
    for question in timed:
        truth, taught = (float(text.split()[-2]) for text in (question.answer, question.taught))
        assert 0 <= taught - truth + 0.011 <= question.tolerance + 0.011


def test_counts_are_those_of_the_scene(clips: list[SyntheticClip]) -> None:
    shapes = collections.Counter[str]()
    for clip in clips:
        rng = np.random.default_rng(0)
        asker = Asker(clip, rng, frame_times=[0.0], frame_period=0.1)
        for _ in range(20):
            question = asker.ask("count")
            assert question is not None
            for shape in SHAPES:
                if re.search(rf"\b{shape}(e?s)\b", question.text):
                    there = sum(thing.shape == shape for thing in clip.things)
                    assert question.answer == str(there), question
                    shapes[shape] += there
    assert all(shapes[shape] for shape in SHAPES)


def test_what_is_counted_is_found_first_then_chosen(clips: list[SyntheticClip]) -> None:
    parts = 0
    for clip in clips:
        for question in _questions([clip], 0.0):
            if question.type != "count":
                continue
            listed, number = question.taught.rsplit(": ", 1)
            found, _, chosen = listed.partition("; ")
            everything = found.split(", ")
            assert len(everything) == len(clip.things)
            counted = everything
            if chosen:
                parts += 1
                group, names = chosen.split(": ")
                assert group in question.text
                counted = [] if names == "none" else names.split(", ")
            assert set(counted) <= set(everything)
            assert number == question.answer == str(len(counted)), question
    assert parts


def test_what_is_taught_scores(clips: list[SyntheticClip]) -> None:
    asked = _questions(clips, 0.0)
    assert {question.type for question in asked} == set(QUESTION_TYPES)
    for question in asked:
        assert score(vars(question), question.taught), question


@pytest.mark.parametrize("count", [8, 16, 24])
def test_events_said_early_or_late_keep_their_order_and_what_is_wrong_is_given(
    clips: list[SyntheticClip], count: int
) -> None:
    late = early = 0
    for index, clip in enumerate(clips):
        times = ((np.arange(count) + 0.5) / count * clip.duration).tolist()
        narrator = Narrator(clip, np.random.default_rng(index), frame_times=times, misplaced=1.0)
        shown_at, said_at = first_frames(clip, times), narrator.place_events()
        assert said_at == sorted(said_at)
        steps = [said - shown for said, shown in zip(said_at, shown_at, strict=True)]
        assert all(1 <= abs(step) <= count / 8 for step in steps)
        assert len({step > 0 for step in steps}) <= 1
        phrase = describe_frames(clip, times, said_at)
        given = {
            int(phrase.text[: span.start].split(", ")[-1])
            for span in phrase.spans
            if span.kind == "given"
        }
        expected: set[int] = set()
        for shown, said in zip(shown_at, said_at, strict=True):
            event = describe_event(clip, clip.events[shown_at.index(shown)]).text
            words = phrase.text.split(f", {said + 1}: ")[1].split(" at ")[0]
            assert event in words
            # Learned: the event where it is late, and nothing where it has been said.
            expected |= {said + 1} if said < shown else set(range(shown + 1, said + 1))
            late, early = late + (said > shown), early + (said < shown)
        assert given == expected
    assert min(late, early) > 10


def test_what_is_said_late_concludes_with_the_time_at_which_it_is_said(
    clips: list[SyntheticClip],
) -> None:
    misplaced = 0
    for index, clip in enumerate(clips):
        times = (MIDDLES * clip.duration).tolist()
        rng = np.random.default_rng(index)
        asker = Asker(clip, rng, frame_times=times, frame_period=1 / 24, misplaced=0.5)
        question = asker.ask("when")
        if question is None or "scene" in question.taught:
            continue
        frames, end = question.taught.split(", so ")
        event, time = end.removesuffix(" seconds").rsplit(" at ", 1)
        assert f"{event} at {time}s" in frames or f"{event} and " in frames
        misplaced += any(span.kind == "given" for span in question.spans)
    assert misplaced > 5


def test_answers_are_read_by_meaning() -> None:
    assert score({"type": "colour", "answer": "red"}, "It is red.")
    assert score({"type": "motion", "answer": "moves left"}, "The red star moves left.")
    assert score({"type": "yes_no", "answer": "no"}, "the star is blue, so no")
    assert score({"type": "count", "answer": "2"}, "the red star, the blue star: 2")
    assert not score({"type": "colour", "answer": "red"}, "red or blue")
    meets = {"type": "order", "answer": "the red star meets the blue cross"}
    assert score(meets, "The blue cross meets the red star.")
    frames = (
        "1: nothing at 0.60s, 2: the star turns red at 1.20s, "
        "3: the blue cross meets the red star at 1.80s"
    )
    assert score(meets, f"{frames}, so the blue cross meets the red star")
    when = {"type": "when", "answer": "at 1.70 seconds", "tolerance": 0.6}
    assert score(when, f"{frames}, so at 1.80 seconds")
    assert score(when, f"{frames}, so the blue cross meets the red star at 1.80 seconds")
    assert not score(when, "1: nothing at 1.80s, 2: a star turns red at 2.40s, so at 2.40 seconds")
    assert score(
        {"type": "events", "answer": "the star appears, then the cross appears"},
        "at 0.31 seconds the star appears, then at 2.19 seconds the cross appears",
    )
    choice = {"type": "multiple_choice", "answer": "B", "options": ["red", "blue", "cyan", "green"]}
    assert score(choice, "B. blue")
    assert score(choice, "the star is blue, so B")
    assert score(choice, "blue")
    assert not score(choice, "A")
    assert not score({**choice, "options": ["red", "A", "cyan", "green"]}, "")
    full = "a small red star marked K moves left; an orange cross grows"
    assert facts_f1(full, full) == 1
    assert facts_f1("a small red star marked K moves left", full) == pytest.approx(8 / 11)
    assert facts_f1("", full) == 0
