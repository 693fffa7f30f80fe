"""How frames are prepared, known from files alone: the same as the loaded model and processor say."""

import json
import shutil
from pathlib import Path

import pytest

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.frame_settings import read_frame_settings
from crosslmm.checkpoints.loading import load_config, load_processor
from crosslmm.errors import CheckpointError
from tests.checkpoints.test_llava_onevision import write_checkpoint


@pytest.mark.parametrize("which", ["demo", "tiny", "llava"])
def test_as_the_processor_has_them(which: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = catalog.demo_folder() if which == "demo" else checkpoint
    if which == "llava":
        write_checkpoint(folder := tmp_path / "llava")
    settings, processor = read_frame_settings(folder), load_processor(folder)
    assert settings.size == processor.frame_size
    assert settings.resample == int(processor.image_processor.resample)
    assert settings.default_frames == load_config(folder).default_frames


@pytest.mark.parametrize("size", [384, {}, {"height": 3}, {"shortest_edge": None}])
def test_a_size_that_says_nothing(size: object, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    values = {"image_processor": {"size": size, "image_mean": [0.5], "image_std": [0.5]}}
    (folder / "processor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="not given as height and width"):
        read_frame_settings(folder)
