"""An assistant on the tiny checkpoint."""

from pathlib import Path

import pytest

import crosslmm
from crosslmm.inference.assistant import Assistant


@pytest.fixture(scope="package")
def assistant(checkpoint: Path) -> Assistant:
    return crosslmm.load(checkpoint, device="cpu", dtype="float32")
