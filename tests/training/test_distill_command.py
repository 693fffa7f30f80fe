"""`crosslmm train distill`, from videos to a model that is asked."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class TestCommand:
    def test_from_videos_to_a_model(
        self, run: Callable[..., Any], llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        options = ("--set", "steps=2", "--set", "batch_size=1", "--set", "frames=2")
        options += ("--set", "workers=0", "--set", "distill.answer_tokens=4")
        given = Path(shutil.copytree(videos, tmp_path / "given"))
        (given / "all").symlink_to("/", target_is_directory=True)
        common = ("--teacher", llava, "--videos", given, "--out", tmp_path / "run", *options)
        shown = run("train", "distill", *common, "--dry-run")
        assert (shown.code, shown.out) == (0, "")
        assert f"{given}/all: a link to a folder, which is not followed" in shown.err
        assert "T2V" in shown.err
        assert not (tmp_path / "run").exists()
        done = run("train", "distill", *common)
        assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'model'}\n")
        assert "step 2 of 2, loss" in done.err
        shown = run("models", "show", tmp_path / "run" / "model")
        assert re.search(r"^tokens per frame +9$", shown.out, re.MULTILINE)
        profiled = json.loads(run("profile", "--model", tmp_path / "run" / "model", "--json").out)
        assert profiled["rows"][0]["tokens_per_frame"] == 9
        inside = tmp_path / "run" / "model"
        finished = run("ask", videos / "red.mp4", "who?", "--model", tmp_path / "run")
        assert f"(the folder has no config.json); {inside} holds one" in finished.err

    def test_a_merged_student_is_asked_as_it_was_trained(
        self, run: Callable[..., Any], llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        options = ("steps=1", "batch_size=1", "frames=2", "workers=0", "distill.answer_tokens=4")
        changes = [word for each in (*options, "distill.merge=folder") for word in ("--set", each)]
        common = ("--teacher", llava, "--videos", videos, "--out", tmp_path / "run", *changes)
        done = run("train", "distill", *common)
        assert "ask it with --merge folder and --tokens-per-frame" in done.err
        assert "step 1 of 1, loss" in done.err

    def test_records_are_no_videos(
        self, run: Callable[..., Any], llava: Path, lessons: Path, tmp_path: Path
    ) -> None:
        common = ("--teacher", llava, "--videos", lessons, "--out", tmp_path / "run")
        finished = run("train", "distill", *common, "--dry-run")
        assert (finished.code, finished.err) == (2, f"crosslmm: {lessons}: holds no video\n")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("distill",), "needs --teacher"),
            (("align-2b", "--teacher", "x", "--videos", "y"), "are for the distill stage"),
            (("distill", "--teacher", "x", "--videos", "y", "--data", "z"), "takes videos"),
        ],
    )
    def test_wrong_use(
        self, run: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], words: str
    ) -> None:
        finished = run("train", *arguments, "--out", tmp_path / "run")
        assert finished.code == 2
        assert words in finished.err
