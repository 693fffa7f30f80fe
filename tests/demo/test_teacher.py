"""A teacher made of the built-in model: what is tuned, and its two forms."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.utils import logging

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.headers import part_of
from crosslmm.checkpoints.llava_onevision import save_as_llava_onevision
from crosslmm.checkpoints.loading import load_model, load_processor
from crosslmm.demo.run import teacher_stage
from crosslmm.demo.teacher import LLAVA_ONEVISION, train_teacher
from crosslmm.errors import CheckpointError
from tests.support.tiny import tiny_model, tiny_processor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    said, lines = io.StringIO(), list[str]()
    logging.enable_progress_bar()
    with redirect_stderr(said):
        run = tmp_path_factory.mktemp("teacher") / "run"
        folder = train_teacher(run, short=True, report=lines.append)
    torch.set_num_threads(threads)
    assert folder is not None
    assert said.getvalue() == "", "bars of transformers"
    assert [line.split(", ")[0] for line in lines] == [
        f"1-teacher: step {step} of 4" for step in (1, 2, 3, 4)
    ]
    assert logging.is_progress_bar_enabled()
    return folder


def test_all_that_it_knows_goes_through_its_tokens(trained: Path) -> None:
    model = load_model(trained, device=CPU, dtype=torch.float32)
    assert model.config.tokens_per_frame == load_processor(trained).tokens_per_frame == 36
    with torch.no_grad():
        assert not model.model.reads_features
    built_in = load_model(catalog.resolve("demo"), device=CPU, dtype=torch.float32)
    before, changed = built_in.state_dict(), set()
    for name, tensor in model.state_dict().items():
        if name in before and not name.endswith(".gate") and not torch.equal(before[name], tensor):
            changed.add(part_of(name))
    assert changed == {"projector", "language model"}


def test_transformers_loads_it_as_llava_onevision(trained: Path) -> None:
    folder = trained.parent / LLAVA_ONEVISION
    peer: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model = load_model(trained, device=CPU, dtype=torch.float32)
    again = load_model(folder, device=CPU, dtype=torch.float32)
    ids = torch.tensor([[5, *[4] * (2 * 36 + 1), 300, 301]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(1, 2, 3, 96, 96),
    }
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(peer.eval()(**inputs).logits, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(again(**inputs).logits, expected, atol=1e-4, rtol=0)
    prompts = [load_processor(each).prompt("What?") for each in (folder, trained)]
    assert prompts[0] == prompts[1]


def test_a_model_of_another_form_is_not_written_as_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a LLaVA-OneVision"):
        save_as_llava_onevision(tmp_path / "out", tiny_model(), tiny_processor())
    assert not (tmp_path / "out").exists()


def test_the_full_recipe_is_the_one_that_was_measured() -> None:
    stage = teacher_stage()
    assert (stage.options.steps, stage.clips.clips, stage.auxiliary_weight) == (1200, 6, 0.05)


def test_the_command_resumes(run: Callable[..., Any], tmp_path: Path, trained: Path) -> None:
    again = run("train", "demo-teacher", "--out", trained.parent, "--set", "short=true")
    assert (again.code, again.out) == (0, f"{trained}\n")
    wrong = run("train", "demo-teacher", "--out", tmp_path / "x", "--model", "demo")
    assert wrong.code == 2
    assert "takes only --set" in wrong.err
