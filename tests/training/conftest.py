"""Training of tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints.test_llava_onevision import write_checkpoint
from tests.support.lessons import COLOURS, write_lessons, write_plain_clip
from tests.support.tiny import tiny_checkpoint


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Matrices this small only lose by being shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint: its gates are closed."""
    return tiny_checkpoint(tmp_path_factory.mktemp("start") / "tiny", gates=False)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-OneVision checkpoint of random weights, of 16 tokens per frame."""
    folder = tmp_path_factory.mktemp("start") / "llava"
    write_checkpoint(folder, image_size=49, layers=8)  # two dual layers; V2V learns in one
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index, (colour, value) in enumerate(COLOURS.items()):
        write_plain_clip(folder / f"{colour}.mp4", value, frames=3 + index)
    (folder / "notes.txt").write_text("no video")
    return folder
