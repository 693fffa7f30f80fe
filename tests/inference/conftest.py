"""An assistant on the tiny checkpoint."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import crosslmm
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.feature_cache import FeatureCache
from tests.support.feature_cache import Home


@pytest.fixture(scope="package")
def assistant(checkpoint: Path) -> Assistant:
    return crosslmm.load(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    cache = FeatureCache(tmp_path_factory.mktemp("unused"))
    return crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=cache)


@pytest.fixture
def home(loaded: Assistant, tmp_path: Path) -> Iterator[Home]:
    home = Home(loaded, tmp_path / "cache")
    with home.locks:
        yield home
    loaded.runtime.cache = loaded.on_notice = None


@pytest.fixture
def video(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(clip, tmp_path / "clip.mp4"))
