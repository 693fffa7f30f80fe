"""Files that take the place of others."""

import contextlib
import os
import re
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm.files import (
    atomic_file,
    atomic_folder,
    atomic_write,
    check_writable,
    gigabytes,
    open_regular,
    remove_file,
    remove_folder,
    remove_scratch,
)


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".tsv")  # no room for a longer name
    atomic_write(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    atomic_write(path, b"old")
    for error in (OSError("no room left"), FileNotFoundError("gone")):
        with contextlib.suppress(OSError), atomic_file(path) as file:
            file.write(b"ha")
            raise error
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_block_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"), atomic_file(tmp_path / "a"):
        raise FileNotFoundError("gone")


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new", b"")
    (tmp_path / "other").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_cannot_be_written_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "answers.jsonl")
    for path, reason in ((tmp_path, "a folder"), (tmp_path / "a" / "b.png", "no folder")):
        with pytest.raises(UsageError, match=f"{re.escape(str(path))}.*{reason}"):
            check_writable(path)
    for path in (Path("/dev/full"), Path("/dev/null")):
        with pytest.raises(UsageError, match="not a regular file"):
            check_writable(path)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageError, match="may not be written to"):
        check_writable(tmp_path / "answers.jsonl")


@pytest.mark.parametrize("dir_fd", [True, False])
@pytest.mark.parametrize("target", ["real/settings.json", "nowhere.json"])
def test_a_link_is_not_written_through(
    tmp_path: Path, target: str, dir_fd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dir_fd:  # as on Windows
        monkeypatch.setattr("crosslmm.files._HAS_DIR_FD", False)
        monkeypatch.setattr("crosslmm.files._NOFOLLOW", 0)
    real, link = tmp_path / "real" / "settings.json", tmp_path / "settings.json"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(tmp_path / target)
    with pytest.raises(OSError, match="a link, and links are not followed"):
        atomic_write(link, b"new")
    for mode in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_APPEND):
        with pytest.raises(OSError, match="a link, and links are not followed"):
            open_regular(link, mode)
    with pytest.raises(UsageError, match="a link, and links are not followed"):
        check_writable(link)
    assert link.is_symlink()
    assert real.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [real.parent, link]


@pytest.mark.parametrize("dir_fd", [True, False])
def test_no_folder_below_the_root_may_be_a_link(
    tmp_path: Path, dir_fd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dir_fd:
        monkeypatch.setattr("crosslmm.files._HAS_DIR_FD", False)
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "b.txt").write_text("mine")
    (root / "link").symlink_to(outside)
    for act in (lambda path: atomic_write(path, b"new", root=root),
                lambda path: remove_file(path, root=root)):  # fmt: skip
        with pytest.raises(OSError, match=r"a link.*root/link"):
            act(root / "link" / "b.txt")
        with pytest.raises((OSError, ValueError), match=r"not (below|in)"):
            act(root / ".." / "outside" / "b.txt")
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("b.txt", "mine")]
    # The root itself was named by the user, and may be one.
    (tmp_path / "named").symlink_to(root)
    atomic_write(tmp_path / "named" / "deep" / "a.txt", b"new", root=tmp_path / "named")
    assert (root / "deep" / "a.txt").read_text() == "new"
    remove_file(root / "deep" / "a.txt", root=root)
    remove_file(root / "deep" / "a.txt", root=root)
    remove_file(root / "never" / "a.txt", root=root)
    assert [path.name for path in root.iterdir() if not path.is_symlink()] == ["deep"]


def test_pipes_and_files_with_a_second_name_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe", os.O_RDWR)
    (tmp_path / "file").write_text("mine")
    os.link(tmp_path / "file", tmp_path / "second")
    with pytest.raises(OSError, match="has a second name"):
        open_regular(tmp_path / "second", os.O_RDWR, own=True)
    open_regular(tmp_path / "second", os.O_RDWR).close()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    writing = atomic_file(tmp_path / "a.txt")
    writing.__enter__().write(b"half")  # type: ignore[attr-defined]
    (left,) = tmp_path.iterdir()
    (tmp_path / ".crosslmm-notes.new").touch()
    remove_scratch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".crosslmm-notes.new"]
    assert not left.exists()
    remove_scratch(tmp_path / "nowhere")


def test_a_folder_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "models" / "new"
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_bytes(b"new")
        assert not path.exists()
        assert folder.parent == path.parent  # on the same disk
    assert (path / "inner" / "a").read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "other").mkdir()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("replace", [False, True])
def test_an_error_on_the_way_leaves_the_folder_as_it_was(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "model"
    if replace:
        path.mkdir()
        (path / "weights").write_bytes(b"old")

    def fill() -> None:
        with atomic_folder(path, replace=replace) as folder:
            (folder / "weights").write_bytes(b"ha")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert [item.name for item in tmp_path.rglob("*")] == ["model", "weights"] * replace


def test_a_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    with atomic_folder(path) as folder:  # empty, as `mkdir` leaves it
        (folder / "old").touch()
    with pytest.raises(OSError, match="not empty"), atomic_folder(path):
        pytest.fail("nothing should be written")
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "late"):
        (tmp_path / "late" / "someone else's").mkdir(parents=True)
    with atomic_folder(path, replace=True) as folder:
        (folder / "new").touch()
    assert [item.name for item in path.iterdir()] == ["new"]
    assert {item.name for item in tmp_path.iterdir()} == {"model", "late"}


def test_no_folder_replaces_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    before = {*tmp_path.rglob("*")}
    for name in ("link", "dangling", "file"):
        for replace in (False, True):
            with pytest.raises(OSError), atomic_folder(tmp_path / name, replace=replace):  # noqa: PT011
                pytest.fail("nothing should be written")
    with pytest.raises(OSError, match="links are not followed"), atomic_folder(tmp_path / "late"):
        (tmp_path / "late").symlink_to(tmp_path / "target")
    (tmp_path / "late").unlink()
    assert {*tmp_path.rglob("*")} == before


def test_a_folder_is_removed_and_a_links_target_stays(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    remove_folder(tmp_path / "link")
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").exists()
    remove_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_takes_a_folder_s_place_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "mine").touch()
    (tmp_path / "model").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)  # as it was a moment ago
    with pytest.raises(OSError, match="symbolic link"):
        remove_folder(tmp_path / "model")
    assert (tmp_path / "victim" / "mine").exists()


def test_sizes_for_a_reader() -> None:
    assert gigabytes(1.66e9) == "1.7 GB"
