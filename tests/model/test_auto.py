"""`import crosslmm` is all that the Auto classes of transformers need, whichever comes first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor

from crosslmm import CrossLMMProcessor

LOADED = """
from transformers import (
    AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor,
)
folder = sys.argv[1]
print([
    type(AutoConfig.from_pretrained(folder)).__name__,
    type(AutoModel.from_pretrained(folder)).__name__,
    type(AutoModelForImageTextToText.from_pretrained(folder)).__name__,
    type(AutoModelForMultimodalLM.from_pretrained(folder)).__name__,
    type(AutoProcessor.from_pretrained(folder)).__name__,
])
"""
NAMES = [
    "CrossLMMConfig",
    "CrossLMMModel",
    "CrossLMMForConditionalGeneration",
    "CrossLMMForConditionalGeneration",
    "CrossLMMProcessor",
]


def python(code: str, *arguments: object) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_importing_the_package_stays_light() -> None:
    code = "import sys, crosslmm; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import crosslmm",
        "import transformers; transformers.AutoModel; transformers.AutoProcessor; import crosslmm",
        # What imports the Auto classes in the middle of its own import.
        "import crosslmm; import transformers.modeling_layers",
        "import crosslmm; from transformers import Trainer",
        "from crosslmm import CrossLMMProcessor, CrossLMMForConditionalGeneration",
    ],
)
def test_auto_classes_find_it(checkpoint: Path, imports: str) -> None:
    assert python(f"import sys; {imports}{LOADED}", checkpoint).strip() == str(NAMES)


def test_a_folder_that_does_not_name_its_processor_gives_no_tokenizer(
    checkpoint: Path, tmp_path: Path
) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = tmp_path / "processor_config.json"
    kept = json.loads(settings.read_text("utf-8"))
    del kept["processor_class"]
    settings.write_text(json.dumps(kept), "utf-8")
    tokenizer = tmp_path / "tokenizer_config.json"
    tokens = json.loads(tokenizer.read_text("utf-8"))
    tokens.pop("processor_class", None)
    tokenizer.write_text(json.dumps(tokens), "utf-8")
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), CrossLMMProcessor)


def test_there_is_no_video_processor_and_nothing_in_its_place(checkpoint: Path) -> None:
    images = AutoImageProcessor.from_pretrained(checkpoint)
    assert type(images).__name__.startswith("SiglipImageProcessor")
    with pytest.raises(
        (ImportError, OSError, ValueError),
        match=r"requires the Torchvision library|Can't load video processor",
    ):
        AutoVideoProcessor.from_pretrained(checkpoint)


# Each in a process that has imported the libraries and nothing of crosslmm.
FIRST = """
import os, sys
import torch, transformers.modeling_utils, transformers.trainer
for module in sys.argv[1:]:
    if not os.fork():
        __import__(module)
        os._exit(0)
    assert os.wait()[1] == 0, module
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process is forked")
def test_a_module_below_the_models_can_be_imported_first() -> None:
    python(FIRST, "crosslmm.cross_attention", "crosslmm.gated_attention", "crosslmm.demo.run")
