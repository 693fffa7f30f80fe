"""Scenes, their frames and files, and what is asked about them."""

import collections
import itertools
import json
import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from crosslmm.errors import UsageError
from crosslmm.evaluation.scoring import facts_f1
from crosslmm.evaluation.scoring import is_right as score
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.synthetic import write_clips
from crosslmm.synthetic.asker import Asker, ask_about
from crosslmm.synthetic.clips import clip_rows, frames_of, plan_clip, write_video
from crosslmm.synthetic.frames import render_clips
from crosslmm.synthetic.images import random_images
from crosslmm.synthetic.phrasing import HELD_OUT, QUESTIONS, YES_NO
from crosslmm.synthetic.questions import QUESTION_TYPES
from crosslmm.synthetic.rendering import Sprites, paint
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip, make_clip
from crosslmm.synthetic.seeds import derive_seed
from crosslmm.synthetic.vocabulary import COLOURS, GLYPHS, MOTIONS, SHAPES

MIDDLES = (np.arange(FRAMES_NEEDED) + 0.5) / FRAMES_NEEDED


@pytest.fixture(scope="module")
def clips() -> list[SyntheticClip]:
    lengths = np.geomspace(2, 60, 60)
    return [make_clip("eval", 3, i, duration=float(d)) for i, d in enumerate(lengths)]


def test_a_clip_is_a_function_of_its_seed(clips: list[SyntheticClip]) -> None:
    assert make_clip("eval", 3, 0, duration=clips[0].duration) == clips[0]
    assert make_clip("eval", 4, 0, duration=clips[0].duration) != clips[0]


def test_training_and_evaluation_never_draw_the_same_seed() -> None:
    train = {derive_seed("train", "clip", seed, i) for seed in range(50) for i in range(50)}
    held = {derive_seed("eval", "clip", seed, i) for seed in range(50) for i in range(50)}
    assert len(train) == len(held) == 2500
    assert not train & held


def test_the_clips_cover_what_can_be_in_them(clips: list[SyntheticClip]) -> None:
    things = [thing for clip in clips for thing in clip.things]
    assert {len(clip.things) for clip in clips} == {1, 2, 3, 4, 5}
    assert {thing.motion for thing in things} == set(MOTIONS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    kinds = {event.kind for clip in clips for event in clip.events}
    assert kinds == {"appears", "disappears", "turns", "meets", "passes", "cut"}
    assert any(len(clip.cuts) == 2 for clip in clips)


def test_things_stay_in_the_frame_and_are_told_apart(clips: list[SyntheticClip]) -> None:
    times = np.linspace(0, 1, 200, endpoint=False)
    for clip in clips:
        centres = clip.centres(times)
        assert centres.min() > 0.1
        assert centres.max() < 0.9
        looks = [(t.colour, t.shape) for t in clip.things]
        looks += [(t.turns_to, t.shape) for t in clip.things if t.turns_to]
        assert len(set(looks)) == len(looks)
        glyphs = [t.glyph for t in clip.things if t.glyph]
        assert len(set(glyphs)) == len(glyphs)


def test_eight_frames_tell_events_apart(clips: list[SyntheticClip]) -> None:
    for clip in clips:
        frames = [int(np.searchsorted(MIDDLES, event.time)) for event in clip.events]
        assert all(later > sooner for sooner, later in itertools.pairwise(frames))
        assert all(2 <= frame <= FRAMES_NEEDED - 2 for frame in frames)


def test_who_meets_touches_and_who_passes_goes_by(clips: list[SyntheticClip]) -> None:
    met = [(clip, event) for clip in clips for event in clip.events if event.kind == "meets"]
    passed = [(clip, event) for clip in clips for event in clip.events if event.kind == "passes"]
    assert met
    assert passed
    for clip, event in met:
        times = np.asarray([event.time - 0.1, event.time, 1.0])
        centres = clip.centres(times)[:, [event.subject, event.other]]
        reach = clip.radii(times)[:, [event.subject, event.other]].sum(1)
        gaps = np.linalg.norm(centres[:, 0] - centres[:, 1], axis=-1) / reach
        assert gaps[0] > 1.05
        assert gaps[1:] == pytest.approx([0.97, 0.97])
    for clip, event in passed:
        sides = clip.centres(np.asarray([event.time - 0.05, event.time + 0.05]))[..., 0]
        ahead = sides[:, event.subject] - sides[:, event.other]
        assert ahead[0] * ahead[1] < 0


def test_every_shape_and_glyph_is_drawn_and_differs() -> None:
    def drawn(shape: int, glyph: int) -> torch.Tensor:
        one = torch.ones(1, 1)
        sprite = Sprites(
            x=one * 0.5, y=one * 0.5, radius=one * 0.2, shape=(one * shape).long(),
            glyph=(one * glyph).long(), colour=torch.ones(1, 1, 3), ink=one * 0,
            visible=one.bool(),
        )  # fmt: skip
        return paint(torch.zeros(1, 96, 96, 3), sprite, torch.ones(1))[0][0, ..., 0]

    bare = [drawn(shape, -1) for shape in range(len(SHAPES))]
    marked = [drawn(0, glyph) for glyph in range(len(GLYPHS))]
    for images in (bare, marked):
        for index, image in enumerate(images):
            assert 0.03 < float(image.mean()) < 0.2
            for other in images[:index]:
                assert float((image - other).abs().sum()) > 12


def test_a_batch_is_its_clips_one_by_one(clips: list[SyntheticClip]) -> None:
    together = render_clips(clips[:6], [MIDDLES] * 6, (48, 64))
    for clip, frames in zip(clips[:6], together, strict=True):
        alone = render_clips([clip], [MIDDLES], (48, 64))[0]
        torch.testing.assert_close(frames, alone, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_renderer_is_the_same_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3)
    fields = {
        "x": torch.rand(shape, generator=generator),
        "y": torch.rand(shape, generator=generator),
        "radius": 0.1 + 0.1 * torch.rand(shape, generator=generator),
        "shape": torch.randint(len(SHAPES), shape, generator=generator),
        "glyph": torch.randint(len(GLYPHS), shape, generator=generator),
        "colour": torch.rand(*shape, 3, generator=generator),
        "ink": torch.zeros(shape),
        "visible": torch.ones(shape, dtype=torch.bool),
    }
    canvas, aspect = torch.full((4, 96, 96, 3), 0.3), torch.ones(4)
    there = Sprites(**{name: field.cuda() for name, field in fields.items()})
    painted, _ = paint(canvas.cuda(), there, aspect.cuda())
    expected, _ = paint(canvas, Sprites(**fields), aspect)
    torch.testing.assert_close(painted.cpu(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("size", "fps"), [((96, 96), 12.0), ((160, 120), 25.0)])
def test_a_file_shows_what_the_renderer_drew(
    tmp_path: Path, size: tuple[int, int], fps: float
) -> None:
    clip = plan_clip("eval", 5, 2, seconds=(2.0, 2.0), aspect=size[0] / size[1])
    path = tmp_path / "clip.mp4"
    write_video(clip, path, size=size, fps=fps)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    count = round(2.0 * fps)
    assert len(decoded) == count
    assert [float(frame.time) for frame in decoded] == pytest.approx(
        [i / fps for i in range(count)], abs=1e-3
    )
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    drawn = render_clips([clip], [np.arange(count) / count], (size[1], size[0]))[0].numpy() * 255
    difference = np.abs(pixels - drawn)
    assert difference.mean() < 4  # grain and compression
    # An object in another place would be far off: hold against the frames in reverse, too.
    moving = np.abs(drawn - drawn[::-1]).max() > 50
    assert not moving or difference.mean() < np.abs(pixels - drawn[::-1]).mean() / 1.3


def test_images_know_what_covers_each_patch() -> None:
    generator = torch.Generator().manual_seed(0)
    frames, truth = random_images(16, image_size=96, patch_size=8, generator=generator)
    assert frames.shape == (16, 3, 96, 96)
    assert truth.colour.shape == (16, 144)
    assert bool(((truth.colour > 0) == truth.covered).all())
    # The mean colour of fully covered red patches is red.
    red = list(COLOURS).index("red") + 1
    patches = frames.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).flatten(2).transpose(1, 2)
    mean = patches[truth.colour == red].mean(0)
    assert mean[0] > mean[1] + 0.3
    assert mean[0] > mean[2] + 0.3


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


def test_files_and_questions_are_written_and_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    options = {"clips": 2, "seed": 9, "seconds": (2.0, 3.0), "size": (64, 64), "fps": 8.0}
    path = write_clips(tmp_path, **options)
    rows = read_questions(path)
    videos = sorted({row["video"] for row in rows})
    assert len(videos) == 2
    assert all((tmp_path / video).is_file() for video in videos)
    assert {"id", "video", "type", "question", "answer", "phrasing"} <= set(rows[0])
    first, second = (tmp_path / video for video in videos)
    kept = first.stat().st_mtime_ns
    second.unlink()
    assert read_questions(write_clips(tmp_path, **options)) == rows
    assert first.stat().st_mtime_ns == kept
    assert second.is_file()
    assert not list(tmp_path.glob(".*"))


def test_clips_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    options = {"clips": 1, "seed": 9, "seconds": (2.0, 3.0), "size": (64, 64), "fps": 8.0}
    questions = write_clips(tmp_path, **options).read_text()
    for other in ({"seconds": (2.0, 4.0)}, {"size": (64, 128)}, {"fps": 9.0}):
        with pytest.raises(UsageError, match=f"different values of `{next(iter(other))}` "):
            write_clips(tmp_path, **{**options, **other})
    with pytest.raises(UsageError, match="values of `size` and `fps` "):
        write_clips(tmp_path, **{**options, "size": (64, 128), "fps": 9.0})
    assert (tmp_path / "questions.jsonl").read_text() == questions


@pytest.mark.parametrize("codec", ["h265", "libvpx", "aac", "mjpeg"])
def test_a_codec_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, codec: str) -> None:
    with pytest.raises(UsageError, match=f"codec {codec}: no encoder"):
        write_clips(tmp_path / "new", clips=1, seed=9, codec=codec)
    assert not list(tmp_path.iterdir())


def test_questions_of_others_are_not_replaced(tmp_path: Path) -> None:
    options = {"clips": 1, "seconds": (2.0, 2.0), "size": (64, 64), "fps": 8.0}
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "1-mine"}\n')
    with pytest.raises(UsageError, match="holds other questions"):
        write_clips(tmp_path, seed=1, **options)
    path.unlink()
    first = write_clips(tmp_path, seed=1, **options).read_text()
    with pytest.raises(UsageError, match="of another seed"):
        write_clips(tmp_path, seed=11, **options)
    assert write_clips(tmp_path, seed=1, **options).read_text() == first
    more = write_clips(tmp_path, seed=1, **{**options, "clips": 2}).read_text()
    assert more.startswith(first)
    with pytest.raises(UsageError, match="about 2 clips, up to 8 about each, and would lose some"):
        write_clips(tmp_path, seed=1, **options)
    path.write_text(first)
    with pytest.raises(UsageError, match="would lose some"):
        write_clips(tmp_path, seed=1, **options, questions_per_clip=2)
    for added in ("no JSON", '{"id": "mine"}', '["id"]', '{"id": 7}'):
        path.write_text(f"{first}{added}\n")
        with pytest.raises(UsageError, match="holds other questions"):
            write_clips(tmp_path, seed=1, **options)
        assert path.read_text() == f"{first}{added}\n"
    path.unlink()  # as an interrupted run leaves it
    assert write_clips(tmp_path, seed=1, **options).read_text() == first


@pytest.mark.parametrize("settings", ["[]", "{half"])
def test_a_file_that_only_has_the_name_of_the_settings_stays(tmp_path: Path, settings: str) -> None:
    (tmp_path / "clips.json").write_text(settings)
    with pytest.raises(UsageError, match="choose another folder"):
        write_clips(tmp_path, clips=1, seed=1)
    assert (tmp_path / "clips.json").read_text() == settings


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("name", ["clips.json", "questions.jsonl"])
def test_a_pipe_is_not_waited_for_and_a_link_not_followed(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match=rf"{name}: not a regular file"):
        write_clips(tmp_path, clips=1, seed=1, seconds=(1, 1), size=(64, 64))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("{}")
    with pytest.raises(UsageError, match=rf"{name}: a link"):
        write_clips(tmp_path, clips=1, seed=1, seconds=(1, 1), size=(64, 64))
    assert (tmp_path / "elsewhere").read_text() == "{}"


def test_the_same_questions_at_another_size_and_rate(tmp_path: Path) -> None:
    common = {"clips": 1, "seed": 9, "seconds": (2.0, 2.0)}
    small = read_questions(write_clips(tmp_path / "a", size=(64, 64), fps=8.0, **common))
    large = read_questions(write_clips(tmp_path / "b", size=(128, 128), fps=25.0, **common))
    asked = [[(row["question"], row["answer"]) for row in rows] for rows in (small, large)]
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    "wrong", [{"clips": 0}, {"seconds": (5.0, 2.0)}, {"size": (65, 64)}, {"fps": 1.0}]
)
def test_impossible_wishes_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UsageError):
        write_clips(tmp_path, **{"clips": 1, "seed": 0} | wrong)
    assert not list(tmp_path.iterdir())


def test_a_broken_question_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"video": "a.mp4"}\n')
    with pytest.raises(UsageError, match="line 1: lacks answer, question, type"):
        read_questions(path)
    with pytest.raises(UsageError, match="each line is a JSON object with video, type, question"):
        read_questions(path)
    path.write_text("7\n")
    with pytest.raises(UsageError, match="line 1: not a JSON object"):
        read_questions(path)
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_questions(path)
    path.write_text("no json\n")
    with pytest.raises(UsageError, match="line 1: not JSON"):
        read_questions(path)
    path.write_text(json.dumps({"video": "a", "type": "x", "question": "?", "answer": "!"}) + "\n")
    with pytest.raises(UsageError, match="line 1: type 'x' is not one of describe"):
        read_questions(path)
    path.write_text(
        json.dumps({"video": "a", "type": "when", "question": "?", "answer": "!"}) + "\n"
    )
    with pytest.raises(UsageError, match="line 1: lacks tolerance"):
        read_questions(path)


@pytest.mark.parametrize(
    ("kind", "answer", "options"),
    [
        ("size", "!", None),
        ("size", "small or large", None),
        ("yes_no", "maybe", None),
        ("count", "a few", None),
        ("describe", "a man walks his dog", None),
        ("multiple_choice", "E", 4),
        ("multiple_choice", "AB", 4),
        ("multiple_choice", "", 4),
        ("multiple_choice", "A", 0),
    ],
)
def test_a_row_that_no_answer_could_get_right_is_refused(
    tmp_path: Path, kind: str, answer: str, options: int | None
) -> None:
    path = tmp_path / "q.jsonl"
    row: dict[str, object] = {"video": "a", "type": kind, "question": "?", "answer": answer}
    if options is not None:
        row["options"] = ["red", "blue", "cyan", "green", "pink", "brown"][:options]
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=r"line 1: answer .*(cannot be scored as|is empty)"):
        read_questions(path)


def test_rows_of_others_are_scored_too(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    options = ["red", "blue", "cyan", "green", "pink", "brown"]
    rows = [
        {"type": "yes_no", "answer": "Yes"},
        {"type": "colour", "answer": "Red"},
        {"type": "count", "answer": 12},
        {"type": "multiple_choice", "answer": "E", "options": options},
    ]
    lines = [json.dumps({"video": "a", "question": "?", **row}) + "\n" for row in rows]
    path.write_text("".join(lines))
    yes, red, twelve, fifth = read_questions(path)
    assert score(yes, "yes, it is")
    assert score(red, "It is red.")
    assert score(twelve, "There are 12.")
    assert not score(twelve, "There are 1 or 2.")
    assert score(fifth, "E")
    assert score(fifth, "E. pink")
    assert score(fifth, "pink")
    assert not score(fifth, "A")


def test_frames_have_the_grain_of_a_camera_and_repeat() -> None:
    clip = make_clip("eval", 0, 0, duration=2.0)
    once, again = ([*frames_of(clip, size=(64, 64), fps=4)] for _ in range(2))
    assert len(once) == 8
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
