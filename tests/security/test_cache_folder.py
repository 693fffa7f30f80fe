"""The cache of encoded videos in a folder that others could write to: what is not ours alone is neither
believed nor written through, and no question fails for it."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from crosslmm.files import atomic_file
from crosslmm.inference import feature_cache, file_content
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.options import Sampling
from tests.support.planted import PLANTED, STRANGER, Plant, folder, needs_root

NAME = f"3.{'a' * 32}-{'b' * 32}-{'c' * 32}.safetensors"
SAMPLING = Sampling(frames=2)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """With an entry of ours."""
    cache = FeatureCache(tmp_path / "cache", size=1000, least_seconds=0)
    write(cache, NAME)
    return cache


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("mine")
    return path


def write(cache: FeatureCache, name: str, data: bytes = b"new") -> None:
    cache.write_entry(name, len(data), lambda file: file.write(data) and None)


def read(cache: FeatureCache) -> bytes | None:
    file = cache.open_entry(NAME)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_as_an_entry_is_not_read_and_replaced(
    cache: FeatureCache, victim: Path, plant: Plant
) -> None:
    (cache.folder / NAME).unlink()
    plant(cache.folder / NAME, victim)
    assert read(cache) is None
    assert [entry.video for entry in cache.entries()] == ([] if plant is folder else [""])
    cache.remove_entry(NAME)
    with suppress(OSError):  # a folder, and a link
        write(cache, NAME)
        assert read(cache) == b"new"
    assert victim.read_text() == "mine"
    assert not victim.with_name("created").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_as_the_lock_is_not_written_to(
    cache: FeatureCache, victim: Path, plant: Plant
) -> None:
    (cache.folder / "lock").unlink()
    plant(cache.folder / "lock", victim)
    with pytest.raises(OSError, match=r"lock|link"):
        write(cache, NAME)
    with pytest.raises(OSError, match=r"lock|link"):
        cache.clear()
    assert read(cache) == b"new"
    assert victim.read_text() == "mine"
    assert not victim.with_name("created").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_everything_planted_is_deleted_with_the_rest(
    cache: FeatureCache, victim: Path, plant: Plant
) -> None:
    planted = ("0" + NAME, f"{'d' * 32}-3.{'a' * 32}.known", ".crosslmm-0123456789abcdef.new")
    for name in planted:
        plant(cache.folder / name, victim)
    assert [entry.name for entry in cache.clear()].count(NAME) == 1
    left = [*planted] if plant is folder else []
    assert {path.name for path in cache.folder.iterdir()} == {*left, "lock"}
    assert victim.read_text() == "mine"


def test_a_link_that_takes_the_place_of_an_entry_while_it_is_written(
    cache: FeatureCache, victim: Path
) -> None:
    def swap(file: object) -> None:
        (cache.folder / NAME).unlink()
        (cache.folder / NAME).symlink_to(victim)

    with pytest.raises(OSError, match="link"):
        cache.write_entry(NAME, 3, swap)
    assert victim.read_text() == "mine"
    assert not list(cache.folder.glob("*.new"))


def test_no_scratch_name_can_be_foreseen(cache: FeatureCache) -> None:
    names = set()
    for _ in range(3):
        with atomic_file(cache.folder / NAME):
            names.update(path.name for path in cache.folder.glob(".*"))
    assert len(names) == 3


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_not_used(cache: FeatureCache, mode: int) -> None:
    cache.folder.chmod(mode)
    assert read(cache) is None
    assert cache.entries() == []
    assert not cache.may_hold(__file__, SAMPLING)
    for use in (lambda: write(cache, NAME), cache.clear):
        with pytest.raises(PermissionError, match="others may write to it"):
            use()


@needs_root
def test_a_folder_of_another_user_is_not_used(cache: FeatureCache) -> None:
    os.chown(cache.folder, STRANGER, -1)
    assert read(cache) is None
    assert cache.entries() == []
    with pytest.raises(PermissionError, match="others may write to it"):
        cache.clear()
    assert (cache.folder / NAME).read_bytes() == b"new"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_record_that_is_not_ours_does_not_say_what_a_file_holds(
    cache: FeatureCache, victim: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would give one video the answers about another."""
    monkeypatch.setattr(file_content, "_AT_ONCE", 0)
    monkeypatch.setattr(file_content, "_SETTLED", -1)
    video = tmp_path / "video"
    video.write_bytes(b"video")
    content = cache.claim(str(video))
    assert content is not None
    true = content.wait()
    [record] = cache.folder.glob("*.known")
    monkeypatch.setattr(feature_cache.FileContent, "start", lambda self: None)
    assert cache.claim(str(video)).hash == true  # type: ignore[union-attr]
    record.unlink()
    plant(record.with_name(record.name.replace(true or "", "e" * 32)), victim)
    assert cache.claim(str(video)).hash is None  # type: ignore[union-attr]


def test_an_entry_larger_than_the_cache_is_not_read(cache: FeatureCache) -> None:
    with (cache.folder / NAME).open("wb") as file:
        file.truncate(1 << 40)
    assert read(cache) is None


def test_many_descriptions_are_not_waited_for(cache: FeatureCache) -> None:
    """A header that claims to be long, in a file of which most is a hole."""
    with (cache.folder / NAME).open("wb") as file:
        file.write((60 << 20).to_bytes(8, "little"))
        file.truncate(1 << 30)
    found = []
    thread = threading.Thread(target=lambda: found.extend(cache.entries()), daemon=True)
    thread.start()
    thread.join(20)
    assert [entry.video for entry in found] == [""]
