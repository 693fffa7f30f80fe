"""`crosslmm ask --evidence`: what an answer was read from, as a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]  # the fixture `run`


def test_the_numbers_of_an_answer(
    run: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("ask", clip, "what?", "--model", checkpoint, "--frames", 4, "--max-new-tokens", 6)
    done = run(*asked, "--evidence", "e.json")
    assert done.code == 0
    assert done.err.splitlines()[-1].startswith("wrote e.json in ")
    found = json.loads(Path("e.json").read_text())
    assert found["answer"] == done.out.strip()
    assert (found["video"], found["question"]) == (str(clip), "what?")
    assert sum(frame["score"] for frame in found["frames"]) == pytest.approx(1, abs=1e-3)
    for moment in found["moments"]:
        assert 0 <= moment["start"] <= moment["time"] <= moment["end"]
        for region in moment["regions"]:
            left, top, right, bottom = region["box"]
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1


def test_a_link_is_not_written_through(run: Run, clip: Path, tmp_path: Path) -> None:
    victim, link = tmp_path / "victim.json", tmp_path / "link.json"
    victim.write_text("mine")
    link.symlink_to(victim)
    done = run("ask", clip, "what?", "--evidence", link)
    assert (done.code, victim.read_text()) == (2, "mine")
    assert "links are not followed" in done.err


def test_an_image_is_not_replaced_by_its_evidence(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    content = image.read_bytes()
    done = run("ask", image, "what?", "--evidence", tmp_path / "." / "image.png")
    assert (done.code, image.read_bytes()) == (2, content)
    assert "would replace the image" in done.err


def test_when_is_printed_after_the_answer(run: Run, clip: Path, checkpoint: Path) -> None:
    asked = ("ask", clip, "what?", "--model", checkpoint, "--frames", 4, "--max-new-tokens", 6)
    answer = run(*asked).out
    done = run(*asked, "--when")
    assert done.code == 0
    assert done.out.startswith(answer)
    record = json.loads(run(*asked, "--when", "--json").out)
    assert record["answer"] == answer.strip()
    times = [f"{span['start']:.2f}-{span['end']:.2f} s" for span in record["when"]]
    assert done.out.removeprefix(answer) == ", ".join(times) + "\n"
    assert all(0 <= span["start"] < span["end"] <= 3 for span in record["when"])
    assert "when" not in json.loads(run(*asked, "--json").out)


def test_spans_need_frames_all_over_the_video(run: Run, clip: Path) -> None:
    done = run("ask", clip, "what?", "--when", "--zoom")
    assert done.code == 2
    assert "--when and --zoom exclude each other" in done.err
