"""Folders of clips with their questions: written, gone on with, and read."""

import json
import os
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm.evaluation.scoring import is_right as score
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.synthetic import write_clips


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
