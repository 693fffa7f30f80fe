"""Weights and logits that are not numbers: an error, never an answer."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import crosslmm
from crosslmm.errors import ModelError
from crosslmm.evaluation.runner import evaluate
from crosslmm.evaluation.tasks.questions import Questions
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.batch import answer_batch
from crosslmm.inference.finite import not_finite
from tests.conftest import Finished
from tests.support.tiny import text_config, tiny_model, tiny_processor

Run = Callable[..., Finished]  # the fixture `run`
NO_NUMBER = r"NaN or infinity \(in (float32|bfloat16)\)"  # by the CPU


def save(folder: Path, weight: str, value: float) -> Path:
    """A checkpoint of which one number of one weight is `value`."""
    model = tiny_model()
    model.get_parameter(weight).data.flatten()[0] = value
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def partial() -> Assistant:
    """A model that fails at questions with a Z alone: the embedding of that letter is NaN."""
    model = tiny_model(text=text_config(tie_word_embeddings=False))
    processor = tiny_processor()
    (letter,) = processor.tokenizer("Z")["input_ids"]
    model.get_input_embeddings().weight.data[letter] = math.nan
    return Assistant(model, processor)


@pytest.mark.parametrize("temperature", ["0", "1"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "weight",
    [
        "model.language_model.layers.2.mlp.up_proj.weight",
        "model.multi_modal_projector.linear_1.bias",
    ],
)
def test_asking_says_that_the_model_is_broken(
    tmp_path: Path, clip: Path, run: Run, weight: str, value: float, temperature: str
) -> None:
    folder = save(tmp_path / "broken", weight, value)
    done = run("ask", clip, "what?", "-m", folder, "--frames", 2, "--temperature", temperature)
    assert done.code == 1
    assert done.out == ""
    assert re.search(f"{NO_NUMBER}: its weights may be damaged", done.err)


def test_captions_of_a_broken_model_are_failed_rows(tmp_path: Path, clip: Path, run: Run) -> None:
    folder = save(tmp_path / "broken", "model.language_model.norm.weight", math.nan)
    out = tmp_path / "captions.jsonl"
    done = run("caption", clip, "-m", folder, "--frames", 2, "-o", out, "--readers", 0)
    assert done.code == 3
    (row,) = map(json.loads, out.read_text("utf-8").splitlines())
    assert row["caption"] is None
    assert "NaN or infinity" in row["error"]


def test_only_the_broken_row_of_a_batch_fails(partial: Assistant, clip: Path) -> None:
    frames = crosslmm.sample(clip, frames=2)
    questions = ["what?", "a Z?", "and then?"]
    batch = answer_batch(partial.runtime, [frames] * 3, questions, max_new_tokens=6)
    assert [answer.problem is not None for answer in batch.answers] == [False, True, False]
    alone = partial.answer_batch([frames], questions[:1], max_new_tokens=6)
    assert [batch.answers[0].text] == alone
    with pytest.raises(ModelError, match=NO_NUMBER):
        partial.answer_batch([frames] * 3, questions, max_new_tokens=6)


class Brief(Questions):
    max_new_tokens = 6  # more, and a random model says Z itself


def test_an_evaluation_loses_the_broken_question_alone(partial: Assistant, clip: Path) -> None:
    rows = [
        {"video": clip.name, "type": "size", "question": question, "answer": "small"}
        for question in ("what?", "a Z?", "and then?")
    ]
    report = evaluate(rows, partial, clip.parent, task=Brief(), frames=2)  # type: ignore[arg-type]
    failed = [answer.error is not None for answer in report.answers]
    assert failed == [False, True, False]
    answer = partial.ask(clip, "what?", frames=2, max_new_tokens=Brief.max_new_tokens)
    assert report.answers[0].said == answer.text


def test_a_failed_answer_leaves_the_video_ready(partial: Assistant, clip: Path) -> None:
    video = partial.open_video(clip, frames=2)
    before = video.ask("what?", max_new_tokens=6).text
    with pytest.raises(ModelError, match=NO_NUMBER):
        video.ask("a Z?")
    assert video.ask("what?", max_new_tokens=6).text == before


def test_float16_may_be_too_narrow() -> None:
    assert "use another `dtype`" in str(not_finite(torch.float16))
