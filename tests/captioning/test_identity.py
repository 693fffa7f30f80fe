"""The model is known from its files: a run with nothing to do does not load it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.captioning.engines.local import start
from crosslmm.captioning.identity import read_identity
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.checkpoints import catalog
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.inference.assistant import Assistant
from crosslmm.limits import DEFAULT_FRAMES
from tests.support.clips import write_clip

AGAIN = """
import sys, time
import crosslmm
folder, checkpoint, out = sys.argv[1:]
run = crosslmm.caption(folder, assistant=checkpoint, out=out, frames=2, max_new_tokens=4,
                       model_options={"dtype": "float32"})
assert list(run) == [] and run.summary.kept == 1
print(time.process_time(), *(name for name in ("torch", "transformers") if name in sys.modules))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", frames=4)
    return tmp_path / "clips"


@pytest.mark.parametrize(
    "model_options",
    [
        {},
        {"dtype": "bfloat16"},
        {"tokens_per_frame": 1},
        {"quantization": "8bit", "dtype": "float32"},
    ],
)
def test_a_model_is_the_same_by_its_files_as_when_loaded(
    checkpoint: Path, model_options: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"options": CaptionOptions(), "run_options": RunOptions()}
    by_files = start(checkpoint, model_options, workers=None, on_notice=None, **options)
    loaded = start(
        crosslmm.load(checkpoint, **model_options), {}, workers=None, on_notice=None, **options
    )
    for name in ("model", "fingerprint", "settings", "default_frames", "versions"):
        assert getattr(by_files, name) == getattr(loaded, name)


def test_the_built_in_model_is_the_same_by_its_files_as_when_loaded() -> None:
    assistant = crosslmm.load("demo")
    identity = read_identity(catalog.demo_folder(), {})
    assert identity.as_settings() == {
        "dtype": assistant.settings["dtype"],
        "quantization": assistant.quantization,
        "tokens_per_frame": str(assistant.tokens_per_frame),
    }
    assert identity.default_frames == assistant.default_frames


def test_a_llava_onevision_is_read_as_it_is_loaded(tmp_path: Path) -> None:
    """196 tokens per frame, from 27 × 27 patches."""
    config = {
        "model_type": "llava_onevision",
        "vision_config": {"image_size": 384, "patch_size": 14},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    identity = read_identity(tmp_path, {"quantization": "none", "dtype": "float32"})
    assert (identity.tokens_per_frame, identity.default_frames) == (196, DEFAULT_FRAMES)


def test_impossible_options_are_refused_before_the_model_is_loaded(checkpoint: Path) -> None:
    for options in (
        {"tokens_per_frame": 7},
        {"dtype": "float8"},
        {"device": "gpu"},
        {"quantization": "2bit"},
    ):
        with pytest.raises(UsageError):
            read_identity(checkpoint, options)


def test_features_in_8_bits_are_in_the_settings_and_another_run(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    options: dict[str, Any] = {"out": out, "frames": 2, "max_new_tokens": 2, "readers": 0}

    def count(assistant: Any, bits: int | None = None) -> int:
        chosen = {"dtype": "float32"} | ({} if bits is None else {"feature_bits": bits})
        by_name = isinstance(assistant, Path)
        run = crosslmm.caption(
            folder, assistant=assistant, model_options=chosen if by_name else None, **options
        )
        return sum(result.settings.get("features") == "8bit" for result in run)

    assert count(checkpoint) == 0
    done = count(checkpoint, 8)
    assert done > 0
    assert count(checkpoint, 8) == 0  # nothing is left to do
    assert count(crosslmm.load(checkpoint, dtype="float32", feature_bits=8)) == 0
    with pytest.raises(UsageError, match="`feature_bits` must be 8"):
        count(checkpoint, 4)


def test_a_second_run_imports_no_torch(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    options: dict[str, Any] = {"frames": 2, "max_new_tokens": 4, "readers": 0}
    (folder / "notes.json").write_text('{"about": "dürfen beside the videos"}')
    assistant = crosslmm.load(checkpoint, dtype="float32")
    list(crosslmm.caption(folder, assistant=assistant, out=out, **options))
    finished = subprocess.run(
        [sys.executable, "-c", AGAIN, str(folder), str(checkpoint), str(out)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    seconds, *imported = finished.stdout.split()
    assert imported == []
    assert float(seconds) < 1.5


def test_the_model_is_loaded_for_the_first_video_only(
    folder: Path, checkpoint: Path, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(name: str, **options: Any) -> Assistant:
        loads.append(name)
        return assistant

    monkeypatch.setattr("crosslmm.inference.assistant.load", load)

    def caption() -> int:
        out = folder.parent / "captions.jsonl"
        return len(list(crosslmm.caption(folder, assistant=checkpoint, out=out, readers=0)))

    counts = [caption(), caption()]
    write_clip(folder / "b.mp4", frames=4, first_number=9)
    assert [*counts, caption()] == [1, 0, 1]
    assert loads == [str(checkpoint)] * 2


def test_loading_is_no_part_of_the_time_of_a_run(
    folder: Path, checkpoint: Path, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def load(name: str, **options: Any) -> Assistant:
        now[0] += 1000.0
        return assistant

    monkeypatch.setattr("crosslmm.inference.assistant.load", load)
    monkeypatch.setattr("crosslmm.captioning.run.time.perf_counter", lambda: now[0])
    run = crosslmm.caption(folder, assistant=checkpoint, readers=0, frames=2, max_new_tokens=4)
    list(run)
    assert now == [1000.0]
    assert run.summary.seconds == 0.0


def test_a_model_that_does_not_load_leaves_earlier_captions_in_place(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "captions.jsonl"
    options: dict[str, Any] = {"assistant": checkpoint, "out": out, "readers": 0, "frames": 2}
    list(crosslmm.caption(folder, max_new_tokens=4, **options))
    before = out.read_bytes()

    def load(name: str, **options: Any) -> Assistant:
        raise CheckpointError("no memory for it")

    monkeypatch.setattr("crosslmm.inference.assistant.load", load)
    for change in ({"overwrite": True}, {"prompt": "What?"}):
        with pytest.raises(CheckpointError, match="no memory"):
            list(crosslmm.caption(folder, max_new_tokens=4, **options, **change))
        assert out.read_bytes() == before
