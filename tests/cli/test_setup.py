"""`crosslmm setup`: proposed, asked, downloaded, made the default; by its screens and its exit codes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.published import LICENSES
from crosslmm.cost.fitting import Machine
from crosslmm_cli import setup
from tests.conftest import Finished
from tests.support.fake_hub import fake_hub
from tests.support.models import write_cached, write_model

Run = Callable[..., Finished]

SMALL, LARGE = LICENSES
GB = 10**9
MACHINE = Machine("cpu", "a CPU", 32 * GB, "float32", 100 * GB)
PROPOSAL = [
    "device     cpu (a CPU)",
    "free       32.0 GB of memory, 100.0 GB of disk",
    f"model      {SMALL}",
    "licence    Apache-2.0",
]


@pytest.fixture
def machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSLMM_MODEL", raising=False)
    monkeypatch.setattr(setup, "inspect_machine", lambda: MACHINE)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    folder = write_model(tmp_path / "published", kind="llava_onevision")
    save_file({"w": np.zeros(300_000, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.usefixtures("machine")
class TestWithoutATerminal:
    @pytest.mark.parametrize("command", [("setup",), ("models", "pull")])
    def test_the_proposal_and_exit_code_2(self, run: Run, command: tuple[str, ...]) -> None:
        finished = run(*command)
        assert finished.code == 2
        assert finished.out.splitlines()[:4] == PROPOSAL
        assert finished.out.splitlines()[-2:] == [
            "memory     4.2 GB for 64 frames of 196 tokens",
            "frames     up to 166, 196 tokens each: the checkpoint's own number",
        ]
        assert finished.err.splitlines() == [
            f"not {LARGE}: needs 33.7 GB of memory for a single frame, and cpu has 32.0 GB free",
            "crosslmm: there is no terminal to ask on, and nothing was downloaded; give --yes",
        ]
        assert catalog.default_model().origin == "built-in"

    def test_what_is_on_disk_becomes_the_default(self, run: Run, tmp_path: Path) -> None:
        write_cached(tmp_path / "hub", SMALL, kind="llava_onevision")
        finished = run("setup", "--yes")
        assert finished.code == 0, finished.err
        assert f"the default model is now {SMALL}\n" in finished.err
        assert finished.err.endswith('next: crosslmm ask VIDEO "what happens?"\n')
        assert "download   none, it is on disk\n" in finished.out
        assert catalog.default_model() == catalog.Choice(SMALL, "setting")
        again = run("setup")  # nothing to ask
        assert again.code == 0
        assert "already the default model" in again.err

    def test_nothing_fits(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny = Machine("cpu", "a CPU", GB, "float32", 100 * GB)
        monkeypatch.setattr(setup, "inspect_machine", lambda: tiny)
        finished = run("setup", "--yes")
        assert (finished.code, finished.out) == (1, "")
        assert "no published model fits this machine" in finished.err
        assert "and cpu has 1.0 GB free" in finished.err

    def test_offline(self, run: Run) -> None:
        finished = run("setup", "--yes")
        assert finished.code == 1
        assert "HF_HUB_OFFLINE is set" in finished.err
        assert catalog.default_model().origin == "built-in"

    def test_yes_is_for_the_proposal_only(self, run: Run) -> None:
        finished = run("models", "pull", SMALL, "--yes")
        assert finished.code == 2
        assert "--yes" in finished.err


@pytest.mark.usefixtures("machine")
class TestList:
    def test_what_fits_and_recipes(self, run: Run) -> None:
        shown = run("models", "list").out
        assert max(map(len, shown.splitlines())) < 80
        rows = [line.split() for line in shown.splitlines()]
        assert [SMALL, "1.8", "GB", "Apache-2.0", "4.2", "GB", "yes"] in rows
        assert [LARGE, "16.1", "GB", "Apache-2.0", "35.7", "GB", "no"] in rows
        assert ["crosslmm-2b", "siglip2-so400m-patch14-384", "Qwen2.5-1.5B-Instruct"] in rows

    def test_what_does_not_fit_says_why(self, run: Run) -> None:
        assert f"{LARGE} needs 33.7 GB of memory for a single frame" in run("models", "list").err

    def test_an_interrupted_download_says_how_to_go_on(self, run: Run, tmp_path: Path) -> None:
        snapshot = write_cached(tmp_path / "hub", SMALL, kind="llava_onevision")
        (snapshot / "model.safetensors").unlink()
        finished = run("models", "list")
        assert (
            f"unusable: {SMALL}: no weights (no *.safetensors file)\n"
            f"`crosslmm models pull {SMALL}` resumes the download\n"
        ) in finished.err
        assert [SMALL, "unusable"] in [line.split()[:2] for line in finished.out.splitlines()]

    def test_records_say_what_they_are(self, run: Run, tmp_path: Path) -> None:
        write_cached(tmp_path / "hub", SMALL, kind="llava_onevision")
        records = [json.loads(line) for line in run("models", "list", "--json").out.splitlines()]
        assert [(record["status"], record["name"]) for record in records] == [
            ("on disk", "demo"),
            ("on disk", SMALL),
            ("published", LARGE),
            ("recipe", "crosslmm-2b"),
            ("recipe", "crosslmm-7b"),
        ]
        assert records[2]["license"] == "Apache-2.0"
        assert "needs 33.7 GB" in records[2]["problem"]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("dem", "did you mean demo?"),
            ("crosslmm-2b", "`crosslmm models init crosslmm-2b` assembles it"),
            ("llava-onevision-7b", f"did you mean {LARGE}?"),
        ],
    )
    def test_what_was_probably_meant(self, run: Run, clip: Path, name: str, words: str) -> None:
        finished = run("ask", clip, "q", "--model", name)
        assert finished.code == 1
        assert words in finished.err


pytest.importorskip("pty")
from tests.support.terminal import Terminal  # noqa: E402

PROGRAM = f"""
import sys
from crosslmm.cost.fitting import Machine
from crosslmm_cli import setup
setup.inspect_machine = lambda: {MACHINE!r}
sys.argv[0] = "crosslmm"
from crosslmm_cli.__main__ import main
sys.exit(main())
"""


class TestOnATerminal:
    @pytest.fixture
    def program(self, tmp_path: Path) -> Path:
        path = tmp_path / "program.py"
        path.write_text(PROGRAM)
        return path

    def environment(self, tmp_path: Path, address: str) -> dict[str, str]:
        return {
            "HF_ENDPOINT": address,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DOWNLOAD_TIMEOUT": "30",
            "CROSSLMM_HOME": str(tmp_path / "home"),
        }

    def test_after_a_yes_it_is_downloaded_and_the_default(
        self, home: Path, tmp_path: Path, published: Path, program: Path
    ) -> None:
        with (
            fake_hub({SMALL: published}) as address,
            Terminal("setup", program=program, **self.environment(tmp_path, address)) as terminal,
        ):
            terminal.wait_for("Download it (1.8 GB) and make it the default model? [Y/n]:")
            terminal.type("y\n")
            assert terminal.wait() == 0
            screen = terminal.screen
        assert [line.rstrip() for line in screen.splitlines()[:4]] == PROPOSAL
        assert (
            f"downloading {SMALL}\nthe default model is now {SMALL}\n"
            f"`crosslmm models use {SMALL} --keep 10%` fits\n"
            "ten times the frames into its context, at some loss of accuracy\nnext: crosslmm ask"
            in screen
        )
        assert catalog.default_model() == catalog.Choice(SMALL, "setting")
        assert catalog.resolve(SMALL)

    def test_a_word_that_is_no_answer_is_asked_again(
        self, home: Path, tmp_path: Path, program: Path
    ) -> None:
        environment = self.environment(tmp_path, "http://127.0.0.1:9")
        with Terminal("setup", program=program, **environment) as terminal:
            terminal.wait_for("[Y/n]: ")
            terminal.type("maybe\n")
            terminal.wait_for("please answer y or n: ")
            terminal.type("no\n")
            assert terminal.wait() == 0
            last = terminal.screen.splitlines()[-3:]
        assert last == [
            "Download it (1.8 GB) and make it the default model? [Y/n]: maybe",
            "please answer y or n: no",
            "nothing was changed; `crosslmm models list` shows what else there is",
        ]

    @pytest.mark.parametrize(("key", "code"), [("n\n", 0), ("\x03", 130), ("\x04", 130)])
    def test_after_anything_else_nothing_is(
        self, home: Path, tmp_path: Path, program: Path, key: str, code: int
    ) -> None:
        environment = self.environment(tmp_path, "http://127.0.0.1:9")
        with Terminal("setup", program=program, **environment) as terminal:
            terminal.wait_for("[Y/n]:")
            terminal.type(key)
            assert terminal.wait() == code
            last = terminal.screen.splitlines()[-1]
        assert last == (
            "crosslmm: interrupted"
            if code
            else "nothing was changed; `crosslmm models list` shows what else there is"
        )
        assert not (tmp_path / "hub").exists()
        assert catalog.default_model().origin == "built-in"

    @pytest.mark.parametrize("line", [("setup", "--yes"), ("models", "pull", SMALL)])
    def test_ctrl_c_says_how_to_go_on_and_the_next_run_does(
        self, home: Path, tmp_path: Path, published: Path, program: Path, line: tuple[str, ...]
    ) -> None:
        asked: list[str] = []
        with fake_hub({SMALL: published}, stall_after=500_000, asked=asked) as address:
            environment = self.environment(tmp_path, address)
            with Terminal(*line, program=program, **environment) as terminal:
                terminal.wait_for("downloading ━")
                wait_until(lambda: "model.safetensors" in asked)
                terminal.press_ctrl_c()
                assert terminal.wait() == 130
                assert terminal.cursor_is_shown
                assert terminal.screen.replace("^C", "").endswith(
                    "crosslmm: interrupted\n"
                    "what was downloaded is kept; the same command resumes the download\n"
                )
        assert catalog.default_model().origin == "built-in"
        with pytest.raises(catalog.CheckpointError, match="resumes the download"):
            catalog.resolve(SMALL)
        with (
            fake_hub({SMALL: published}) as address,
            Terminal(*line, program=program, **self.environment(tmp_path, address)) as terminal,
        ):
            assert terminal.wait() == 0
        weights = catalog.resolve(SMALL) / "model.safetensors"
        assert weights.read_bytes() == (published / "model.safetensors").read_bytes()
        assert catalog.default_model().name == (SMALL if line[0] == "setup" else catalog.DEMO)

    def test_the_list_at_80_columns(self, home: Path, tmp_path: Path, program: Path) -> None:
        environment = self.environment(tmp_path, "http://127.0.0.1:9")
        for columns in (80, 120):
            with Terminal(
                "models", "list", program=program, columns=columns, **environment
            ) as terminal:
                assert terminal.wait() == 0
                rows = [line.split() for line in terminal.screen.splitlines()]
            assert [SMALL, "1.8", "GB", "Apache-2.0", "4.2", "GB", "yes"] in rows


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
