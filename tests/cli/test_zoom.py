"""`crosslmm ask --zoom`: skim, then look again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture `run`


def test_the_moments_are_said(run: Run, clip: Path, checkpoint: Path) -> None:
    asked = ("ask", clip, "what?", "--model", checkpoint, "--zoom", "--max-new-tokens", 3)
    done = run(*asked, "--frames", 8)
    assert done.code == 0
    assert "skimmed 16 of 30 frames" in done.err
    assert "looked again at " in done.err
    record = json.loads(run(*asked, "--frames", 8, "--json").out)
    assert record["answer"] == done.out.strip()
    again = record["looked_again"]
    assert (again["skimmed"], again["tokens"]) == (16, 8 * 4)
    assert len(record["frames"]) == 4
    assert len(again["moments"]) == 2


def test_it_goes_on_with_the_frames_that_were_looked_at(
    run: Run, clip: Path, checkpoint: Path
) -> None:
    asked = ("ask", clip, "what?", "--model", checkpoint, "--zoom", "--max-new-tokens", 3)
    looked = json.loads(run(*asked, "--frames", 8, "--end", 2, "--json").out)["frames"]
    assert json.loads(run("ask", "-c", "and?", "--json").out)["frames"] == looked
    assert run("ask", "-c", "and?", "--sampler", "codec").code == 0


def test_a_share_of_tokens_that_is_remembered_gives_way(
    run: Run, clip: Path, checkpoint: Path
) -> None:
    assert run("models", "use", checkpoint, "--keep", "50%").code == 0
    for merging in ((), ("--merge", "none")):
        done = run("ask", clip, "what?", "--zoom", "--frames", 8, *merging, "--max-new-tokens", 1)
        assert done.code == 0, done.err
        assert "looked again at" in done.err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--frames", "max"), "--zoom stays within the tokens of --frames"),
        (("--fit", "8GB"), "--zoom stays within the tokens of --frames"),
        (("--merge", "folder", "--keep", "10%"), "--zoom and --merge exclude each other"),
        (("--fps", "2"), "--fps and --zoom exclude each other"),
        (("--sampler", "scene"), "--sampler and --zoom exclude each other"),
    ],
)
def test_what_does_not_go_together_is_refused(
    run: Run, clip: Path, extra: tuple[str, ...], words: str
) -> None:
    done = run("ask", clip, "what?", "--zoom", *extra)
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_a_skim_is_not_what_the_built_in_model_answers_from(run: Run, tmp_path: Path) -> None:
    from crosslmm.synthetic import write_needles

    small: Any = {"size": (64, 64), "fps": 8.0, "lengths": (32,)}
    write_needles(tmp_path, clips=1, seed=3, **small)
    video = tmp_path / "needle-3-00000.mp4"
    done = run("ask", video, "what?", "--model", "demo", "--zoom", "--max-new-tokens", 1)
    assert "skimmed 32 of 32 frames" in done.err
    assert "get worse" not in done.err
