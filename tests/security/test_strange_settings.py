"""Files of a checkpoint whose values no model has: an error in words before anything is computed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.checkpoints import loading
from crosslmm.checkpoints.value_screening import check_generation_values
from crosslmm.cost.shape import ModelShape
from crosslmm.errors import CheckpointError
from crosslmm.fingerprint import content_identity
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm_cli.output import CONTROL_CODES


@pytest.fixture
def given(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "given"))


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


INFINITY = float("inf")


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("text_config", {"rms_norm_eps": INFINITY}, "rms_norm_eps is inf, which is no number"),
        ("text_config", {"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta is nan"),
        ("text_config", {"sliding_window": 0}, "sliding_window is 0; give at least 1"),
        ("text_config", {"hidden_act": "none such"}, "describes no model (KeyError"),
        ("text_config", {"num_key_value_heads": 0}, "describes no model (ZeroDivisionError"),
        (None, {"video_token_id": 10**9}, "token for videos is 1000000000 in config.json"),
    ],
)
def test_a_configuration_of_no_model(
    given: Path, part: str | None, changes: dict[str, Any], words: str
) -> None:
    change(given, "config.json", lambda config: (config[part] if part else config).update(changes))
    with pytest.raises(CheckpointError) as caught:
        crosslmm.load(given, device="cpu")
    assert words in str(caught.value)
    assert str(given) in str(caught.value)


def test_settings_of_generation_bring_nothing_in(given: Path, clip: Path) -> None:
    expected = crosslmm.load(given, device="cpu").ask(clip, "what?", frames=2, max_new_tokens=3)
    strange = {
        "cache_implementation": "offloaded",
        "custom_generate": "someone/code",
        "num_beams": 1000,
        "num_return_sequences": 1000,
        "prompt_lookup_num_tokens": 10**9,
        "stop_strings": ["a"],
        "guidance_scale": 9.0,
    }
    path = given / "generation_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | strange))
    answer = crosslmm.load(given, device="cpu").ask(clip, "what?", frames=2, max_new_tokens=3)
    assert answer.text == expected.text


def test_letters_are_shown_in_the_order_that_they_have() -> None:
    assert "clip\u202egpj\u2066.mp4\u2069\u202c".translate(CONTROL_CODES) == "clipgpj.mp4"
    assert "שלום\u200f".translate(CONTROL_CODES) == "שלום\u200f"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_that_takes_a_file_s_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was looked at, before it is opened."""
    (tmp_path / "file").write_bytes(b"a")
    status = os.stat(tmp_path / "file")
    os.mkfifo(tmp_path / "a.mp4")
    monkeypatch.setattr("crosslmm.fingerprint.os.stat", lambda path: status)
    assert content_identity(tmp_path / "a.mp4") is None


def test_a_cached_video_that_became_endless_changes_no_answer(
    checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    """Taken for an entry of that size, it needed more memory than there is: for fewer frames."""
    notices: list[str] = []
    cache = FeatureCache(tmp_path / "cache", least_seconds=0)
    assistant = crosslmm.load(checkpoint, device="cpu", cache=cache, on_notice=notices.append)
    options: dict[str, Any] = {"frames": 4, "max_new_tokens": 3}
    expected = assistant.ask(clip, "what?", **options)
    (entry,) = cache.folder.glob("*.safetensors")
    os.truncate(entry, 1 << 42)
    answer = assistant.ask(clip, "what?", **options)
    assert (answer.text, len(answer.frames)) == (expected.text, 4)
    assert not notices
    assert entry.stat().st_size < 1 << 30  # it was replaced


WRONG_GENERATION: dict[str, tuple[Any, ...]] = {
    "temperature": (-1, "x", 1e999),
    "top_k": (-1, 1.5, "x"),
    "top_p": (1.5, [1]),
    "top_h": (0, {}),
    "min_p": (2, "x"),
    "typical_p": (-1, [0.5]),
    "epsilon_cutoff": (1.5, "x"),
    "eta_cutoff": (1.5, []),
    "repetition_penalty": (0, "x", {}),
    "no_repeat_ngram_size": (1.5, "x"),
    "eos_token_id": ("x", [], ["x"], 10**30, {}),
    "bos_token_id": ("x", 1.5),
    "pad_token_id": ("x", [1]),
    "suppress_tokens": (5, ["x"], [[1]]),
    "begin_suppress_tokens": (True, [1.5]),
    "do_sample": ("x", []),
}
WRONG = {
    "processor_config.json": {
        "tokens_per_frame": ("x", None, 1.5, 0, -1, 8, 10**30),
        "video_newline": ("x", None, -1, 10**9),
        "time_line": ("x", [], 3),
        "chat_template": (7, {}, {"a": "b"}, "\ud800"),
        "image_mean": ("x", [], [1, 2], [[1]], 1e999),
        "image_std": (0, [1, 1, 0], ["x"]),
        "rescale_factor": ("x", [], 10**30),
        "height": (True, 1.5, "x"),
    },
    "tokenizer_config.json": {"model_max_length": ("x", [], {})},
}


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        pytest.param(file, name, value, id=f"{name}-{number}")
        for file, names in WRONG.items()
        for name, values in names.items()
        for number, value in enumerate(values)
    ],
)
def test_values_of_wrong_kinds_and_sizes_are_refused_when_a_checkpoint_is_loaded(
    given: Path, file: str, name: str, value: Any
) -> None:
    if not (given / file).exists():
        (given / file).write_text("{}")

    def edit(content: dict[str, Any]) -> None:
        frames = content.get("image_processor", {})
        place = frames if name in frames else frames.get("size", {})
        (place if name in place else content)[name] = value

    change(given, file, edit)
    wanted = r"(its|the) .*(is|size of its frames|cannot be read)"
    with pytest.raises(CheckpointError, match=wanted):
        loading.load_processor(given)


@pytest.mark.parametrize("name", WRONG_GENERATION)
def test_values_that_no_token_can_be_drawn_by(tmp_path: Path, name: str) -> None:
    for value in WRONG_GENERATION[name]:
        with pytest.raises(CheckpointError, match=f"its {name} is .*, not "):
            check_generation_values(tmp_path, {name: value})


@pytest.mark.parametrize("value", [{"suppress_tokens": 5}, {"eta_cutoff": 1.5}])
def test_a_model_is_not_loaded_with_them(given: Path, value: dict[str, Any]) -> None:
    (given / "generation_config.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="given: its "):
        crosslmm.load(given, device="cpu", dtype="float32")


def test_a_newline_after_the_video_in_one_file_alone_is_refused(given: Path) -> None:
    change(given, "processor_config.json", lambda content: content.update(video_newline=True))
    with pytest.raises(
        CheckpointError, match=r"video_newline is False in config\.json, and True in"
    ):
        crosslmm.load(given, device="cpu")


@pytest.mark.parametrize(("template", "places"), [("hello", 0), ("<video> <video>", 2)])
def test_a_template_that_leaves_out_the_video_or_repeats_it(
    given: Path, clip: Path, template: str, places: int
) -> None:
    (given / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=f"chat template has {places} places for 1 video"):
        crosslmm.load(given, device="cpu").ask(clip, "what?", frames=1)


def test_usual_values_of_generation_pass(given: Path, clip: Path) -> None:
    """Of published checkpoints, with whole numbers where there may be fractions."""
    usual = {
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1, "do_sample": True,
        "temperature": 1, "top_k": 20, "top_p": 0.8, "repetition_penalty": 2, "typical_p": 1.0,
        "epsilon_cutoff": 0.0, "suppress_tokens": None, "no_repeat_ngram_size": 0,
    }  # fmt: skip
    (given / "generation_config.json").write_text(json.dumps(usual))
    assistant = crosslmm.load(given, device="cpu", dtype="float32")
    assistant.ask(clip, "what?", frames=1, max_new_tokens=2, temperature=1.0, seed=1)
    assert assistant.model.generation_config.repetition_penalty == 2.0


PART = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4}
TEXT = {**PART, "num_attention_heads": 2, "vocab_size": 9, "max_position_embeddings": 99}
VISION = {**PART, "image_size": 28, "patch_size": 14, "num_channels": 3}
OWN = {"tokens_per_frame": 4, "cross_attention_interval": 2, "t2v_frames": 2, "v2v_scope": "video"}


@pytest.mark.parametrize("kind", ["crosslmm", "llava_onevision"])
@pytest.mark.parametrize("value", ["x", "\ud800", -1, 0, 1.5, 10**30, INFINITY, [], [[1]]])
def test_no_cost_is_counted_of_a_configuration_of_no_model(kind: str, value: Any) -> None:
    """`profile` reads config.json alone, and a model need not be there."""
    good = {"model_type": kind, "text_config": TEXT, "vision_config": VISION}
    good |= OWN if kind == "crosslmm" else {}
    assert ModelShape.from_config(good).language.width == 8
    wrong = [good | {"text_config": TEXT | {name: value}} for name in TEXT]
    wrong += [good | {"vision_config": VISION | {name: value}} for name in VISION]
    wrong += [good | {name: value} for name in OWN if name in good]
    wrong += [good | {name: value or "y"} for name in ("text_config", "vision_config")]
    for config in wrong:
        with pytest.raises(CheckpointError, match="a configuration w"):
            ModelShape.from_config(config)
