"""The command line in this process: parsing, output, exit codes, on a tiny checkpoint."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm_cli.commands import COMMANDS
from crosslmm_cli.output import Output
from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`


class TestHelp:
    def test_every_command_has_help(self, run: Run) -> None:
        shown = run("--help")
        assert shown.code == 0
        listed = [name for name in COMMANDS if f"\n  {name} " in shown.out]
        assert {"ask", "models", "doctor"} <= set(listed)
        for name in listed:
            help_ = run(name, "--help")
            assert help_.code == 0
            assert f"Usage: crosslmm {name}" in help_.out
            assert all(example in help_.out for example in COMMANDS[name].examples)

    def test_bare_command_helps(self, run: Run) -> None:
        assert run().out == run("--help").out

    def test_version(self, run: Run) -> None:
        from crosslmm import __version__

        assert run("--version").out == f"crosslmm {__version__}\n"

    def test_a_command_without_its_module_is_not_listed(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from crosslmm_cli.commands import CommandInfo

        monkeypatch.setitem(COMMANDS, "later", CommandInfo("no_such_module", "Not there yet."))
        assert "later" not in run("--help").out
        assert run("later").code == 2

    def test_a_terminal_shows_how_a_revision_is_given(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("crosslmm_cli.main.supports_ansi", lambda stream: True)
        assert "@revision" in run("models", "show", "--help").out


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nosuch"], "No such command 'nosuch'"),
            (["asc"], "Did you mean 'ask'"),
            (["ask"], "Missing argument"),
            (["ask", "clip.mp4"], "Missing argument"),
            (["ask", "clip.mp4", "q", "--nosuch"], "No such option: --nosuch"),
            (["ask", "clip.mp4", "q", "--frames", "0"], "--frames"),
            (["ask", "clip.mp4", "q", "--frames", "few"], "--frames"),
            (["ask", "clip.mp4", "q", "--fps", "0"], "is not greater than 0"),
            (["ask", "clip.mp4", "q", "--fps", "nan"], "is not greater than 0"),
            (["ask", "clip.mp4", "q", "--reader", "vlc"], ": 'vlc' is not one of 'auto', 'pyav'"),
            (
                ["ask", "clip.mp4", "q", "--start", "1:99"],
                "'1:99' is not a time: use seconds, M:SS or H:MM:SS",
            ),
            (["ask", "clip.mp4", "q", "--frames", "4", "--fps", "2"], "exclude each other"),
            (["ask", "clip.mp4", " "], "a question is empty"),
            (["ask", "clip.mp4", "-", "-"], "one question only"),
            (["models", "use"], "give a model"),
            (["models", "init", "--out", "x"], "give a recipe"),
            (["models", "init", "crosslmm-3b", "--out", "x"], "no such recipe"),
            (["models", "rm", "demo"], "stays"),
        ],
    )
    def test_two_lines_and_code_2(self, run: Run, arguments: list[str], message: str) -> None:
        finished = run(*arguments)
        assert (finished.code, finished.out) == (2, "")
        assert message in finished.err
        assert finished.err.startswith("crosslmm: ")
        assert len(finished.err.splitlines()) <= 2


class TestDemo:
    def test_it_ends_with_the_next_command(self, run: Run, tmp_path: Path) -> None:
        kept = tmp_path / "my clip.mp4"
        finished = run("demo", "--out", kept)
        assert finished.code == 0
        assert kept.is_file()
        assert finished.err.endswith(
            f"wrote {kept}\nnext: crosslmm ask '{kept}' \"what happens?\"\n"
            "for real footage: `crosslmm setup` downloads a model that can describe it\n"
        )

    def test_its_help_says_where_the_clip_goes(self, run: Run) -> None:
        text = " ".join(run("demo", "--help").out.split())
        assert "as sample.mp4 in this folder. [default: a temporary folder, deleted" in text


class TestFailures:
    def test_a_missing_video_is_found_before_the_model_is_loaded(
        self, run: Run, checkpoint: Path
    ) -> None:
        finished = run("ask", "nowhere.mp4", "q", "--model", checkpoint)
        assert (finished.code, finished.err) == (
            1,
            "crosslmm: nowhere.mp4: no such file\n",
        )

    def test_an_address_is_named_as_one(self, run: Run, checkpoint: Path) -> None:
        finished = run("ask", "https://youtu.be/x", "q", "--model", checkpoint)
        assert finished.code == 1
        assert "this is a URL" in finished.err

    def test_a_missing_model(self, run: Run, clip: Path, home: Path) -> None:
        finished = run("ask", clip, "q", "--model", "org/model")
        assert finished.code == 1
        assert "crosslmm models pull org/model" in finished.err
        assert len(finished.err.splitlines()) == 2

    def test_not_a_video(self, run: Run, checkpoint: Path, tmp_path: Path) -> None:
        text = tmp_path / "notes.mp4"
        text.write_text("no video at all\n" * 100)
        finished = run("ask", text, "q", "--model", checkpoint)
        assert (finished.code, finished.out) == (1, "")
        assert len(finished.err.splitlines()) == 1

    def test_a_bug_is_one_line_and_with_debug_a_traceback(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from crosslmm.checkpoints import catalog

        def broken() -> list[catalog.StoredModel]:
            raise KeyError("a bug")

        monkeypatch.setattr(catalog, "stored_models", broken)
        finished = run("models", "list")
        assert finished.code == 1
        assert finished.err == (
            "crosslmm: internal error; please report it: KeyError: 'a bug'\n"
            "run again with --debug for the traceback\n"
        )
        shown = run("models", "list", "--debug")
        assert shown.code == 1
        assert "Traceback" in shown.err
        assert "KeyError: 'a bug'" in shown.err

    def test_a_traceback_cannot_control_the_terminal(self, run: Run) -> None:
        shown = run("ask", "a\x1b]0;x\x07.mp4", "q", "--debug")
        assert shown.code == 1
        assert "VideoError: a]0;x.mp4: no such file" in shown.err
        assert "\x1b" not in shown.err

    def test_what_libraries_say_cannot_control_it_either(self) -> None:
        script = """
import logging, sys, warnings
sys.argv = ["crosslmm", "--version", "--debug"]
from crosslmm_cli.__main__ import main
main()
warnings.warn("one\\x1b]0;x\\x07")
logging.basicConfig()
logging.warning("two \\x1b[2J%s", "\\x9b")
try:
    open("three\\x1b[2J")
except OSError as error:
    logging.exception("%s")
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert all(word in done.stderr for word in ("one]0;x", "two [2J", "three"))
        assert not {"\x1b", "\x07", "\x9b"} & set(done.stderr)

    def test_a_closed_pipe_is_not_an_error_even_with_debug(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone() -> None:
            raise BrokenPipeError

        monkeypatch.setattr("crosslmm_cli.main.build", gone)
        assert run("models", "list", "--debug") == Finished(141, "", "")

    def test_debug_keeps_the_exit_code(self, run: Run) -> None:
        shown = run("ask", "clip.mp4", " ", "--debug")
        assert shown.code == 2
        assert "Traceback" in shown.err
        assert shown.err.endswith("crosslmm: a question is empty\n")


class TestAsk:
    def test_answers_go_to_stdout_and_nothing_else_does(
        self, run: Run, checkpoint: Path, clip: Path
    ) -> None:
        arguments = ["ask", clip, "what happens?", "--model", checkpoint, "--frames", 8]
        shown = run(*arguments, "--max-new-tokens", 12)
        assert shown.code == 0
        cut = "the answer was cut after 12 tokens; --max-new-tokens allows more"
        assert shown.err == f"8 of 30 frames, one per 0.39 s\n{cut}\n"
        answer = json.loads(run(*arguments, "--max-new-tokens", 12, "--json").out)["answer"]
        assert answer
        assert shown.out.strip() == answer
        assert run(*arguments, "--max-new-tokens", 12, "--quiet").err == ""

    def test_json(self, run: Run, checkpoint: Path, clip: Path) -> None:
        finished = run(
            "ask", clip, "one", "two", "--model", checkpoint, "--start", "0:01", "--end", "2.5",
            "--frames", 4, "--tokens-per-frame", 9, "--max-new-tokens", 5, "--seed", 3,
            "--temperature", 0.5, "--json",
        )  # fmt: skip
        first, second = map(json.loads, finished.out.splitlines())
        assert (first["question"], second["question"]) == ("one", "two")
        assert first["video"] == str(clip)
        assert first["model"] == str(checkpoint)
        assert [set(frame) for frame in first["frames"]] == [{"index", "time"}] * 4
        assert all(1.0 <= frame["time"] <= 2.5 for frame in first["frames"])
        assert first["tokens"]["visual"] == 4 * 9
        assert first["tokens"]["original"] == 4 * 25
        assert 0 < first["tokens"]["generated"] <= 5
        assert first["tokens"]["prompt"] > 36
        keys = {"load", "decode", "encode", "prefill", "generate", "first_token"}
        assert set(first["timing"]) == keys
        assert first["timing"]["decode"] > 0
        assert second["timing"]["decode"] == second["timing"]["encode"] == 0
        assert first["settings"]["seed"] == 3
        assert first["settings"]["start"] == 1.0
        assert first["settings"]["dtype"] in ("bfloat16", "float32")
        assert {"crosslmm", "torch", "transformers"} <= set(first["versions"])

    def test_equal_frames_are_encoded_once_and_said(
        self, run: Run, checkpoint: Path, clip: Path, tmp_path: Path
    ) -> None:
        from crosslmm.video.writing import write_frames
        from tests.support.clips import picture

        held = tmp_path / "held.mp4"  # without loss, so that what is held does not change
        shots = (picture(number) for number in (1, 1, 1, 2, 2, 2, 2, 3))
        write_frames(held, shots, fps=4, options={"qp": "0"})
        options = ["--model", checkpoint, "--max-new-tokens", 2, "--json"]
        finished = run("ask", held, "what?", *options)
        assert "encoded 3 of 8 frames: the others show the same as the one before\n" in finished.err
        assert json.loads(finished.out)["frames_encoded"] == 3
        moving = run("ask", clip, "what?", *options)
        assert "encoded" not in moving.err
        record = json.loads(moving.out)
        assert record["frames_encoded"] == len(record["frames"])

    def test_the_sampler_is_recorded(self, run: Run, checkpoint: Path, clip: Path) -> None:
        options = ["--model", checkpoint, "--max-new-tokens", 2, "--frames", 3, "--json"]
        finished = run("ask", clip, "what?", "--sampler", "diverse", *options)
        record = json.loads(finished.out)
        assert record["settings"]["sampler"] == "diverse"
        assert len(record["frames"]) == 3
        refused = run(
            "ask", clip, "what?", "--sampler", "diverse", "--frames-at", "no.txt", *options
        )
        assert refused.code == 2
        assert "sampler" not in json.loads(run("ask", clip, "what?", *options).out)["settings"]

    def test_the_seed_repeats_the_answer(self, run: Run, checkpoint: Path, clip: Path) -> None:
        def answer(seed: int) -> str:
            return run(
                "ask", clip, "q", "--model", checkpoint, "--frames", 2, "--max-new-tokens", 16,
                "--temperature", 2, "--seed", seed,
            ).out  # fmt: skip

        assert answer(1) == answer(1)
        assert len({answer(seed) for seed in range(4)}) > 1

    def test_a_question_from_stdin(
        self, run: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO("what is\nthis?\n"))
        finished = run("ask", clip, "-", "--model", checkpoint, "--json", "--max-new-tokens", 2)
        assert json.loads(finished.out)["question"] == "what is\nthis?"

    def test_a_question_from_stdin_that_is_not_text(
        self, run: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import io

        stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9?"), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", stdin)
        finished = run("ask", clip, "-", "--model", checkpoint)
        assert finished.code == 2
        assert finished.err == "crosslmm: stdin is not utf-8 text\n"

    def test_a_question_that_is_not_utf_8(self, run: Run, checkpoint: Path, clip: Path) -> None:
        finished = run(
            "ask", clip, "é, caf\udce9?", "--model", checkpoint, "--max-new-tokens", 2, "--json"
        )
        assert finished.code == 0, finished.err
        assert json.loads(finished.out)["question"] == "é, caf\ufffd?"

    def test_an_image(self, run: Run, checkpoint: Path, tmp_path: Path) -> None:
        from PIL import Image

        image = tmp_path / "image.png"
        Image.new("RGB", (40, 30), "red").save(image)
        finished = run("ask", image, "q", "--model", checkpoint, "--max-new-tokens", 2)
        assert finished.code == 0
        assert finished.err.startswith("1 of 1 frame\n")

    def test_wrong_size_of_grid(self, run: Run, checkpoint: Path, clip: Path) -> None:
        finished = run("ask", clip, "q", "--model", checkpoint, "--tokens-per-frame", 5)
        assert finished.code == 2
        assert "perfect square" in finished.err


def test_the_library_never_prints_or_exits() -> None:
    import crosslmm

    folder = Path(crosslmm.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "exit", "quit", "sys.exit"), f"{path}: {called}"


def test_training_from_scratch_loads_no_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    from crosslmm.demo import run as training

    shown: list[tuple[str, str | None]] = []
    monkeypatch.setattr(training, "train_demo", lambda *_, **__: None)
    monkeypatch.setattr(
        Output, "progress", lambda self, stage, *_, label=None: shown.append((stage, label))
    )
    assert run("train", "demo", "--out", tmp_path / "run").code == 0
    assert shown == [("load", "preparing")]
