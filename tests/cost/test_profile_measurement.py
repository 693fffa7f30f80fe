"""What `profile` measures, and what it says before and beside it."""

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "wrong",
    [
        ["--plot", "bars.gif"],
        ["--fits", "lots"],
        ["--compare", "paper"],
        ["--compare", "nothing-here"],
        ["--video", "nowhere.mp4"],
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, wrong: list[str]
) -> None:
    def loaded(*arguments: object, **options: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr("crosslmm_cli.profile.load_assistant", loaded)
    done = run("profile", "-m", checkpoint, "--measure", *wrong)
    assert done.code in (1, 2)
    assert wrong[1] in done.err or "the paper's figure 4" in done.err


def test_timings_are_shown_before_a_picture_fails(
    run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crosslmm_cli.profile.draw", full)
    done = run(
        "profile", "-m", checkpoint, "--measure", "-n", "2", "--repeats", "1",
        "--plot", tmp_path / "bars.png",
    )  # fmt: skip
    assert done.code == 1
    assert "Measured on" in done.out


@pytest.mark.parametrize("option", [["--repeats", "2"], ["--video", "x.mp4"], ["--device", "cpu"]])
def test_options_of_a_measurement_need_one(run, option: list[str]) -> None:
    done = run("profile", "-m", "crosslmm-2b", *option)
    assert (done.code, done.out) == (2, "")
    assert "--measure" in done.err


def test_measuring(run, checkpoint: Path, clip: Path) -> None:
    done = run(
        "profile", "--model", checkpoint, "--measure", "--video", clip, "-n", "2,4",
        "--repeats", "2", "--device", "cpu", "--dtype", "float32", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert [item["frames"] for item in record["measured"]] == [2, 4]
    for item in record["measured"]:
        for stage in ("encode", "prefill", "first_token", "second_question"):
            spread = item[stage]
            assert 0 < spread["fastest"] <= spread["median"] <= spread["slowest"]
        assert item["first_token"]["median"] > item["second_question"]["median"]
        assert item["repeats"] == 2
        assert item["settings"]["device"] == "cpu"
        assert item["estimated_peak"] > 0
        if sys.platform == "linux":
            assert item["peak"] >= 0


def test_measuring_makes_its_own_clip(run, checkpoint: Path) -> None:
    done = run(
        "profile", "-m", checkpoint, "--measure", "-n", "2", "--repeats", "1", "--device", "cpu"
    )
    assert done.code == 0, done.err
    assert "Measured on" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_measuring_more_frames_than_there_are(run, checkpoint: Path, clip: Path) -> None:
    done = run(
        "profile", "-m", checkpoint, "--measure", "--video", clip, "-n", "64", "--repeats", "1"
    )
    assert done.code == 1
    assert "has 30 frames, fewer than 64" in done.err


def test_peak_memory_sees_what_is_taken_and_given_back() -> None:
    import torch

    from crosslmm.inference.measurement import peak_memory

    with peak_memory(torch.device("cpu")) as peak:
        block = torch.ones(64, 2**20, dtype=torch.uint8)
        del block
    if sys.platform != "linux":
        assert peak.bytes is None
    else:
        assert 60 * 2**20 < peak.bytes < 100 * 2**20
