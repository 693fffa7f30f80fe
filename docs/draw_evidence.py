"""evidence.png and evidence-dark.png: the page of the built-in model's sample clip, in chromium."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from crosslmm.checkpoints import catalog
from crosslmm.evidence import page
from crosslmm.fingerprint import checkpoint_fingerprint

QUESTION = "What happens?"
SIZES = {"light": (1040, 1180), "dark": (430, 1180)}
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--virtual-time-budget=5000",
)


def source() -> str:
    """What the pictures are drawn from: how the page looks, the question, and the model that answers."""
    web = Path(page.__file__).parent / "web"
    files = [Path(page.__file__), Path(__file__), *sorted(web.iterdir())]
    model = checkpoint_fingerprint(catalog.demo_folder())
    return "".join([*(file.read_text("utf-8") for file in files), model])


def draw(scheme: str, path: Path) -> None:
    """A wide page in the light scheme, or a narrow one in the dark; SystemExit without chromium."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit(f"{path.name} is drawn with chromium, which is not here")
    width, height = SIZES[scheme]
    with tempfile.TemporaryDirectory() as folder:
        crosslmm = [sys.executable, "-m", "crosslmm_cli"]
        for command in (
            [*crosslmm, "demo", "--out", "sample.mp4"],
            [*crosslmm, "ask", "sample.mp4", QUESTION, "-m", "demo", "--evidence", "page.html"],
            [
                browser,
                *_FLAGS,
                f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
                f"--user-data-dir={folder}/profile",
                f"--window-size={width},{height}",
                f"--screenshot={folder}/page.png",
                f"file://{folder}/page.html",
            ],
        ):
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
        shutil.copy(Path(folder) / "page.png", path)
