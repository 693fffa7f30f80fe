"""Files of a checkpoint whose values no model has: an error in words before anything is computed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosslmm
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
