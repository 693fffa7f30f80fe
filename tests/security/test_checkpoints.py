"""Checkpoints that somebody gave you: what they say is checked before it is believed."""

import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import crosslmm
from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.headers import IncompleteCheckpoint, read_header, weight_files
from crosslmm.checkpoints.loading import load_config
from crosslmm.checkpoints.screening import offline
from crosslmm.errors import CheckpointError
from crosslmm.files import parse_json, read_json
from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`


@pytest.fixture
def given(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "given"))


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight is read or allocated, and no memory estimated."""
    from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration

    def allocate(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("was loaded")

    monkeypatch.setattr(CrossLMMForConditionalGeneration, "from_pretrained", allocate)
    monkeypatch.setattr("crosslmm.inference.assistant.estimate_memory", lambda *a, **k: None)


def change(folder: Path, **changes: Any) -> None:
    """Into config.json; `text__hidden_size` is that of `text_config`."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for key, value in changes.items():
        *parents, name = key.split("__")
        table = config
        for parent in parents:
            table = table[f"{parent}_config"]
        table[name] = value
    path.write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"text__attn_implementation": "someone/code@main:attention"},
        {"attn_implementation": {"text_config": "someone/code", "vision_config": "sdpa"}},
        {"_attn_implementation_internal": "paged|someone/code"},
    ],
)
def test_attention_from_the_hub_is_refused_unseen(
    given: Path, changes: dict[str, Any], run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(given, **changes)
    monkeypatch.setitem(sys.modules, "kernels", None)  # importing it is an error
    with pytest.raises(CheckpointError, match="may be code from elsewhere"):
        crosslmm.load(given)
    done = run("ask", clip, "what?", "-m", given)
    assert (done.code, done.out) == (1, "")
    assert "attn_implementation" in done.err


@pytest.mark.parametrize(
    ("changes", "package"),
    [
        ({"attn_implementation": "flash_attention_2"}, "flash-attn"),
        ({"attn_implementation": "flash_attention_3"}, "flash-attn-3"),
        ({"_attn_implementation": {"vision_config": "flash_attention_2"}}, "flash-attn"),
    ],
)
def test_no_kernel_of_the_hub_stands_in_for_a_missing_package(
    given: Path, changes: dict[str, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration

    loaded: list[Any] = []
    monkeypatch.setattr(
        CrossLMMForConditionalGeneration, "from_pretrained", lambda *a, **k: loaded.append(a)
    )
    change(given, **changes)
    with pytest.raises(
        CheckpointError, match=rf"the package {package} is not installed .* give sdpa"
    ):
        crosslmm.load(given, device="cpu")
    assert not loaded


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_attention_of_the_library_stays_a_choice(given: Path, name: str) -> None:
    change(given, attn_implementation=name)
    assert crosslmm.load(given, device="cpu").settings["attention"] in ("sdpa", "eager")


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text__num_hidden_layers": 10**6}, "num_hidden_layers is 1,000,000; no model"),
        ({"text__num_hidden_layers": 10**15}, "no model has that"),
        ({"vision__num_hidden_layers": -1}, "no model has that"),
        (
            {"text__num_hidden_layers": 900, "text__layer_types": ["full_attention"] * 900},
            "text_config.num_hidden_layers is 900",
        ),
        ({"text__hidden_size": 4_000_000, "text__head_dim": 16}, "text_config.hidden_size"),
        ({"text__intermediate_size": 10**9}, "text_config.intermediate_size"),
        ({"text__vocab_size": 10**10}, "text_config.vocab_size is 10,000,000,000"),
        ({"text__num_attention_heads": 10**9}, "num_attention_heads is 1,000,000,000"),
        ({"vision__image_size": 6 * 10**5}, "image_size"),
        ({"vision__intermediate_size": 10**9}, "vision_config.intermediate_size"),
        ({"transformers_weights": "other.safetensors"}, "names other weights"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights are stored quantized"),
    ],
)
def test_a_larger_model_than_the_weights_is_refused_before_it_is_made(
    given: Path, changes: dict[str, Any], words: str
) -> None:
    change(given, **changes)
    with pytest.raises(CheckpointError, match=words):
        crosslmm.load(given, device="cpu")


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text__vocab_size": 2 * 10**9}, "vocab_size is 2,000,000,000"),
        ({"vision__num_channels": 10**7}, "describes "),
        (
            {
                "text__num_attention_heads": 200,
                "text__num_key_value_heads": 200,
                "text__head_dim": 200,
            },
            "describes ",
        ),
    ],
)
def test_a_weight_without_numbers_vouches_for_no_size(
    given: Path, changes: dict[str, Any], words: str
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(given / "model.safetensors")
    weights["zz"] = torch.empty(2 * 10**9, 0)
    save_file(weights, given / "model.safetensors", metadata={"format": "pt"})
    change(given, **changes)
    with pytest.raises(CheckpointError, match=words):
        crosslmm.load(given, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("size", {"height": 14000, "width": 14000}, "14000x14000; the limit is 4096"),
        ("resample", None, "no whole number"),
    ],
)
def test_frame_settings_of_wrong_kinds_are_refused_in_words(
    given: Path, clip: Path, run: Run, name: str, value: Any, words: str
) -> None:
    for path in given.glob("*processor_config.json"):
        settings = json.loads(path.read_text("utf-8"))
        for table in (settings, *(part for part in settings.values() if isinstance(part, dict))):
            if name in table:
                table[name] = value
        path.write_text(json.dumps(settings), "utf-8")
    done = run("ask", clip, "what?", "-m", given)
    assert done.code == 1
    assert "internal error" not in done.err
    assert words in done.err


def test_an_adapter_does_not_draw_in_another_model(given: Path) -> None:
    (given / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(CheckpointError, match="holds an adapter of another model"):
        crosslmm.load(given)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
)
def test_a_pipe_is_not_waited_for(given: Path, name: str) -> None:
    (given / name).unlink()
    os.mkfifo(given / name)
    with pytest.raises(CheckpointError):
        crosslmm.load(given)


def test_links_as_in_the_hub_cache_are_followed(given: Path, tmp_path: Path) -> None:
    blob = (given / "model.safetensors").rename(tmp_path / "blob")
    (given / "model.safetensors").symlink_to(blob)
    assert catalog.validate(given).problem is None


def test_the_weights_that_are_examined_are_those_that_are_loaded(given: Path) -> None:
    """transformers prefers the single file; an index beside it is not looked at."""
    index = {"weight_map": {"anything": "harmless.safetensors"}}
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(given)] == ["model.safetensors"]


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer_config.json", "tokenizer.json", "processor_config.json"],
)
def test_json_that_is_nested_too_deeply_is_an_error_in_words(given: Path, name: str) -> None:
    (given / name).write_text(DEEP)
    with pytest.raises(CheckpointError, match=str(given)):
        crosslmm.load(given)


def test_an_index_that_is_nested_too_deeply(given: Path) -> None:
    (given / "model.safetensors").unlink()
    (given / "model.safetensors.index.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="not a readable index"):
        crosslmm.load(given)


def test_json_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text('"' + "x" * 100 + '"')
    with pytest.raises(ValueError, match="longer than 50 bytes"):
        read_json(path, longest=50)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)


def write_header(path: Path, header: Any, data: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


def tensor(first: int, last: int, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, "overlaps"),
        ({"a": tensor(0, 8), "b": tensor(12, 20)}, 20, "hole"),
        ({"a": tensor(8, 16)}, 16, "hole"),
        ({"a": tensor(-8, 0)}, 8, "hole"),
        ({"a": tensor(0, 8, (3,))}, 8, "more or less data"),
        ({"a": tensor(0, 8, (-1, -2))}, 8, "not made of sizes"),
        ({"a": tensor(0, 8, (True, 2))}, 8, "not made of sizes"),
        ({"a": tensor(0, 8, dtype="F33")}, 8, "not a readable"),
        ({"a": tensor(0, 8, dtype=["F32"])}, 8, "not a readable"),
        ({"a": tensor(0, 8)}, 9, "belong to no tensor"),
        ({"a": "x"}, 8, "not a readable"),
        ([1], 8, "not a readable"),
        (DEEP.encode(), 8, "nested too deeply"),
    ],
)
def test_a_header_is_checked_as_safetensors_does(
    tmp_path: Path, header: Any, data: int, words: str
) -> None:
    path = write_header(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_header(path)
    assert not isinstance(caught.value, IncompleteCheckpoint)


def test_good_headers_pass(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor(8, 16),
        "empty": tensor(8, 8, (0, 3)),
        "a": tensor(0, 8, (), "F64"),
        "f": tensor(16, 17, (2,), "F4"),
    }
    path = write_header(tmp_path / "model.safetensors", header, 17)
    assert list(read_header(path)) == ["b", "empty", "a", "f"]
    (tmp_path / "big").write_bytes(struct.pack("<Q", 1 << 62))
    with pytest.raises(CheckpointError, match="header longer than the file"):
        read_header(tmp_path / "big")


def test_loading_is_offline(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seen: list[bool] = []
    monkeypatch.setattr(
        "crosslmm.checkpoints.catalog.is_llava_onevision",
        lambda folder: seen.append(constants.is_offline_mode()),
    )
    load_config(checkpoint)
    assert seen == [True]
    assert not constants.HF_HUB_OFFLINE
    with pytest.raises(RuntimeError), offline():
        raise RuntimeError
    assert not constants.HF_HUB_OFFLINE


def test_a_deep_file_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 10_000_000)
    started = time.perf_counter()
    assert catalog.validate(tmp_path).problem is not None
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("name", [1, None, ["a"], "", ".", "..", "a\0b", "x" * 5000, "\ud800"])
def test_an_index_of_names_that_are_none(given: Path, name: Any) -> None:
    (given / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": name}}
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=str(given)):
        catalog.resolve(given)


def test_an_index_of_very_many_files(given: Path) -> None:
    (given / "model.safetensors").unlink()
    index = {"weight_map": {f"w{number}": f"{number}.safetensors" for number in range(20_000)}}
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names 20,000 files; no checkpoint has that many"):
        catalog.resolve(given)
