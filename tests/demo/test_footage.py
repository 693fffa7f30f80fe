"""Footage that the built-in model does not know: warned of, and refused where nobody chose the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosslmm
from crosslmm.errors import UnfamiliarFootage
from crosslmm.inference.batch import answer_batch
from crosslmm.inference.footage import UNFAMILIAR
from crosslmm.inference.session import VideoSession
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.synthetic.clips import plan_clip, write_video
from crosslmm.video.writing import write_frames
from tests.conftest import Finished

Run = Callable[..., Finished]
BRIEF = ("--max-new-tokens", 3)
REFUSED = (
    "the built-in demo model knows synthetic shape clips only and cannot describe real footage; "
    "`crosslmm setup` downloads a model that can, --model demo uses the built-in one all the same"
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic clip."""
    path = tmp_path_factory.mktemp("clips") / "shapes.mp4"
    clip = plan_clip("eval", 41, 3, seconds=(3.0, 3.0), aspect=1.0)
    write_video(clip, path, size=(128, 128), fps=12.0)
    return path


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that is none: coarse noise in all colours."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("clips") / "noise.mp4"
    coarse = random.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    write_frames(path, (frame.repeat(8, 0).repeat(8, 1) for frame in coarse), fps=12)
    return path


def test_synthetic_clips_are_answered_without_a_warning(run: Run, home: Path, shapes: Path) -> None:
    finished = run("ask", shapes, "What happens?", *BRIEF, "--json")
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["warnings"] == []
    assert "warning" not in finished.err


def test_other_footage_is_refused_where_nobody_chose_the_model(
    run: Run, home: Path, noise: Path
) -> None:
    finished = run("ask", noise, "What happens?", *BRIEF)
    assert (finished.code, finished.out) == (1, "")
    assert finished.err == f"crosslmm: {noise}: {REFUSED}\n"


def test_ask_and_caption_refuse_in_the_same_words(run: Run, home: Path, noise: Path) -> None:
    finished = run("caption", noise, "--out", noise.with_suffix(".jsonl"))
    assert finished.code == 2
    assert finished.err == f"crosslmm: no model is chosen: {REFUSED}\n"


def test_footage_is_refused_before_the_language_model_runs(
    noise: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefilled: list[str] = []
    prefill = VideoSession.prefill

    def counted(self: VideoSession, visual: VisualTokens, *kept: Any) -> None:
        prefilled.append(self.video)
        prefill(self, visual, *kept)

    monkeypatch.setattr(VideoSession, "prefill", counted)
    assistant = crosslmm.load("demo")
    with pytest.raises(UnfamiliarFootage, match="made up"):
        assistant.open_video(noise, allow_unfamiliar=False)
    assert prefilled == []
    assert assistant.open_video(shapes, allow_unfamiliar=False).warnings == ()
    assert assistant.open_video(noise).warnings == (UNFAMILIAR,)


@pytest.mark.parametrize("chosen_by", ["option", "environment", "setting"])
def test_other_footage_is_answered_with_a_warning_by_choice(
    run: Run, home: Path, noise: Path, monkeypatch: pytest.MonkeyPatch, chosen_by: str
) -> None:
    if chosen_by == "environment":
        monkeypatch.setenv("CROSSLMM_MODEL", "demo")
    elif chosen_by == "setting":
        assert run("models", "use", "demo").code == 0
    option = ["--model", "demo"] if chosen_by == "option" else []
    finished = run("ask", noise, "What happens?", *BRIEF, "--json", *option)
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["warnings"] == [UNFAMILIAR]
    assert f"warning: {UNFAMILIAR}" in finished.err


def test_a_batch_warns_of_its_unfamiliar_clips_only(shapes: Path, noise: Path) -> None:
    assistant = crosslmm.load("demo")
    clips = [crosslmm.sample(path, frames=8) for path in (shapes, noise)]
    asked = ["What happens?"] * 2
    batch = answer_batch(assistant.runtime, clips, asked, max_new_tokens=3)
    assert [answer.warnings for answer in batch.answers] == [(), (UNFAMILIAR,)]


def test_python_is_warned_of_unfamiliar_footage(shapes: Path, noise: Path) -> None:
    assistant = crosslmm.load("demo")
    brief = {"frames": 8, "max_new_tokens": 1}
    with pytest.warns(UserWarning, match="noise.mp4: this footage is unlike") as told:
        answer = assistant.ask(noise, "What happens?", **brief)
    assert answer.warnings == (UNFAMILIAR,)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="unlike"):
        assistant.stream(noise, "What happens?", **brief)
    clip = crosslmm.sample(noise, frames=8)
    with pytest.warns(UserWarning, match="unlike"):
        assistant.answer_batch([clip], ["What happens?"], max_new_tokens=1)
    assert assistant.ask(shapes, "What happens?", **brief).warnings == ()  # nor a Python warning


def test_more_frames_than_it_was_trained_on_are_warned_of(shapes: Path) -> None:
    video = crosslmm.load("demo").open_video(shapes, frames=25)
    assert video.warnings == (
        "the built-in model was trained on up to 24 frames of a video; with 25 its answers get worse",
    )
