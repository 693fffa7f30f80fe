"""Entries that are damaged or replaced, and places that hold none."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crosslmm.inference import (
    cached_video,
    own_folder,
)
from crosslmm.inference.cached_video import CachedVideo
from crosslmm.merging import TokenBudget
from crosslmm.ragged_tokens import RaggedTokens
from tests.support.feature_cache import FRAMES, MERGED, Home


def damage(entry: Path, kind: str) -> None:
    data = bytearray(entry.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if kind == "truncated":
        del data[-100:]
    elif kind == "longer":
        data += b"\0"
    elif kind == "empty":
        data.clear()
    elif kind == "not a number":
        data[-4:] = b"\0\0\xc0\x7f"
    else:
        place = {"header": 60, "time": data.index(b"frames") + 15, "data": start + 41}[kind]
        data[place] ^= 1
    entry.write_bytes(data)


def test_a_damaged_entry_is_replaced(home: Home, video: Path) -> None:
    home.ask(video)
    [entry] = home.entries()
    good = entry.read_bytes()
    damage(entry, "truncated")
    home.check(video, from_cache=False)
    assert home.notices == []
    home.check(video, from_cache=True)
    home.assistant.runtime.cache = None
    for kind in ("truncated", "longer", "empty", "header", "time", "data", "not a number"):
        entry.write_bytes(good)
        damage(entry, kind)
        assert home.kept(video).read() is None, kind
        assert not entry.exists(), kind


def test_a_flipped_bit_is_noticed_wherever_it_is(home: Home, video: Path) -> None:
    home.ask(video)
    home.assistant.runtime.cache = None
    [entry] = home.entries()
    good = entry.read_bytes()
    assert home.kept(video).read() is not None
    for place in [*range(0, 400, 17), *range(400, len(good), 1999)]:
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        entry.write_bytes(data)
        assert home.kept(video).read() is None, place
        assert not entry.exists(), place
    entry.write_bytes(good)
    entry.chmod(0o600)
    assert home.kept(video).read() is not None


def test_an_entry_under_another_name_is_refused(home: Home, video: Path) -> None:
    home.ask(video)
    home.ask(video, frames=4)
    first, second = home.entries()
    aside = first.rename(home.folder / "aside")
    second.rename(first)
    aside.rename(second)
    home.check(video, from_cache=False)


def test_what_is_not_a_number_is_neither_kept_nor_used(
    home: Home, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ask(video)
    home.assistant.runtime.cache = None
    encoded = home.kept(video).read()
    assert encoded is not None
    with torch.inference_mode():
        encoded.visual.embeds[0, 1, 2, 3] = float("nan")  # type: ignore[union-attr]
    prefix = home.assistant.open_video(video, frames=3).prefix
    home.cache().clear()
    kept = home.kept(video)
    assert kept.read() is None
    encoded = replace(encoded, encode_seconds=1.0)
    kept.write(encoded, prefix, 1.0)
    assert home.entries() == []
    with monkeypatch.context() as patch:
        patch.setattr(cached_video, "is_finite", lambda tensor: True)
        kept.write(encoded, prefix, 1.0)
    assert len(home.entries()) == 1
    assert home.kept(video).read() is None


def test_merged_tokens_stand_for_every_token_once(home: Home, video: Path) -> None:
    """Whatever wrote an entry: a token at a place of no frame, or of a mass of its own, changes answers,
    and one that went into none ends in an error."""
    home.ask(video, **MERGED)
    home.assistant.runtime.cache = None

    def kept() -> CachedVideo:
        budget = TokenBudget(4, **MERGED)
        return CachedVideo(home.assistant.runtime, home.cache(), video, FRAMES, budget)

    encoded = kept().read()
    assert encoded is not None
    visual = encoded.visual
    assert isinstance(visual, RaggedTokens)
    assert visual.member is not None
    prefix = home.assistant.open_video(video, frames=3, **MERGED).prefix
    for changes in (
        {"place": visual.place + 10**6},
        {"place": visual.place.flip(0)},
        {"mass": visual.mass * 0},
        {"mass": -visual.mass},
        {"member": visual.member + 10**15},
        {"member": visual.member - 1},
    ):
        home.cache().clear()
        aside = kept()
        assert aside.read() is None
        changed = replace(encoded, visual=replace(visual, **changes), encode_seconds=1.0)
        aside.write(changed, prefix, 1.0)
        assert len(home.entries()) == 1
        assert kept().read() is None, changes
        assert home.entries() == []


def nearly_full(home: Home, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10**6)
    patch.setattr(shutil, "disk_usage", lambda path: usage)


def full(home: Home, patch: pytest.MonkeyPatch) -> None:
    original = cached_video._write

    def write(file: Any, *rest: Any) -> None:
        original(file, *rest)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(cached_video, "_write", write)


def a_file(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.folder.mkdir()
    home.features.write_text("mine")


def a_link(home: Home, patch: pytest.MonkeyPatch) -> None:
    (home.folder / "elsewhere").mkdir(parents=True)
    home.features.symlink_to(home.folder / "elsewhere")


def open_to_others(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True)
    home.features.chmod(0o777)


def another_users(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True, mode=0o700)
    os.chown(home.features, 12345, -1)


def read_only(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True, mode=0o500)
    patch.setattr("crosslmm.files.os.access", lambda path, mode: not mode & os.W_OK)


def held_by_another(home: Home, patch: pytest.MonkeyPatch) -> None:
    from filelock import lock_descriptor

    home.features.mkdir(parents=True, mode=0o700)
    patch.setattr(own_folder, "_LOCK_SECONDS", 0.1)
    file = home.locks.enter_context((home.features / "lock").open("wb"))
    assert lock_descriptor(file.fileno(), blocking=False)


def planted_lock(home: Home, patch: pytest.MonkeyPatch) -> None:
    home.features.mkdir(parents=True, mode=0o700)
    (home.folder / "victim").write_text("mine")
    (home.features / "lock").symlink_to(home.folder / "victim")


@pytest.mark.parametrize(
    "trouble",
    [
        *(nearly_full, full, a_file, a_link, open_to_others, another_users, read_only),
        *(held_by_another, planted_lock),
    ],
    ids=lambda trouble: trouble.__name__,
)
def test_a_question_is_answered_where_nothing_can_be_kept(
    home: Home, video: Path, trouble: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble is another_users and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    with monkeypatch.context() as patch:
        trouble(home, patch)
        answer = home.ask(video)
        [notice] = home.notices
        assert not answer.from_cache
        assert "could not be kept" in notice
    assert answer.text == home.expected(video)
    left = [path.name for path in home.folder.rglob("*") if path.suffix not in (".known", "")]
    assert left == []
    for mine in ("features", "victim"):
        if (home.folder / mine).is_file():
            assert (home.folder / mine).read_text() == "mine"


def test_links_among_the_entries_are_not_followed(home: Home, video: Path) -> None:
    home.ask(video)
    [entry] = home.entries()
    outside = entry.rename(home.folder / "outside")
    entry.symlink_to(outside)
    before = outside.read_bytes()
    home.check(video, from_cache=False)
    assert outside.read_bytes() == before
    entry.unlink()
    os.link(outside, entry)
    assert home.ask(video).from_cache is False, (
        "a file with a second name is not this cache's alone"
    )
