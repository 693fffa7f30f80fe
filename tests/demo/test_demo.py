"""The shipped checkpoint: what it is, and that it answers through the whole path."""

import json
from pathlib import Path

import numpy as np
import pytest

import crosslmm
from crosslmm.checkpoints.catalog import demo_folder
from crosslmm.evaluation.runner import evaluate
from crosslmm.evaluation.scoring import is_right
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.synthetic import SAMPLE_QUESTIONS, write_clips, write_sample
from crosslmm.synthetic.frames import render_clips
from crosslmm.synthetic.sample import sample_answers, sample_clip
from crosslmm_cli.main import execute


@pytest.fixture(scope="module")
def assistant() -> "crosslmm.Assistant":
    return crosslmm.load("demo")


def test_it_is_an_ordinary_checkpoint_of_at_most_15_megabytes() -> None:
    files = [path for path in demo_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15_000_000
    names = {path.name for path in files}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja",
            "processor_config.json", "README.md"} <= names  # fmt: skip
    assert not any(path.suffix in (".bin", ".pt", ".pth", ".pkl", ".py") for path in files)


def test_both_branches_of_two_layers_are_open(assistant: "crosslmm.Assistant") -> None:
    layers = assistant.model.model.cross_attention_layers.values()
    gates = [[float(b.gate.detach().tanh().abs()) for b in (x.v2v, x.t2v)] for x in layers]
    assert sum(min(pair) > 0.05 for pair in gates) >= 2


def test_the_three_answers_of_the_demo_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["demo", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "`crosslmm setup`" in captured.err.splitlines()[-1]
    said = captured.out.splitlines()
    assert [line.removeprefix("> ") for line in said[::2]] == list(SAMPLE_QUESTIONS)
    for row, answer in zip(sample_answers(), said[1::2], strict=True):
        assert is_right(row, answer), (row, answer)
    assert (tmp_path / "sample.mp4").is_file()


def test_its_evidence_is_where_things_are_and_when_they_happen(
    assistant: "crosslmm.Assistant",
) -> None:
    clip, count = sample_clip(), assistant.default_frames
    moments = (np.arange(count) + 0.5) / count
    frames = render_clips([clip], [moments], (96, 96))[0].mul(255).round().byte()
    times = (moments * clip.duration).tolist()
    video = assistant.open_video(frames, times=times)
    happens = video.evidence(video.ask("What happens?"))
    events = [event.time * clip.duration for event in clip.events]
    found = sorted(happens.moments, key=lambda moment: moment.start)
    assert len(found) == len(events) == 2
    for moment, event in zip(found, events, strict=True):
        assert moment.start < event < moment.end
    names = [f"{thing.colour} {thing.shape}" for thing in clip.things]
    number = names.index("red diamond")
    moment = video.evidence(video.ask("What size is the red diamond?")).moments[0]
    x, y = clip.centres(moments)[moment.frame, number]
    left, top, right, bottom = moment.regions[0].box
    assert left < x < right
    assert top < y < bottom


def test_its_reasoning_is_apart_from_its_answer(
    assistant: "crosslmm.Assistant", tmp_path: Path
) -> None:
    video = assistant.open_video(write_sample(tmp_path), frames=8)
    response = video.stream("What happens?")
    said, answer = "".join(response), response.answer
    assert answer.reasoning is not None
    assert answer.reasoning.startswith("1: nothing at 0.38s, 2: ")
    assert said == f"{answer.reasoning}, so {answer.text}"
    assert answer.as_dict()["reasoning"] == answer.reasoning
    assert video.ask("What size is the red diamond?").reasoning is None
    assert video.ask_all(["What happens?"]) == [answer.text]
    start, end = answer.text.index("red"), answer.text.index("red") + len("red diamond")
    evidence = video.evidence(answer, part=(start, end))
    assert evidence.answer == said
    assert evidence.moments != video.evidence(answer).moments


def test_the_sample_is_the_same_clip_every_time(tmp_path: Path) -> None:
    first, second = write_sample(tmp_path / "a"), write_sample(tmp_path / "b.mp4")
    assert first.name == "sample.mp4"
    assert first.read_bytes() == second.read_bytes()


def test_the_sample_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    movie = tmp_path / "movie.mp4"
    movie.write_text("mine")
    assert execute(["demo", "--out", str(movie)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert movie.read_text() == "mine"


def test_clips_never_seen_are_answered_from_the_file(
    tmp_path: Path, assistant: "crosslmm.Assistant"
) -> None:
    path = write_clips(tmp_path, clips=4, seed=41, seconds=(2, 6), size=(192, 192), fps=12)
    report = evaluate(read_questions(path), assistant, tmp_path)
    assert report.count >= 24
    assert report.accuracy >= 0.9  # the model card has the measurement


def test_eval_counts_by_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["synth", str(tmp_path), "--clips", "1", "--seconds", "2-2", "--size", "96x96",
                    "--fps", "8"]) == 0  # fmt: skip
    questions = Path(capsys.readouterr().out.strip())
    assert execute(["eval", str(questions), "--model", "demo", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {"accuracy", "count", "types"} <= set(summary)
    assert all(set(part) == {"accuracy", "count"} for part in summary["types"].values())
    assert sum(part["count"] for part in summary["types"].values()) == summary["count"]
    mean = sum(p["accuracy"] * p["count"] for p in summary["types"].values()) / summary["count"]
    assert mean == pytest.approx(summary["accuracy"], abs=1e-3)


def test_a_video_that_fails_costs_its_own_questions_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clips(tmp_path, clips=2, seed=5, seconds=(2, 2), size=(96, 96), fps=8)
    rows = read_questions(path)
    rows = [row for pair in zip(rows[:4], rows[-4:], strict=True) for row in pair]  # in turn
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = rows[0]["video"]
    (tmp_path / broken).write_bytes(b"not a video")
    answers = tmp_path / "answers.jsonl"
    assert execute(["eval", str(path), "--model", "demo", "--answers", str(answers)]) == 3
    assert broken in capsys.readouterr().err
    said = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(said) == len(rows)
    assert all(("error" in row) == (row["video"] == broken) for row in said)


@pytest.mark.parametrize(
    "wrong", [["--size", "big"], ["--seconds", "soon"], ["--fps", "1"], ["--size", "65x64"]]
)
def test_synth_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    assert execute(["synth", str(tmp_path / "d"), *wrong]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 2
    assert not (tmp_path / "d").exists()
