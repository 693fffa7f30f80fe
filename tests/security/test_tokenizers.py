"""Tokenizers that take all memory, all time or the process itself: an error in words instead."""

import base64
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import crosslmm
from crosslmm.checkpoints.tokenizer_screening import check_tokenizer
from crosslmm.errors import CheckpointError
from crosslmm.inference.generation import decode_answer
from crosslmm.prompts import tokenization
from crosslmm.prompts.inert_text import tokenize
from crosslmm.prompts.tokenization import AnswerText


@pytest.fixture
def given(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "given"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    edit(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))


def split_by(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def tokenizer_of(pattern: str, *, strip: int = 0) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Strip("a", strip, strip)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_pattern_that_makes_the_library_panic(given: Path, clip: Path) -> None:
    """Its error is no `Exception`, and would end a caller who expects one."""
    change(given, lambda tokenizer: tokenizer.update(pre_tokenizer=split_by("(a+)+$")))
    with pytest.raises(CheckpointError, match="the checkpoint's tokenizer failed: Onig: Regex"):
        crosslmm.load(given, device="cpu", questions=["a" * 40 + "!"])
    with pytest.raises(CheckpointError, match="the checkpoint's tokenizer failed: Onig: Regex"):
        crosslmm.load(given, device="cpu").ask(clip, "a" * 40 + "!", frames=1)


def test_a_pattern_that_takes_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "TOKENIZER_SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="tokenizer ran for over 0"):
        tokenize(tokenizer_of("(?:a*a*b|x)"), ["a" * 800 + "cb"])
    assert time.monotonic() - started < 1


def test_a_decoder_that_makes_the_library_panic() -> None:
    tokenizer = tokenizer_of("a", strip=1)
    with pytest.raises(CheckpointError, match="the checkpoint's tokenizer failed"):
        decode_answer(tokenizer, [0, 0])
    with pytest.raises(CheckpointError, match="the checkpoint's tokenizer failed"):
        AnswerText(tokenizer).step(0)


def test_errors_of_other_kinds_stay_what_they_are() -> None:
    with pytest.raises(TypeError):
        tokenize(tokenizer_of("a"), [3])  # type: ignore[list-item]


def test_patterns_of_a_book(given: Path) -> None:
    change(given, lambda tokenizer: tokenizer.update(pre_tokenizer=split_by("a|" * 40_000)))
    with pytest.raises(CheckpointError, match="its patterns have 80,000 characters"):
        crosslmm.load(given, device="cpu")


def test_a_decoder_with_a_pattern(given: Path) -> None:
    step = {"type": "Replace", "pattern": {"Regex": "a*a*b"}, "content": ""}
    change(given, lambda tokenizer: tokenizer.update(decoder=step))
    with pytest.raises(CheckpointError, match="its decoder has a regular expression"):
        crosslmm.load(given, device="cpu")


def test_a_tokenizer_in_python(given: Path) -> None:
    """Of whose settings nothing was looked at."""
    path = given / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "ByT5Tokenizer"}
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="its tokenizer is a ByT5Tokenizer, not one of the"):
        crosslmm.load(given, device="cpu")


CHARACTERS = base64.b64encode(
    bytes([4, 0, 0, 0]) + b"trie" + b"ab\0" + b"c" * 1001 + b"\0"
).decode()
LONG = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 40}
AROUND = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "b", "type_id": 0}}] * 100,
    "pair": [],
    "special_tokens": {"b": {"id": "b", "ids": [1] * 100, "tokens": ["b"] * 100}},
}


@pytest.mark.parametrize(
    ("step", "content"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": [LONG, LONG]}),
        ("decoder", {"type": "Sequence", "decoders": [LONG, LONG]}),
        ("post_processor", AROUND),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 1001}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": CHARACTERS}),
    ],
)
def test_a_tokenizer_that_makes_a_book_of_a_letter(given: Path, step: str, content: Any) -> None:
    change(given, lambda tokenizer: tokenizer.update({step: content}))
    with pytest.raises(CheckpointError, match=f"tokenizer.json: its {step} makes a text over 1000"):
        crosslmm.load(given, device="cpu")


BEGIN = {"SpecialToken": {"id": "<s>", "type_id": 0}}


@pytest.mark.parametrize("added", [False, True])
def test_a_token_that_is_a_book(given: Path, added: bool) -> None:
    def add(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        if added:
            tokenizer["added_tokens"][-1]["content"] = "a" * 1001
        else:
            vocabulary["a" * 1001] = len(vocabulary)

    change(given, add)
    with pytest.raises(CheckpointError, match="one of its tokens has 1,001 characters"):
        crosslmm.load(given, device="cpu")


@pytest.mark.parametrize(
    "steps",
    [
        {"normalizer": {"type": "NFC"}, "decoder": {"type": "ByteLevel", "add_prefix_space": False}},
        {  # of Llama 2
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "post_processor": {"type": "TemplateProcessing",
                "single": [BEGIN, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [BEGIN, {"Sequence": {"id": "A", "type_id": 0}},
                    BEGIN, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "model": {"vocab": [["<unk>", 0.0], ["▁" * 16, -1.0]]},
        },
    ],
)  # fmt: skip
def test_tokenizers_in_use_pass(tmp_path: Path, steps: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(steps))
    check_tokenizer(tmp_path)
