"""Which files are found, and into which shard each goes."""

import os
from pathlib import Path

import pytest

from crosslmm.captioning.sources import Shard, Source, find, looks_like_video
from crosslmm.errors import UsageError


def names(found: object) -> list[str]:
    return [source.relative.replace(os.sep, "/") for source in found]  # type: ignore[attr-defined]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b.mp4", "a.MKV", "sub/c.mp4", "sub/deep/d.txt", ".hidden.mp4", ".git/e.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_folders_are_searched_in_order_without_hidden_files(tree: Path) -> None:
    assert names(find([tree])) == ["a.MKV", "b.mp4", "sub/c.mp4", "sub/deep/d.txt"]


def test_a_named_file_is_taken_even_when_hidden_or_missing(tree: Path) -> None:
    found = list(find([tree / ".hidden.mp4", tree / "missing.mp4"], include=["*.mkv"]))
    assert [source.named for source in found] == [True, True]


def test_globs_without_a_slash_match_names_and_with_one_the_path_below(tree: Path) -> None:
    assert names(find([tree], include=["*.mp4"])) == ["b.mp4", "sub/c.mp4"]
    assert names(find([tree], include=["sub/*"])) == ["sub/c.mp4", "sub/deep/d.txt"]
    assert names(find([tree], exclude=["deep", "b.*"])) == ["a.MKV", "sub/c.mp4"]
    assert names(find([tree], exclude=["sub/deep/*"])) == ["a.MKV", "b.mp4", "sub/c.mp4"]
    assert names(find([tree], exclude=["deep/", "b.*"])) == ["a.MKV", "sub/c.mp4"]


def test_loops_of_links_end_and_the_same_file_comes_once(tree: Path) -> None:
    (tree / "sub" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "sub" / "link.mp4").symlink_to(tree / "b.mp4")
    os.link(tree / "b.mp4", tree / "z.mp4")
    expected = ["a.MKV", "b.mp4", "sub/c.mp4", "sub/deep/d.txt"]
    assert names(find([tree])) == expected
    assert names(find([tree, tree / "sub", tree / "b.mp4"])) == expected


def test_a_folder_that_cannot_be_searched_is_reported(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    reported: list[OSError] = []
    assert names(find([tree], on_unreadable=reported.append)) == ["a.MKV", "b.mp4"]
    assert [error.filename for error in reported] == [str(tree / "sub")]


def test_a_dangling_link_is_found_so_that_it_can_be_reported(tree: Path) -> None:
    (tree / "gone.mp4").symlink_to(tree / "nowhere.mp4")
    assert "gone.mp4" in names(find([tree]))


def test_shards_part_the_files_by_name_alone() -> None:
    def at(root: str) -> list[Source]:
        return [Source(f"{root}/{n}.mp4", root, named=False) for n in range(200)]

    parts = [[s for s in at("/x") if Shard(index, 4).holds(s)] for index in range(1, 5)]
    assert sorted(source.path for part in parts for source in part) == sorted(
        source.path for source in at("/x")
    )
    assert all(len(part) > 25 for part in parts)
    elsewhere = [s.relative for s in at("/mnt/y") if Shard(2, 4).holds(s)]
    assert elsewhere == [source.relative for source in parts[1]]


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b", "1/0", "-1/4", "1/4/2"])
def test_what_is_not_a_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.mp4", b"text", True),
        ("a", b"\0\0\0\x20ftypisom", True),
        ("a.dat", b"\x1aE\xdf\xa3 matroska", True),
        ("a.bin", b"RIFF\0\0\0\0AVI LIST", True),
        ("a.wav", b"RIFF\0\0\0\0WAVEfmt ", False),
        ("notes.md", b"# notes", False),
        ("empty", b"", False),
    ],
)
def test_what_looks_like_a_video(tmp_path: Path, name: str, content: bytes, expected: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert looks_like_video(str(tmp_path / name)) is expected
