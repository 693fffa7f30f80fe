"""`crosslmm ask a.mp4 b.mp4 --question`: several videos in one question."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clips import write_clip

Run = Callable[..., Any]  # the fixture `run`


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other.mp4"
    write_clip(path, frames=12, fps=6)
    return path


@pytest.fixture
def ask(run: Run, clip: Path, other: Path, checkpoint: Path, home: Path) -> Run:
    def ask(*arguments: object) -> Any:
        options = ("--model", checkpoint, "--frames", 5, "--max-new-tokens", 3)
        return run("ask", clip, other, *options, *arguments)

    return ask


def test_all_arguments_are_videos_where_the_question_is_an_option(
    ask: Run, clip: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ask("--question", "which?")
    assert done.code == 0, done.err
    assert done.err.splitlines()[:2] == [
        "video 1, clip.mp4: 3 of 30 frames, one per 1 s",
        "video 2, other.mp4: 2 of 12 frames, one per 1.2 s",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("which?\n"))
    records = [json.loads(line) for line in ask("-Q", "-", "-Q", "why?", "--json").out.splitlines()]
    assert [record["question"] for record in records] == ["which?", "why?"]
    assert records[0]["answer"] == done.out.strip()
    videos = [str(clip), str(other)]
    assert [frame["video"] for frame in records[0]["frames"]] == videos[:1] * 3 + videos[1:] * 2
    assert f"Video 2 ({other.name}):" in records[0]["prompt"]


def test_one_video_may_have_its_question_as_an_option(
    run: Run, clip: Path, checkpoint: Path, home: Path
) -> None:
    options = ("--model", checkpoint, "--frames", 2, "--max-new-tokens", 3)
    assert run("ask", clip, "-Q", "who?", *options).out == run("ask", clip, "who?", *options).out


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("which?",), "other.mp4: a file name in the place of a question"),
        ((), "other.mp4: a file name in the place of a question"),
        (("-q", "which?"), "give the question with --question"),  # not the letter of --quiet
        (("-Q", "which?", "--zoom", "--when"), "--when and --zoom exclude each other"),
        (("-Q", "which?", "--zoom", "--frames", "1"), "--frames is for all videos together: 1 are"),
        (
            ("-Q", "which?", "--zoom", "--frames", "2"),
            "too few to skim and to look again at 2 videos",
        ),
        (("-Q", "which?", "--frames", "1"), "--frames is for all videos together: 1 are too few"),
        (("-Q", "which?", "--max-frames", "1"), "--max-frames is for all videos together"),
        (("-Q", " "), "a question is empty"),
    ],
)
def test_what_is_refused(ask: Run, extra: tuple[str, ...], words: str) -> None:
    done = ask(*extra)
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_videos_that_are_missing(run: Run, clip: Path, checkpoint: Path) -> None:
    missing = run("ask", clip, "gone.mp4", "-Q", "which?")
    assert (missing.code, missing.err) == (1, "crosslmm: gone.mp4: no such file\n")
    meant = run("ask", clip, "gone.mp4", "which?")
    assert meant.code == 2
    assert "gone.mp4: a file name in the place of a question" in meant.err
    assert run("ask", clip).err.startswith("crosslmm: Missing argument 'QUESTION': give it after")
    talk = ("ask", clip, "what is in gone.mp4", "--model", checkpoint, "--max-new-tokens", 1)
    assert run(*talk, "--frames", 1).code == 0


def test_they_are_gone_on_with(
    ask: Run, run: Run, clip: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(ask("-Q", "which?", "--json").out)
    done = run("ask", "-c", "and why?", "--max-new-tokens", 3, "--json")
    assert done.err.startswith(f"going on after 1 question with {clip} {other} --")
    second = json.loads(done.out)
    assert second["frames"] == first["frames"]
    assert "which?" in second["prompt"]
    assert "and how?" in run("ask", "-c", "-Q", "and how?", "--max-new-tokens", 1, "--json").out
    monkeypatch.setattr("sys.stdin", io.StringIO("really?\n"))
    talked = json.loads(run("chat", "-c", "--json", "--max-new-tokens", 3).out)
    assert talked["frames"] == first["frames"]
    assert "and how?" in talked["prompt"]
    for refused in (
        ["ask", "-c", other, "-Q", "x"],
        ["ask", "-c", "-", "-Q", "x"],
        ["ask", "-c", "gone.mp4", "-Q", "x"],
        ["chat", "-c", clip, other],
    ):
        assert "leave out either --continue or" in run(*refused).err


def test_chat_about_both(
    run: Run,
    clip: Path,
    other: Path,
    checkpoint: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = f"which?\n/evidence {tmp_path / 'e.json'}\n/open {clip}\nwho?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    options = ("--model", checkpoint, "--frames", 4, "--max-new-tokens", 2, "--json")
    done = run("chat", clip, other, *options)
    first, second = map(json.loads, done.out.splitlines())
    assert done.code == 0
    assert first["videos"] == [str(clip), str(other)]
    shown = json.loads((tmp_path / "e.json").read_text())
    assert shown["videos"] == first["videos"]
    assert [frame["video"] for frame in shown["frames"]] == [
        frame["video"] for frame in first["frames"]
    ]
    assert (second["video"], len(second["frames"])) == (str(clip), 4)


def test_evidence_names_the_video(
    ask: Run, clip: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(clip), str(other)]
    for suffix in ("json", "html", "png"):
        done = ask("-Q", "which?", "--evidence", f"e.{suffix}")
        assert done.code == 0, done.err
        wrote = done.err.splitlines()[-1]
        assert wrote.startswith(f"wrote e.{suffix} in ")
        assert wrote.endswith(tuple(f" s of {name}" for name in names))
    found = json.loads(Path("e.json").read_text())
    assert (found["video"], found["videos"]) == (", ".join(names), names)
    assert {item["video"] for item in found["moments"] + found["spans"]} <= set(names)
    assert all("video" not in word for word in found["words"])


def test_when_has_a_line_for_each_video(ask: Run, clip: Path, other: Path) -> None:
    answer = ask("-Q", "which?").out
    said = ask("-Q", "which?", "--when").out.removeprefix(answer).splitlines()
    spans = json.loads(ask("-Q", "which?", "--when", "--json").out)["when"]
    expected = []
    for name in (str(clip), str(other)):
        own = [span for span in spans if span["video"] == name]
        times = ", ".join(f"{span['start']:.2f}-{span['end']:.2f} s" for span in own)
        number = len(expected) + 1
        expected.append(f"video {number}, {name}: {times or 'seen at no time'}")
    assert said == expected


def test_all_are_skimmed_and_looked_at_again(ask: Run, clip: Path, other: Path) -> None:
    done = ask("-Q", "which?", "--zoom", "--frames", 8)
    assert done.code == 0, done.err
    first, second, *_, last = done.err.splitlines()
    assert first.startswith("video 1, clip.mp4: skimmed 8 of 30 frames")
    assert second.startswith("video 2, other.mp4: skimmed 8 of 12 frames")
    assert last.startswith("looked again at ")
    assert f" of {clip}; " in last
    assert last.endswith(f" of {other}")
    record = json.loads(ask("-Q", "which?", "--zoom", "--frames", 8, "--json").out)
    assert record["answer"] == done.out.strip()
    assert record["looked_again"]["tokens"] == 8 * 4
    assert {each["video"] for each in record["frames"]} == {str(clip), str(other)}


def test_footage_that_the_built_in_model_cannot_know(
    run: Run, clip: Path, tmp_path: Path, home: Path
) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = run("ask", clip, tmp_path / "noise.png", "-Q", "which?")
    assert done.code == 1
    assert f"{clip}, {tmp_path / 'noise.png'}: the built-in demo model knows" in done.err
