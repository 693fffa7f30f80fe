"""Errors and notices: the flag instead of the parameter, and the one error table."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from crosslmm.errors import CheckpointError, OutOfMemory, UsageError, VideoError
from crosslmm_cli.commands import COMMANDS, Command, load
from crosslmm_cli.errors import explain
from crosslmm_cli.flags import ALIASES, flags_of, with_flags
from tests.conftest import Finished

Run = Callable[..., Finished]


def commands() -> Iterator[Any]:
    """Every command that runs something: those of groups too."""
    for name in COMMANDS:
        command = load(name, rich=False)
        yield from getattr(command, "commands", {name: command}).values()


@pytest.mark.parametrize(
    ("command", "parameter", "flag"),
    [
        ("caption", "max_frames", "--max-frames"),
        ("caption", "retry_failed", "--retry-failed"),
        ("caption", "out", "--out"),  # -o is shorter
        ("caption", "format", "--format"),  # `kind` in the function
        ("caption", "quantization", "--quantize"),
        ("ask", "max_new_tokens", "--max-new-tokens"),
        ("train", "media_folder", "--video-folder"),
        ("train", "overrides", "--set"),
        ("profile", "frames_per_chunk", "--chunk"),
        ("synth", "questions_per_clip", "--questions"),
    ],
)
def test_a_parameter_is_named_by_its_flag(command: str, parameter: str, flag: str) -> None:
    flags = flags_of(load(command, rich=False))
    assert with_flags(f"give another `{parameter}`", flags) == f"give another {flag}"


@pytest.mark.parametrize(
    "text",
    [
        "give `overwrite`, `media_folder` or `v2v_scope`",  # `ask` has no such options
        "`crosslmm models list` shows them",
        "max_frames without backticks",
        "`video` and `questions` are arguments, not options",
    ],
)
def test_what_is_no_option_stays_as_it_is(text: str) -> None:
    assert with_flags(text, flags_of(load("ask", rich=False))) == text


@pytest.mark.parametrize("alias", ALIASES)
def test_the_flag_of_each_alias_exists(alias: str) -> None:
    holders = [command for command in commands() if flags_of(command).get(alias) == ALIASES[alias]]
    assert holders
    for command in holders:
        assert any(ALIASES[alias] in parameter.opts for parameter in command.params)


def test_every_command_names_its_own_flags() -> None:
    for command in commands():
        assert isinstance(command, Command), command.name
        flags = flags_of(command)
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert flags[parameter.name] in parameter.opts, (command.name, parameter.name)


def test_a_library_error_names_the_flag(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise UsageError("`frames` and `fps` exclude each other; see `interval`")

    monkeypatch.setattr("crosslmm_cli.ask.Sampling", refuse)
    assert run("ask", "clip.mp4", "q") == Finished(
        2, "", "crosslmm: --frames and --fps exclude each other; see `interval`\n"
    )
    # The command that failed before leaves no flags behind.
    assert run("models", "rm", "demo").err.count("--") == 0


def test_a_notice_of_the_library_names_the_flag(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslmm_cli.ask.check_video", lambda *given: None)

    def loaded(output: Any, **options: object) -> None:
        output.notice("out of memory; lower `max_frames`, or `batch_size` elsewhere")
        raise VideoError("clip.mp4: gave no frames; try another `reader`")

    monkeypatch.setattr("crosslmm_cli.ask.load_assistant", loaded)
    assert run("ask", "clip.mp4", "q").err == (
        "out of memory; lower --max-frames, or `batch_size` elsewhere\n"
        "crosslmm: clip.mp4: gave no frames; try another --reader\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UsageError("no"), 2, "crosslmm: no\n"),
        (VideoError("no"), 1, "crosslmm: no\n"),
        (CheckpointError("no"), 1, "crosslmm: no\n"),
        (OutOfMemory("no"), 1, "crosslmm: no\n"),
        (typer.BadParameter("no"), 2, "crosslmm: Invalid value: no\nsee `crosslmm --help`\n"),
        (KeyboardInterrupt(), 130, "crosslmm: interrupted\n"),
        (typer.Abort(), 130, "crosslmm: interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (SystemExit(5), 5, ""),
        (SystemExit("words"), 1, ""),
        (OSError(errno.ENOSPC, "No space left", "a.txt"), 1, "crosslmm: a.txt: No space left\n"),
        (OSError(errno.ENOSPC, "No space left"), 1, "crosslmm: writing failed: No space left\n"),
        (
            ZeroDivisionError("one\ntwo"),
            1,
            "crosslmm: internal error; please report it: ZeroDivisionError: one\n"
            "run again with --debug for the traceback\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_the_error_table(
    error: BaseException, code: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(error) == code
    assert capsys.readouterr() == ("", printed)


def test_a_file_whose_name_begins_with_a_dash_is_told_how_to_name(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.mp4").touch()
    arguments = ["ask", "-dash.mp4", "what?"]
    monkeypatch.setattr("sys.argv", ["crosslmm", *arguments])
    done = run(*arguments)
    assert (done.code, done.err) == (2, "crosslmm: No such option: -d\nfor the file: ./-dash.mp4\n")
