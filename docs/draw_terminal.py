"""terminal.svg: a run of the built-in model on its sample clip, in a terminal of 80 columns."""

import io
import os
import re
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.text import Text

COLUMNS = 80
COMMAND = ("ask", "sample.mp4", "Describe the video.", "Count the objects.", "-m", "demo")
# Without rich's web font: the picture must need no network.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def run() -> str:
    """What the command writes to a terminal, stdout and stderr in their order."""
    with tempfile.TemporaryDirectory() as folder:
        # A cache of its own: what was asked before shows in the output.
        environment = os.environ | {
            "COLUMNS": str(COLUMNS),
            "PYTHONUTF8": "1",
            "CROSSLMM_CACHE": f"{folder}/cache",
        }
        demo = [sys.executable, "-m", "crosslmm_cli", "demo", "--out", "sample.mp4", "--quiet"]
        subprocess.run(demo, cwd=folder, env=environment, check=True, capture_output=True)
        done = subprocess.run(
            [sys.executable, "-m", "crosslmm_cli", *COMMAND, "--no-progress"],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return done.stdout


def draw(output: str) -> str:
    """The picture of the command and its output, as SVG."""
    shown = " ".join(f'"{part}"' if " " in part else part for part in COMMAND)
    # As wide as the terminal: what is longer is broken where a terminal breaks it.
    lines = [f"$ crosslmm {shown}", *output.rstrip("\n").split("\n")]
    rows = [row for line in lines for row in re.findall(f".{{1,{COLUMNS}}}", line) or [""]]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for number, row in enumerate(rows):
        console.print(Text(row, style="bold" if number == 0 else ""), soft_wrap=True)
    return console.export_svg(title="crosslmm", code_format=SVG, unique_id="terminal")
