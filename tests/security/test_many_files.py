"""Folders of very many files, and texts of very many bytes beside videos: bounded memory and time."""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.captioning import sources
from crosslmm.captioning.outputs.sidecar import SidecarOutput
from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`


def huge(path: Path, size: int = 1 << 30) -> Path:
    """A file of zeros that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_million_files_wait_for_no_hash_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under 1 KiB for each file that is found, on the way too."""
    count = 4000
    names = [f"{number:07}.jpg" for number in range(count)]
    (tmp_path / names[0]).touch()
    monkeypatch.setattr(sources.os, "walk", lambda *_, **__: [(str(tmp_path), [], names)])
    monkeypatch.setattr(sources, "content_identity", lambda path: path[-32:])
    tracemalloc.start()
    try:
        found = sources.identify(list(sources.find([tmp_path])))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == count
    assert peak < count * 1024 + (2 << 20)


def test_a_folder_is_no_question_however_many_files_it_holds(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_listing(*_: object) -> None:
        raise AssertionError("the folder was listed")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(f"os.{name}", no_listing)
    done = run("ask", tmp_path, "what?")
    assert done.code == 1
    assert "this is a folder; give a video file in it" in done.err


@pytest.mark.parametrize("extension", ["srt", "vtt", "txt"])
def test_a_text_of_a_gigabyte_in_place_of_captions(
    tmp_path: Path, clip: Path, checkpoint: Path, run: Run, extension: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is a conflict, and is neither read nor changed."""
    video = tmp_path / "clip.mp4"
    video.write_bytes(clip.read_bytes())
    text = huge(tmp_path / f"clip.{extension}")
    read = SidecarOutput._digest_of
    digests: list[str] = []
    monkeypatch.setattr(
        SidecarOutput,
        "_digest_of",
        lambda self, name: digests.append(read(self, name)) or digests[-1],
    )
    done = run("caption", tmp_path, "-m", checkpoint, "-f", extension, "--frames", 1)
    assert done.code == 3
    assert f"clip.{extension} already exists and was not written by a run" in done.err
    assert set(digests) == {""}
    assert text.stat().st_size == 1 << 30


def test_a_text_of_a_gigabyte_among_the_videos(
    tmp_path: Path, clip: Path, checkpoint: Path, run: Run
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    for name in ("clip.srt", "notes.txt", "captions.ass"):
        with huge(tmp_path / name).open("r+b") as file:
            file.write(b"1\n00:00:00,000 --> 00:00:01,000\nhello\n" * 200)
    began = time.monotonic()
    options = ("--frames", 1, "--readers", 0, "--max-new-tokens", 1)
    done = run("caption", tmp_path, "-m", checkpoint, *options, "-o", tmp_path.parent / "out.jsonl")
    assert done.code == 0, done.err
    assert len((tmp_path.parent / "out.jsonl").read_text().splitlines()) == 1
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["ask", "clip", "-"], "stdin"),
        (["ask", "clip", "what?", "--frames-at", "huge"], "huge"),
        (["caption", "clip", "--prompt-file", "huge"], "the prompt is longer than 1,048,576 bytes"),
        (["caption", "--from", "huge"], "huge: longer than 268,435,456 bytes"),
        (["caption", "huge", "-o", "x.jsonl"], None),
        (["ask", "huge", "what?"], None),
        (["train", "-c", "huge", "--data", "x", "-o", "y"], None),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_texts_of_a_gigabyte_are_refused_in_words(
    tmp_path: Path, clip: Path, run: Run, options: list[str], words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    huge(tmp_path / "huge")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "huge").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        began = time.monotonic()
        done = run(*[str(clip) if option == "clip" else option for option in options])
    assert done.code in (1, 2, 3)
    assert "internal error" not in done.err
    if words is not None:
        assert words in done.err
    assert time.monotonic() - began < 20
