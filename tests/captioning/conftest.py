"""A tiny model, and clips of several lengths and containers."""

from pathlib import Path

import pytest

from crosslmm.inference.assistant import Assistant, load
from tests.support.captioning import LENGTHS
from tests.support.clips import write_clip


@pytest.fixture(scope="module")
def assistant(checkpoint: Path) -> Assistant:
    return load(checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    for index, (name, frames) in enumerate(LENGTHS.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        write_clip(folder / name, frames=frames, first_number=100 * index)
    return folder
