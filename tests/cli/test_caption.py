"""`crosslmm caption` as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosslmm.video.writing import write_frames
from tests.support.clips import write_clip

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        write_clip(folder / f"{number}.mp4", frames=4, first_number=9 * number)
    return folder


@pytest.fixture
def options(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    return (
        *("-m", str(checkpoint), "--frames", "2", "--max-new-tokens", "4"),
        *("--readers", "0", "--dtype", "float32", "--device", "cpu"),
    )


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_it_writes_prints_the_path_and_exits_with_0(
    run: Run, folder: Path, options: tuple[str, ...]
) -> None:
    finished = run("caption", folder, *options)
    assert (finished.code, finished.out) == (0, f"{Path.cwd() / 'captions.jsonl'}\n")
    assert len(rows(Path("captions.jsonl").read_text("utf-8"))) == 3
    assert "3 captioned in" in finished.err
    assert "model busy" in finished.err
    again = run("caption", folder, *options)
    assert (again.code, again.out) == (0, finished.out)
    assert "0 captioned in" in again.err
    assert "3 already done" in again.err


def test_failures_are_listed_and_the_exit_code_is_3_each_time(
    run: Run, folder: Path, options: tuple[str, ...]
) -> None:
    (folder / "bad.mp4").write_bytes(b"text")
    (folder / "notes.md").write_text("notes")
    finished = run("caption", folder, *options)
    assert finished.code == 3
    assert f"failed: {folder}/bad.mp4: this is text, not a video" in finished.err
    assert "1 failed; 1 other file skipped (not a video)" in finished.err
    again = run("caption", folder, *options)
    assert again.code == 3
    assert "1 failed before (--retry-failed tries them again)" in again.err
    assert run("caption", folder, *options, "--retry-failed", "--quiet").err == ""


def test_a_name_that_is_missing_fails_alone(
    run: Run, folder: Path, options: tuple[str, ...]
) -> None:
    finished = run("caption", folder / "gone.mp4", folder / "0.mp4", *options)
    assert finished.code == 3
    assert f"failed: {folder}/gone.mp4: no such file" in finished.err
    assert "1 captioned in" in finished.err
    written = rows(Path("captions.jsonl").read_text("utf-8"))
    assert {Path(row["path"]).name: row["error"] is None for row in written} == {
        "0.mp4": True,
        "gone.mp4": False,
    }


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_warnings_are_told_by_kind_and_verbose_tells_each(
    run: Run, folder: Path, options: tuple[str, ...], kind: str
) -> None:
    (folder / "0.mp4").unlink()
    for number in (1, 2):  # coarse noise in all colours
        coarse = np.random.default_rng(number).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
        frames = (frame.repeat(8, 0).repeat(8, 1) for frame in coarse)
        write_frames(folder / f"{number}.mp4", frames, fps=12)
    command = ("caption", folder, "--format", kind, "--frames", 2, "--readers", 0)
    finished = run(*command, "--max-new-tokens", 1, "--model", "demo", "--verbose")
    assert finished.code == 0, finished.err
    lines = [line for line in finished.err.splitlines() if line.startswith("warning: ")]
    assert [line.split(": ")[1] for line in lines] == [
        f"{folder}/1.mp4",
        f"{folder}/2.mp4",
        "2 videos",
    ]
    assert all("unlike the synthetic clips" in line for line in lines)


def test_failures_come_as_they_happen_and_verbose_names_every_video(
    run: Run, folder: Path, options: tuple[str, ...]
) -> None:
    (folder / "1.mp4").write_bytes(b"text")
    finished = run("caption", folder, *options, "--batch-size", "1", "--verbose")
    # A slow machine also tells how far it is.
    lines = [line for line in finished.err.splitlines() if " done, " not in line]
    assert lines[0].startswith(f"{folder}/0.mp4 (2 frames, ")
    assert lines[1] == f"failed: {folder}/1.mp4: this is text, not a video"
    assert lines[2].startswith(f"{folder}/2.mp4 (2 frames, ")
    assert lines[3].startswith("2 captioned in")
    assert sum("1.mp4" in line for line in lines) == 1


def test_the_built_in_model_must_be_named(
    run: Run, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CROSSLMM_MODEL", raising=False)
    finished = run("caption", folder)
    assert (finished.code, finished.out) == (2, "")
    assert "`crosslmm setup`" in finished.err
    assert "--model demo" in finished.err
    assert not (folder / "captions.jsonl").exists()
    short = ("--readers", "0", "--frames", "1", "--max-new-tokens", "1", "--include", "0.mp4")
    assert run("caption", folder, *short, "--model", "demo").code == 0
    monkeypatch.setenv("CROSSLMM_MODEL", "demo")
    assert run("caption", folder, *short).code == 0
    monkeypatch.delenv("CROSSLMM_MODEL")
    assert run("models", "use", "demo").code == 0
    assert run("caption", folder, *short).code == 0


def test_subtitles_of_one_video_go_to_the_file_that_is_named(
    run: Run, folder: Path, options: tuple[str, ...]
) -> None:
    finished = run("caption", folder / "0.mp4", "-f", "srt", "-o", "film.srt", *options)
    assert (finished.code, finished.out) == (0, f"{Path.cwd() / 'film.srt'}\n")
    assert "-->" in Path("film.srt").read_text("utf-8")


def test_rows_on_stdout_from_a_list_on_stdin(
    run: Run, folder: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        def __init__(self, data: bytes) -> None:
            import io

            self.buffer = io.BytesIO(data)

    for separator in (b"\n", b"\0"):
        names = [os.fsencode(folder / "2.mp4"), os.fsencode(folder / "0.mp4"), b""]
        monkeypatch.setattr(sys, "stdin", Stdin(separator.join(names)))
        finished = run("caption", "-", *options, "--out", "-")
        assert finished.code == 0
        assert [Path(row["path"]).name for row in rows(finished.out)] == ["2.mp4", "0.mp4"]
    assert not Path("captions.jsonl").exists()


def test_a_list_in_a_file_globs_and_a_summary_in_json(
    run: Run, folder: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"{folder}\n\n{folder}/missing.mp4\n")
    finished = run(
        "caption", "--from", tmp_path / "list.txt", "--exclude", "1.*", "--json", "-o", "x.jsonl",
        *options,
    )  # fmt: skip
    assert finished.code == 3
    summary = json.loads(finished.out)
    assert (summary["captioned"], summary["failed"]) == (2, 1)
    assert summary["out"] == str(Path.cwd() / "x.jsonl")
    assert summary["failures"][0]["error"].endswith("missing.mp4: no such file")


def test_shards_together_are_complete(run: Run, folder: Path, options: tuple[str, ...]) -> None:
    for index in (1, 2):
        assert run("caption", folder, *options, "--shard", f"{index}/2").code == 0
    parts = sorted(Path.cwd().glob("captions-*.jsonl"))
    assert [part.name for part in parts] == [
        "captions-00001-of-00002.jsonl", "captions-00002-of-00002.jsonl",
    ]  # fmt: skip
    found = [row["path"] for part in parts for row in rows(part.read_text("utf-8"))]
    assert sorted(found) == sorted(str(path) for path in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere: no such file or folder"),
        (["nowhere", "neither"], 1, "nowhere, neither: no such file or folder"),
        (["https://host/a.mp4"], 1, "https://host/a.mp4: this is a URL; only local files"),
        (["EMPTY"], 1, "no files to caption"),
        ([], 2, "give files or folders to caption"),
        (["CLIPS", "--segments", "2", "--scenes"], 2, "--segments and --scenes exclude each other"),
        (["CLIPS", "--shard", "3/2"], 2, "shard 3/2"),
        (["CLIPS", "--workers", "2"], 2, "--workers needs --engine ray"),
        (["CLIPS", "--out", "-", "--format", "srt"], 2, "--out - writes JSONL, not srt"),
        (
            ["CLIPS", "--out", "-", "--overwrite"],
            2,
            "--retry-failed and --overwrite need an output file, not --out -",
        ),
        (
            ["CLIPS", "--out", "-", "--retry-failed"],
            2,
            "--retry-failed and --overwrite need an output file, not --out -",
        ),
        (["CLIPS", "--out", "CLIPS"], 2, "a folder; give the jsonl file to write"),
        (["CLIPS", "--out", "CLIPS/0.mp4"], 1, "line 1 was not written by crosslmm"),
        (["CLIPS", "--prompt", "x", "--prompt-file", "y"], 2, "exclude each other"),
        (["CLIPS", "--prompt-file", "latin.txt"], 2, "latin.txt: the prompt is not UTF-8 text"),
        (["-", "--from", "-"], 2, "stdin holds one list only"),
    ],
)
def test_wrong_usage_and_missing_input_are_reported(
    run: Run, folder: Path, options: tuple[str, ...], arguments: list[str], code: int, message: str
) -> None:
    Path("EMPTY").mkdir()
    Path("latin.txt").write_bytes("What happens in the café?".encode("latin-1"))
    Path("CLIPS").symlink_to(folder, target_is_directory=True)
    before = (folder / "0.mp4").read_bytes()
    finished = run("caption", *arguments, *options)
    assert (finished.code, finished.out) == (code, "")
    assert message in finished.err
    assert (folder / "0.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--segments", "2", "--scenes"], "--segments and --scenes exclude each other"),
        (["--prompt", "{typo}?"], "{typo} is not one of its placeholders"),
        (["--prompt-file", "missing.txt"], "missing.txt: No such file"),
        (["--deadline", "inf"], "--deadline must be a number of seconds above 0"),
        (["--frames", "2", "--fps", "1"], "--frames and --fps exclude each other"),
        (["--format", "srt", "--out", "FILE"], "FILE: a file; srt files go into a folder"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(
    run: Run,
    folder: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr("crosslmm.inference.assistant.load", load)
    monkeypatch.chdir(folder)
    Path("FILE").touch()
    finished = run("caption", folder, "-m", checkpoint, *arguments)
    assert finished.code in (1, 2)
    assert message in finished.err


def test_ctrl_c_finishes_the_current_batch(
    folder: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    for number in range(3, 60):
        write_clip(folder / f"{number}.mp4", frames=4, first_number=9 * number)
    out = tmp_path / "captions.jsonl"
    command = [sys.executable, "-m", "crosslmm_cli", "caption", str(folder), *options]
    command += ["--readers", "1", "--batch-size", "2", "--max-new-tokens", "64"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not (out.exists() and out.stat().st_size) and process.poll() is None:
            time.sleep(0.05)
        before = len(rows(out.read_text("utf-8")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err.decode()
    assert "finishing the current batch" in err.decode()
    assert "the same command captions the rest\n" in err.decode()
    assert "captioned in" in err.decode()
    data = out.read_text("utf-8")
    assert data.endswith("\n")
    # A batch has one or two clips, as many as are read; one more may have begun before the signal came.
    assert max(before, 1) <= len(rows(data)) <= before + 4
    assert hidden(tmp_path) == []


def test_a_second_ctrl_c_in_a_busy_process_leaves_no_lock(folder: Path, tmp_path: Path) -> None:
    # A caption that never comes, in code that no KeyboardInterrupt reaches.
    program = tmp_path / "busy.py"
    program.write_text(
        "import hashlib, sys\n"
        "from crosslmm.captioning.captioner import Captioner\n"
        "Captioner.caption = lambda *_: hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
        "from crosslmm_cli.__main__ import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, str(program), "caption", str(folder), "-m", "demo", "-f", "txt"]
    lock = folder / ".crosslmm-captions-txt.jsonl.lock"
    with subprocess.Popen([*command, "--readers", "0"], stderr=subprocess.PIPE) as process:
        while not lock.exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(8)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(1)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert hidden(tmp_path) == []  # nor a record, since nothing was captioned


def test_warnings_that_differ_in_numbers_are_one_kind() -> None:
    from crosslmm.captioning import CaptionResult
    from crosslmm_cli.caption_report import WarningCounts

    counts = WarningCounts()
    for path, warnings in {
        "a.mp4": ("damaged video: 1 of 8 frames replaced", "end beyond the end"),
        "b.mp4": ("damaged video: 2 of 8 frames replaced",),
        "c.gif": ("c.gif is an animated GIF",),
        "d.gif": ("d.gif is an animated GIF",),
    }.items():
        counts.add(CaptionResult(path=path, warnings=warnings))
    assert counts.lines() == [
        "warning: 2 videos, such as a.mp4: damaged video: 1 of 8 frames replaced",
        "warning: a.mp4: end beyond the end",
        "warning: 2 videos, such as c.gif: c.gif is an animated GIF",
    ]


def test_the_rate_is_of_captioned_videos() -> None:
    from crosslmm.captioning import Summary
    from crosslmm_cli.caption_report import summary_lines

    counts = summary_lines(Summary(total=30, captioned=10, failed=20, seconds=60.0))[0]
    assert "10 captioned in 60 s, 10 per minute" in counts
    copied = summary_lines(Summary(total=2, captioned=2, copies=1, seconds=0.00577))[0]
    assert copied.startswith("2 captioned in 0.01 s")
    assert copied.endswith("1 of them a copy of another file")
    assert "per minute" not in summary_lines(Summary(total=1, failed=1, seconds=60.0))[0]
