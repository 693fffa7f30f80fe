"""The command line keeps what it encodes, says so, and lets it be seen, left out and deleted."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.inference import feature_cache
from crosslmm_cli.amounts import size_text
from tests.conftest import Finished

Run = Callable[..., Finished]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, in which everything is kept."""
    monkeypatch.setenv("CROSSLMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "LEAST_SECONDS", 0.0)
    return tmp_path / "cache"


def test_a_second_question_neither_decodes_nor_encodes(
    run: Run, folder: Path, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("ask", clip, "what?", "--model", checkpoint, "-n", 3, "--max-new-tokens", 3)
    ask = (*ask, "--device", "cpu")
    first = run(*ask)
    assert "one per 1 s" in first.err
    assert "from the cache" not in first.err

    def never(*_: object) -> None:
        raise AssertionError("decodes again")

    with monkeypatch.context() as patch:
        patch.setattr("crosslmm.video.stream.FrameStream.start", never)
        second = run(*ask)
        assert "one per 1 s, from the cache\n" in second.err
        assert second.out == first.out
        record = json.loads(run(*ask, "--json").out)
        assert record["from_cache"] is True
        assert record["timing"]["decode"] == 0
        monkeypatch.setattr("sys.stdin", io.StringIO("what?\n"))
        chat = run("chat", *ask[1:2], *ask[3:])
        assert "from the cache" in chat.err
    assert json.loads(run(*ask, "--no-cache", "--json").out)["from_cache"] is False
    listed = run("cache", "info")
    assert listed.out.split("\n")[0].split() == ["video", "frames", "size", "last", "used"]
    assert listed.out.split("\n")[1].split()[:2] == ["clip.mp4", "3"]
    size = size_text(next(folder.glob("features/*.safetensors")).stat().st_size)
    assert listed.err == f"1 entry, {size}, in {folder / 'features'}\n"
    shown = json.loads(run("cache", "info", "--json").out)
    assert [entry["video"] for entry in shown["entries"]] == ["clip.mp4"]
    assert run("cache", "clear").err == f"deleted 1 entry, {size}\n"
    assert run("cache", "info").err.startswith("0 entries, 0 B, in ")


def test_without_the_cache_nothing_is_written(
    run: Run, folder: Path, clip: Path, checkpoint: Path
) -> None:
    ask = ("ask", clip, "what?", "--model", checkpoint, "-n", 2, "--max-new-tokens", 2)
    assert run(*ask, "--no-cache").code == 0
    assert run("cache", "info").code == run("cache", "clear").code == 0
    assert not folder.exists()
    assert "of --cache-size\n" in run(*ask, "--cache-size", "1kB").err
    assert run("cache", "info").err.startswith("0 entries")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--cache-size", "1GB", "--no-cache"), "--cache-size and --no-cache exclude each other"),
        (("--cache-size", "10"), "did you mean 10GB?"),
        (("--cache-size", "0GB"), "--cache-size must be at least 1 byte"),
    ],
)
def test_sizes_that_mean_nothing(
    run: Run, folder: Path, clip: Path, checkpoint: Path, flags: tuple[str, ...], said: str
) -> None:
    finished = run("ask", clip, "what?", "--model", checkpoint, *flags)
    assert finished.code == 2
    assert said in finished.err


def test_another_file_under_the_same_name(
    run: Run, folder: Path, clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from tests.support.clips import write_clip

    video = tmp_path / "video.mp4"
    ask = ("ask", video, "what?", "--model", checkpoint, "-n", 2, "--max-new-tokens", 2, "--json")
    shutil.copy(clip, video)
    assert json.loads(run(*ask).out)["from_cache"] is False
    write_clip(video, frames=20, fps=10, first_number=900)
    assert json.loads(run(*ask).out)["from_cache"] is False
    assert len(list(folder.glob("features/*.safetensors"))) == 2
