"""Videos that were encoded earlier: used where they are what would be encoded again, and only there."""

import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import crosslmm
from crosslmm.inference import (
    cached_video,
    feature_cache,
    opening,
    session,
)
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.feature_cache import FeatureCache, sampling_key
from crosslmm.options import Sampling
from tests.support.feature_cache import MERGED, Home
from tests.support.tiny import tiny_model, tiny_processor


@pytest.mark.parametrize("options", [{}, MERGED], ids=["pooled", "merged"])
def test_another_process_neither_decodes_nor_encodes(
    home: Home, video: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = home.ask(video, **options)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded or encoded again")

    monkeypatch.setattr(opening, "encode_video", never)
    monkeypatch.setattr(session, "prefill_video", never)
    second = home.ask(video, **options)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.text == first.text
    assert (second.frames, second.prompt, second.tokens) == (
        first.frames,
        first.prompt,
        first.tokens,
    )
    assert second.settings == first.settings
    assert second.timing.decode == 0
    assert second.as_dict()["from_cache"] is True


def test_a_session_says_what_it_says_without_the_cache(home: Home, video: Path) -> None:
    home.ask(video)
    home.assistant.runtime.cache = home.cache()
    kept = home.assistant.open_video(video, frames=3)
    home.assistant.runtime.cache = None
    made = home.assistant.open_video(video, frames=3)
    assert (kept.from_cache, made.from_cache) == (True, False)
    assert (kept.source, kept.summary, kept.video) == (made.source, made.summary, made.video)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"gates": False}, {"embeds", "prefix"}),
        ({"t2v_cache": "projected"}, {"embeds", "features"}),
        ({"v2v_scope": "frame"}, {"embeds", "features", "prefix"}),
        ({"cross_kv": "shared"}, {"embeds", "features", "prefix"}),
        ({"cross_kv": "shared", "feature_bits": 8}, {"embeds", "features", "prefix"}),
        ({"feature_bits": 8}, {"embeds", "features", "prefix"}),
    ],
    ids=["closed", "projected", "frame", "shared", "shared-8", "8"],
)
def test_a_kept_video_is_asked_as_any_other(
    tmp_path: Path, video: Path, changes: dict, kept: set[str]
) -> None:
    cache = FeatureCache(tmp_path / "cache", least_seconds=0)
    bits = changes.get("feature_bits")
    changes = {name: value for name, value in changes.items() if name != "feature_bits"}
    assistant = Assistant(tiny_model(**changes), tiny_processor())
    assistant.model.model.feature_bits = bits
    assistant.runtime.cache, assistant.runtime.checkpoint_state = cache, "made here"
    said = []
    for expected in (False, True):
        opened = assistant.open_video(video, frames=3)
        assert opened.from_cache is expected
        chat = opened.chat()
        turns = [chat.ask(question, max_new_tokens=3).text for question in ("what?", "and?")]
        together = opened.ask_all(["what?", "who is it?"], max_new_tokens=3)
        said.append((opened.ask("what?", max_new_tokens=3).text, turns, together))
    assert said[0] == said[1]
    [entry] = cache.folder.glob("*.safetensors")
    assert {name.partition(".")[0] for name in load_file(entry)} == kept


def test_weights_behind_closed_gates_are_of_no_account(tmp_path: Path, video: Path) -> None:
    """A checkpoint of LLaVA-OneVision has none: they are made, at random, when it is loaded."""
    kept = []
    for seed in range(2):
        model = tiny_model(gates=False)
        torch.manual_seed(seed)
        for layer in model.model.dual_layers:
            torch.nn.init.normal_(layer.t2v.o_proj.weight)
        assistant = Assistant(model, tiny_processor())
        runtime = assistant.runtime
        runtime.cache = FeatureCache(tmp_path / "cache", least_seconds=0)
        runtime.checkpoint_state = "made here"
        kept.append(assistant.open_video(video, frames=3).from_cache)
    assert kept == [False, True]


def test_a_quantized_model_finds_what_it_kept_in_its_next_process(
    checkpoint: Path, tmp_path: Path, video: Path
) -> None:
    """A forward pass may change how bitsandbytes lays the weights out."""
    cache = FeatureCache(tmp_path / "cache", least_seconds=0)
    from_cache = []
    for _ in range(2):
        assistant = crosslmm.load(
            checkpoint, device="cpu", dtype="bfloat16", quantization="4bit", cache=cache
        )
        answer = assistant.ask(video, "what?", frames=3, max_new_tokens=2)
        from_cache.append(answer.from_cache)
    assert from_cache == [False, True]


def test_another_chat_template_is_prefilled(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ask(video)
    processor = home.assistant.processor
    template = processor.chat_template.replace("<|im_start|>", "<|im_start|>!")
    monkeypatch.setattr(processor, "chat_template", template)
    answer = home.ask(video)
    assert (answer.from_cache, answer.text) == (True, home.ask(video, cached=False).text)
    assert "!" in answer.prompt


def test_nothing_is_kept_unasked(
    checkpoint: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSLMM_CACHE", str(tmp_path / "cache"))
    assistant = crosslmm.load(checkpoint, device="cpu", dtype="float32")
    assistant.ask(video, "what?", frames=2, max_new_tokens=2)
    assert assistant.runtime.cache is None
    assert not feature_cache.default_folder().exists()


def test_entries_are_private_and_of_the_ordinary_format(home: Home, video: Path) -> None:
    old = os.umask(0)
    try:
        home.ask(video)
    finally:
        os.umask(old)
    [entry] = home.entries()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert home.features.stat().st_mode & 0o777 == 0o700
    tensors = load_file(entry)
    assert tensors["embeds"].shape == (1, 3, 4, 64)
    assert tensors["features"].shape == (1, 3, 25, 32)
    assert tensors["prefix.keys.3"].shape == (1, 2, tensors["prefix.ids"].shape[1], 16)
    [listed] = home.cache().entries()
    assert (listed.video, listed.frames) == ("clip.mp4", 3)
    assert listed.size == entry.stat().st_size


@pytest.mark.parametrize(
    "options",
    [{"frames": 4}, {"tokens_per_frame": 1}, MERGED],
    ids=lambda options: next(iter(options)),
)
def test_another_sampling_or_merging_is_encoded(home: Home, video: Path, options: dict) -> None:
    home.ask(video)
    home.check(video, from_cache=False, **options)
    home.check(video, from_cache=True, **options)


def test_a_sampling_is_another_one_by_every_field_but_how_long_it_may_take() -> None:
    changes = {
        "frames": 4,
        "fps": 2.0,
        "max_frames": 4,
        "start": 1.0,
        "end": 2.0,
        "at": [1.0],
        "sampler": "scene",
        "static_threshold": 2.0,
        "seek": "exact",
        "reader": "decord",
        "max_pixels": 10_000,
        "deadline": 1.0,
        "file_timeout": 1.0,
    }
    assert set(changes) == {field.name for field in fields(Sampling)}
    keys = {name: sampling_key(Sampling(**{name: value})) for name, value in changes.items()}
    assert keys["deadline"] == keys["file_timeout"] == sampling_key(Sampling())
    assert len(set(keys.values())) == len(keys) - 1


def test_another_precision_or_model_is_encoded(
    home: Home, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    home.ask(video)
    changed = tmp_path / "model"
    shutil.copytree(checkpoint, changed)
    weights = changed / "model.safetensors"
    homes = []
    for folder, dtype in ((checkpoint, "bfloat16"), (changed, "float32")):
        other = crosslmm.load(folder, device="cpu", dtype=dtype, cache=home.cache())
        homes.append(Home(other, home.folder))
        homes[-1].check(video, from_cache=False)
        homes[-1].check(video, from_cache=True)
    before = weights.stat()
    with weights.open("r+b") as file:  # a bit of a weight, the date kept
        file.seek(before.st_size - 5)
        byte = file.read(1)[0]
        file.seek(before.st_size - 5)
        file.write(bytes([byte ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = Home(
        crosslmm.load(changed, device="cpu", dtype="float32", cache=home.cache()), home.folder
    )
    again.check(video, from_cache=False)


def test_weights_that_were_changed_in_memory_are_another_model(
    checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    assistant = crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=FeatureCache())
    home = Home(assistant, tmp_path / "cache")
    home.ask(video)
    with torch.no_grad():
        assistant.model.model.multi_modal_projector.linear_1.weight.mul_(1.5)
    changed = home.ask(video)
    assert (changed.from_cache, changed.text) == (False, home.ask(video, cached=False).text)


def test_what_took_no_time_or_had_a_warning_is_not_kept(home: Home, video: Path) -> None:
    home.assistant.runtime.cache = FeatureCache(home.folder)
    home.assistant.ask(video, "what?", frames=2, max_new_tokens=2)
    assert home.entries() == []
    answer = home.ask(video, frames=None, at=["#2", "#2"])
    assert len(answer.warnings) == 1
    assert home.entries() == []


def test_a_file_object_and_frames_in_memory(home: Home, video: Path) -> None:
    with video.open("rb") as file:
        assert home.ask(file).from_cache is False  # type: ignore[arg-type]
    assert home.ask(video).from_cache is True
    home.ask(crosslmm.sample(video, frames=3), frames=None)  # type: ignore[arg-type]
    assert len(home.entries()) == 1


def test_out_of_memory_leads_to_fewer_frames(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ask(video)
    original = cached_video._read

    def read(*arguments: Any) -> Any:
        tensors = original(*arguments)
        if tensors["embeds"].shape[1] > 1:
            raise torch.OutOfMemoryError("no")
        return tensors

    monkeypatch.setattr(cached_video, "_read", read)
    answer = home.ask(video)
    assert len(answer.frames) == 1
    assert home.notices == ["out of memory with 3 frames; trying with 1"]
