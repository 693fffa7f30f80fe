"""What tests of the command line share."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def endless(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never ends its answer."""
    folder = tmp_path_factory.mktemp("checkpoints") / "endless"
    shutil.copytree(checkpoint, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    del settings["eos_token_id"]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder
