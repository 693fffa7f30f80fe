"""How `ask` starts: what runs beside what, and what is never imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_python(code: str, *arguments: object) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "CROSSLMM_MODEL": "demo"},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


BEFORE_TORCH = """
import sys
from crosslmm.video.stream import FrameStream
from crosslmm_cli.main import execute
start, streams = FrameStream.start, []
def watched(stream):
    print("torch" in sys.modules)
    streams.append(stream)
    start(stream)
FrameStream.start = watched
assert execute(["ask", *sys.argv[1:], "--max-new-tokens", "2", "--model", "demo"]) == 0
assert len(streams) == 1, "the frames decoded ahead were not used"
"""


@pytest.mark.parametrize("options", [(), ("--frames", "5", "--start", "0.5"), ("--fps", "2")])
def test_decoding_begins_before_torch_is_imported(clip: Path, options: tuple[str, ...]) -> None:
    assert run_python(BEFORE_TORCH, clip, "q", *options).startswith("False\n")


def test_no_other_models_of_transformers_are_imported(clip: Path) -> None:
    code = """
import sys
from crosslmm_cli.main import execute
assert execute(["ask", sys.argv[1], "q", "--max-new-tokens", "2", "--model", "demo"]) == 0
parts = [name.split(".") for name in sys.modules if name.startswith("transformers.models.")]
print()
print(*sorted({part[2] for part in parts if len(part) > 3}))
"""
    # `encoder_decoder`: transformers' own generation imports its configuration.
    used = ["auto", "encoder_decoder", "qwen2", "siglip"]
    assert run_python(code, clip).splitlines()[-1].split() == used
