"""Training of tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.lessons import write_lessons
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
