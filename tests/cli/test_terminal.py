"""What a person sees: each command in a terminal of 80 columns, by its screen."""

import json
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("pty")
from crosslmm.synthetic import write_sample
from tests.support.clips import write_clip
from tests.support.lessons import write_lessons
from tests.support.terminal import Terminal


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough to be interrupted while its frames are decoded."""
    path = tmp_path_factory.mktemp("clips") / "film.mp4"
    write_clip(path, frames=4000, fps=50, gop=250)
    return path


def test_an_error_replaces_the_display(clip: Path, checkpoint: Path) -> None:
    with Terminal("ask", clip, "q", "--start", 100, "--model", checkpoint) as terminal:
        assert terminal.wait() == 1
        assert b"loading the model" in terminal.raw
        assert terminal.cursor_is_shown
        assert "loading" not in terminal.screen
        assert terminal.screen.startswith("crosslmm: ")
        assert terminal.screen.endswith("\n")


def test_ctrl_c_replaces_the_display(film: Path, checkpoint: Path) -> None:
    line = ("ask", film, "q", "--frames", 4000, "--model", checkpoint)
    for stage in ("loading the model", "frames"):
        with Terminal(*line) as terminal:
            terminal.wait_for(stage)
            terminal.press_ctrl_c()
            assert terminal.wait() == 130
            assert terminal.cursor_is_shown
            assert terminal.screen.replace("^C", "").lstrip("\n") == "crosslmm: interrupted\n"


def test_ctrl_c_while_an_answer_is_written_begins_a_line(clip: Path, endless: Path) -> None:
    line = ("ask", clip, "q", "--model", endless, "--frames", 1, "--max-new-tokens", 3000)
    with Terminal(*line, "--quiet", "--no-progress") as terminal:
        terminal.wait_for_output()
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
        before, _, last = terminal.screen.rstrip("\n").rpartition("\n")
        # Where a line had just ended, the terminal itself echoes ^C at the beginning of the next.
        assert (before.replace("^C", "") != "", last.removeprefix("^C")) == (
            True,
            "crosslmm: interrupted",
        )


@pytest.mark.parametrize(
    ("line", "stage", "columns"),
    [
        ("demo", "loading the model", 120),
        ("synth clips --clips 500", "writing clips", 80),
        ("eval rows.jsonl --model demo", "loading the model", 120),
        ("profile --measure --frames 8 --model demo", "loading the model", 80),
    ],
    ids=["demo", "synth", "eval", "profile"],
)
def test_ctrl_c_of_other_commands(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    stage: str,
    columns: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"video": str(clip), "type": "yes_no", "question": "q?", "answer": "yes"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with Terminal(*line.split(), columns=columns) as terminal:
        terminal.wait_for(stage)
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
        assert terminal.cursor_is_shown
        assert "━" not in terminal.screen
        assert terminal.screen.endswith("crosslmm: interrupted\n")


def test_ctrl_c_that_ends_a_busy_process_replaces_the_display(tmp_path: Path) -> None:
    code = (
        "import hashlib, sys\n"
        "from crosslmm_cli import interrupt, output\n"
        "interrupt.install()\n"
        "interrupt.before_exit(output.stop_display)\n"
        "output.Output().progress('load', 0, 0)\n"
        "open(sys.argv[0] + '.busy', 'w').close()\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    (tmp_path / "busy.py").write_text(code)
    with Terminal(program=tmp_path / "busy.py") as terminal:
        terminal.wait_for("loading the model")
        until = time.monotonic() + 60
        while not (tmp_path / "busy.py.busy").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.2)  # from Python into the long call
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
        assert terminal.screen.replace("^C", "").lstrip("\n") == "crosslmm: interrupted\n"


def test_ctrl_c_while_a_line_is_drawn_replaces_the_display(tmp_path: Path) -> None:
    code = (
        "import io, signal, sys\n"
        "from crosslmm_cli import interrupt, output\n"
        "class Pressing(io.TextIOWrapper):\n"
        "    def flush(self):\n"
        "        super().flush()\n"
        "        if self.armed:\n"
        "            self.armed = False\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "pressing = sys.stderr = Pressing(sys.stderr.buffer, line_buffering=True)\n"
        "pressing.armed = False\n"
        "interrupt.install()\n"
        "shown = output.Output()\n"
        "shown.progress('load', 1, 1)\n"
        "pressing.armed = True\n"
        "try: shown.progress('decode', 0, 0)\n"
        "except KeyboardInterrupt: shown.error('interrupted')\n"
    )
    (tmp_path / "drawing.py").write_text(code)
    with Terminal(program=tmp_path / "drawing.py") as terminal:
        assert terminal.wait() == 0
        assert b"decoding frames" in terminal.raw
        assert terminal.screen == "crosslmm: interrupted\n"


def test_train_with_bad_data(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([{"video": "gone.mp4"}]))
    line = ("train", "align-2b", "--model", checkpoint, "--data", tmp_path / "data.json")
    with Terminal(*line, "--out", tmp_path / "run") as terminal:
        assert terminal.wait() in (1, 2)
        assert b"loading the model" in terminal.raw
        assert "loading" not in terminal.screen
        assert " ".join(terminal.screen.split()).startswith("crosslmm: ")  # a long path has a line
        assert terminal.screen.endswith("\n")


def test_ctrl_c_where_a_line_has_no_end_yet(tmp_path: Path) -> None:
    code = (
        "import io, signal, sys\n"
        "from crosslmm_cli import interrupt, output\n"
        "class Pressing(io.TextIOWrapper):\n"
        "    def write(self, text):\n"
        "        super().write(text)\n"
        "        if text.startswith('a line'): self.flush(); signal.raise_signal(signal.SIGINT)\n"
        "sys.stderr = Pressing(sys.stderr.buffer, line_buffering=True)\n"
        "interrupt.install()\n"
        "try: output.Output().notice('a line')\n"
        "except KeyboardInterrupt: output.Output().error('interrupted')\n"
    )
    (tmp_path / "writing.py").write_text(code)
    with Terminal(program=tmp_path / "writing.py") as terminal:
        assert terminal.wait() == 0
        assert terminal.screen == "a line\ncrosslmm: interrupted\n"


def test_ctrl_c_of_train(checkpoint: Path, tmp_path: Path) -> None:
    data, changes = write_lessons(tmp_path / "data"), ("epochs=500", "frames=2", "batch_size=1")
    line = ("train", "tune-2b", "--model", checkpoint, "--data", data, "--out", tmp_path / "run")
    options = [option for change in changes for option in ("--set", change)]
    with Terminal(*line, *options) as terminal:
        terminal.wait_for("step 1 of")
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
        assert terminal.cursor_is_shown
        assert "━" not in terminal.screen
        last = terminal.screen.replace("^C", "").splitlines()[-2:]
    assert last == [
        "crosslmm: interrupted",
        "the same command resumes the run from its last checkpoint, if one has been saved",
    ]


def test_ctrl_c_where_it_cannot_be_raised_says_nothing_else(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "from crosslmm_cli import interrupt, output\n"
        "interrupt.install()\n"
        "interrupt.before_exit(output.close_display)\n"
        "class Dying:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "Dying()\n"
        "for step in range(1000):\n"
        "    output.Output().progress('load', step, 1000)\n"
        "    time.sleep(0.01)\n"
    )
    (tmp_path / "dying.py").write_text(code)
    with Terminal(program=tmp_path / "dying.py") as terminal:
        assert terminal.wait() == 130
        assert b"loading the model" in terminal.raw
        assert terminal.screen == "crosslmm: interrupted\n"


def test_caption_and_both_ctrl_cs(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    for number in range(40):  # no copies, which are captioned once
        (tmp_path / f"{number:02}.mp4").write_bytes(clip.read_bytes() + bytes([number]))
    options = ("-b", 4, "--readers", 0, "--max-new-tokens", 3000, "--model", checkpoint)
    with Terminal("caption", tmp_path, "-o", tmp_path / "out.jsonl", *options) as terminal:
        terminal.wait_for("captioning")
        time.sleep(2)  # until the batch is decoded; it is then generated for some 20 s
        terminal.press_ctrl_c()
        terminal.wait_for("stops immediately")
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
        assert terminal.cursor_is_shown
        assert "━" not in terminal.screen
        assert terminal.screen.endswith("crosslmm: interrupted\n")
        assert "finishing the current batch; Ctrl-C again stops immediately\n" in terminal.screen


def test_notices_wrap_at_words(tmp_path: Path) -> None:
    with Terminal("caption", write_sample(tmp_path)) as terminal:
        assert terminal.wait() == 2
        assert terminal.screen == (
            "crosslmm: no model is chosen: the built-in demo model knows synthetic shape\n"
            "clips only and cannot describe real footage; `crosslmm setup` downloads a model\n"
            "that can, --model demo uses the built-in one all the same\n"
        )


def test_the_sample_clip_and_the_model_that_nobody_chose(tmp_path: Path) -> None:
    with Terminal("ask", write_sample(tmp_path), "what happens?") as terminal:
        assert terminal.wait() == 0
        reasoning, answer = terminal.raw.rsplit(b"\x1b[22m", 1)
        assert b"\x1b[2m1:\x1b[22m\x1b[2m nothing" in reasoning
        assert answer.startswith(b" so\r\nthe red diamond meets the yellow circle, then")
        assert terminal.screen.startswith(
            "answered by the built-in demo model, which knows synthetic shape clips only\n"
        )


def test_no_notice_before_an_error(clip: Path) -> None:
    with Terminal("ask", clip, "q", "--start", 100) as terminal:
        assert terminal.wait() == 1
        assert terminal.screen.startswith("crosslmm: ")


def test_no_color_removes_colour_not_progress(clip: Path, checkpoint: Path) -> None:
    line = ("ask", clip, "q", "--model", checkpoint, "--max-new-tokens", 3)
    with Terminal(*line) as terminal:
        assert terminal.wait() == 0
        assert terminal.colours
    with Terminal(*line, NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
        assert b"loading the model" in terminal.raw
        assert terminal.colours == []


def test_a_table_without_colour_is_wrapped_within_its_columns() -> None:
    with Terminal("models", "show", "demo", columns=60, NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
        lines = terminal.screen.splitlines()
        first = next(index for index, line in enumerate(lines) if line.startswith("vision encoder"))
        assert lines[first].endswith("layers,")
        assert lines[first + 1] == " " * lines[0].index("demo") + "width 160"
        assert b"\x1b" not in terminal.raw


@pytest.mark.parametrize(
    ("options", "environment"), [(["--no-progress"], {}), ([], {"TERM": "dumb"})]
)
def test_no_progress(
    clip: Path, checkpoint: Path, options: list[str], environment: dict[str, str]
) -> None:
    line = ("ask", clip, "q", "--model", checkpoint, "--max-new-tokens", 3)
    with Terminal(*line, *options, **environment) as terminal:
        assert terminal.wait() == 0
        assert b"loading" not in terminal.raw
        assert b"\x1b" not in terminal.raw.replace(b"\x1b[?25h", b"")


SCREENS = """
import sys
from crosslmm_cli.main import execute
for line in sys.argv[1].split(";"):
    execute(line.split())
"""
CHEAP = (
    *("models list", "models show demo", "profile --model demo --frames 8", "--version"),
    *("ask gone.mp4 q", "caption gone.mp4", "models show gone", "models init gone", "nothing"),
    *(
        "train gone",
        "eval gone.jsonl",
        "ask gone.mp4 q --tokens-per-frame 7",
        "--help",
        "ask --help",
    ),
)


@pytest.mark.parametrize(("columns", "plain"), [(80, False), (120, True)])
def test_successes_and_errors_fit_the_terminal(tmp_path: Path, columns: int, plain: bool) -> None:
    (tmp_path / "screens.py").write_text(SCREENS)
    environment = {"NO_COLOR": "1"} if plain else {}
    program = tmp_path / "screens.py"
    with Terminal(";".join(CHEAP), program=program, columns=columns, **environment) as terminal:
        assert terminal.wait() == 0
        assert terminal.screen.endswith("\n")
        assert bool(terminal.colours) is not plain
        text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", terminal.raw).decode()
    # Examples are copied, so not broken.
    long = [line for line in text.split("\r\n") if len(line.split("\r")[-1]) > columns]
    assert [line for line in long if not line.lstrip().startswith("crosslmm ")] == []
