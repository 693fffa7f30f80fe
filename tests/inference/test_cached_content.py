"""A cached video is used only where the file is the one that was encoded."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from crosslmm.inference import (
    file_content,
    opening,
)
from crosslmm.inference.encoding import EncodedVideo
from tests.support.clips import write_clip
from tests.support.feature_cache import FRAMES, Home


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed; every file counts as large and as unchanged for long."""
    files = []
    original = file_content.complete_hash

    def complete_hash(file: Any) -> str:
        files.append(Path(file.name).name if isinstance(file.name, str) else "a file")
        return original(file)

    monkeypatch.setattr(file_content, "complete_hash", complete_hash)
    monkeypatch.setattr(file_content, "_AT_ONCE", 0)
    monkeypatch.setattr(file_content, "_SETTLED", -1)
    return files


def test_a_changed_file_is_noticed_by_whatever_date_it_has(
    home: Home, tmp_path: Path, hashed: list[str]
) -> None:
    video, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    write_clip(video, frames=12)
    write_clip(other, frames=12, first_number=500)
    size = max(path.stat().st_size for path in (video, other))
    for path in (video, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    home.ask(video)
    home.check(video, from_cache=True)
    before = video.stat()
    with video.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = video.stat()
    for name in ("st_ino", "st_size", "st_mtime_ns"):
        assert getattr(before, name) == getattr(after, name)
    home.check(video, from_cache=False)
    os.replace(other, video)  # the same content in another file
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    home.check(video, from_cache=True)


def test_a_large_file_is_hashed_once(home: Home, video: Path, hashed: list[str]) -> None:
    for _ in range(3):
        home.ask(video)
    assert len(hashed) == 1
    os.utime(video, (1, 1))
    home.check(video, from_cache=True)
    assert len(hashed) == 2, "touched: looked at again, and found to be the same"
    moved = video.rename(video.with_name("moved.mp4"))
    home.check(moved, from_cache=True)


def test_a_file_that_has_just_changed_is_hashed_each_time(
    home: Home, video: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_content, "_SETTLED", 3600 * 10**9)
    for expected in (False, True, True):
        assert home.ask(video).from_cache is expected
    assert len(hashed) == 3
    assert not list(home.features.glob("*.known"))


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = opening.encode_video

    def encode(*arguments: Any, **options: Any) -> EncodedVideo:
        encoded = original(*arguments, **options)
        with video.open("ab") as file:
            file.write(b"\0")
        return encoded

    monkeypatch.setattr(opening, "encode_video", encode)
    home.ask(video)
    assert home.entries() == []


def test_a_file_that_changes_before_it_is_opened_is_not_kept(home: Home, video: Path) -> None:
    cache = home.assistant.runtime.cache = home.cache()
    assert cache.may_hold(str(video), FRAMES) is False  # a stream is started now
    with video.open("ab") as file:
        file.write(b"\0")
    home.assistant.open_video(video, frames=3)
    assert home.entries() == []
    home.assistant.open_video(video, frames=3)
    assert len(home.entries()) == 1


def test_a_file_that_takes_longer_to_hash_than_to_encode_is_not_waited_for(
    home: Home, video: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = file_content.complete_hash

    def slow(file: Any) -> str:
        time.sleep(0.5)
        return original(file)

    monkeypatch.setattr(file_content, "complete_hash", slow)
    began = time.monotonic()
    content = home.cache().claim(str(video))
    assert content is not None
    assert content.wait(0.01) is None
    assert time.monotonic() - began < 0.5
    assert content.wait() is not None
    assert home.ask(video).from_cache is False
    assert len(home.entries()) == 1, "known by now"
