"""Wrong usage is found before torch is imported, so at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "huggingface_hub.hf_api")
CODE = f"""
import sys
from crosslmm_cli.main import execute
code = execute(sys.argv[1:])
loaded = [name for name in {HEAVY} if name in sys.modules]
print(code, *loaded)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    folder = tmp_path_factory.mktemp("early")
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    (folder / "text.mp4").write_text("no video at all\n" * 100)
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\0")
    (folder / "rows.jsonl").write_text(
        json.dumps({"video": "clip.mp4", "type": "yes_no", "question": "q?", "answer": "yes"})
    )
    return folder


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("ask clip.mp4 q --start 2 --end 1", 2, "--start (2 s) must be before --end (1 s)"),
        ("ask clip.mp4 q --frames 2 --fps 1", 2, "--frames and --fps exclude each other"),
        ("ask clip.mp4 q --fit 8GB --frames 2", 2, "--fit finds the number of frames"),
        ("ask clip.mp4 q --merge foldr --keep 10%", 2, "--merge must be one of area, weighted,"),
        ("ask clip.mp4 q --keep 10%", 2, "--keep needs --merge, one of area, weighted, folder"),
        ("ask clip.mp4 q --merge folder --keep 0%", 2, "--keep must be a share above 0"),
        ("ask clip.mp4 q --fit 8", 2, "--fit 8: needs a unit; did you mean 8GB?"),
        ("ask clip.mp4 q --evidence e.txt", 2, "a file ending in .html, .png or .json"),
        ("ask clip.mp4 q --evidence gone/e.png", 2, "gone/e.png: there is no folder"),
        ("ask clip.mp4 q r --evidence e.png", 2, "--evidence takes one question"),
        ("ask clip.mp4 q --tokens-per-frame 7", 2, "--tokens-per-frame 7 is not a perfect square"),
        (
            "ask clip.mp4 q --tokens-per-frame 196",
            2,
            "196 is too many: the model has 144 patches per frame and was trained with 9 tokens",
        ),
        ("ask q clip.mp4", 1, "q: no such file; the video comes before the questions"),
        ("ask clip.mp4 q --device gpu", 2, "gpu: not a device; try cuda, cuda:1, mps or cpu"),
        ("ask clip.mp4 q --device xpu", 2, "xpu: not a device"),
        ("ask gone.mp4 q", 1, "gone.mp4: no such file"),
        ("ask text.mp4 q", 1, "text.mp4: this is text, not a video"),
        ("ask cut.mp4 q", 1, "cut.mp4: its index is missing"),
        ("ask cut.jpg q", 1, "cut.jpg: "),
        ("ask clip.mp4 q --model dem", 1, "dem: no such model; did you mean demo?"),
        ("ask clip.mp4 q --model crosslmm-2", 1, "did you mean crosslmm-2b?"),
        ("ask clip.mp4 q --model crosslmm-2b", 1, "`crosslmm models init crosslmm-2b`"),
        ("caption clip.mp4 --device gpu", 2, "gpu: not a device"),
        ("caption clip.mp4 --max-new-tokens 9223372036854775808", 2, "--max-new-tokens must be a"),
        ("caption clip.mp4 --tokens-per-frame 7", 2, "--tokens-per-frame 7"),
        ("caption clip.mp4 --model dem", 1, "did you mean demo?"),
        ("eval rows.jsonl --device gpu", 2, "gpu: not a device"),
        ("eval rows.jsonl --model dem", 1, "did you mean demo?"),
        ("train tune-2b --model dem --data rows.jsonl --out x", 1, "did you mean demo?"),
        ("train tune-2b --model demo --data gone.json --out x", 2, "gone.json: no such file"),
        ("train tune-2b --model demo --data rows.jsonl --out x --set frmes=8", 2, "mean frames?"),
        ("chat gone.mp4", 1, "gone.mp4: no such file"),
        ("chat clip.mp4 --keep 10%", 2, "--keep needs --merge"),
        ("profile --measure --device gpu", 2, "gpu: not a device"),
        ("profile --measure --video text.mp4", 1, "text.mp4: this is text, not a video"),
        ("profile --model dem", 1, "did you mean demo?"),
    ],
)
def test_before_torch(files: Path, line: str, code: int, message: str) -> None:
    environment = {**os.environ, "CROSSLMM_MODEL": "demo"}
    finished = subprocess.run(
        [sys.executable, "-c", CODE, *line.split()],
        cwd=files,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.stdout == f"{code}\n", finished.stderr
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) <= 2
