"""Links to folders in a folder that somebody else made: a search stays in the folder that was named."""

import os
from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning.sources import find
from crosslmm.errors import UsageError
from crosslmm.training.answers import AnsweredVideos
from tests.support.parrot import begin, make, parrot  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Given by somebody, with links to all that there is, to itself and to the user's own videos."""
    make(tmp_path, "given/a.mp4", "given/sub/b.mp4", "home/private.mp4")
    (tmp_path / "given" / "everything").symlink_to("/", target_is_directory=True)
    (tmp_path / "given" / "sub" / "loop").symlink_to("..", target_is_directory=True)
    (tmp_path / "given" / "yours").symlink_to(tmp_path / "home", target_is_directory=True)
    return tmp_path / "given"


def test_links_to_folders_are_told_and_not_followed(folder: Path) -> None:
    notices: list[str] = []
    captions = begin(folder, on_notice=notices.append)
    assert [Path(result.path).name for result in captions] == ["a.mp4", "b.mp4"]
    assert notices[0] == (
        f"3 links to folders, such as {folder}/everything, are not followed; name them to include "
        "them"
    )
    linked = [folder / "everything", folder / "yours", folder / "sub" / "loop"]
    assert captions.summary.as_dict()["linked_folders"] == [str(path) for path in linked]


def test_one_that_is_named_is_searched(folder: Path) -> None:
    given = [folder, folder / "yours", folder / "sub" / "loop"]
    found = [os.path.relpath(source.path, folder) for source in find(given)]
    assert found == ["a.mp4", "sub/b.mp4", "yours/private.mp4"]


def test_hidden_and_excluded_ones_are_not_told(folder: Path) -> None:
    (folder / ".cache").symlink_to("/", target_is_directory=True)
    linked: list[str] = []
    list(find([folder], exclude=["everything", "sub"], on_linked=linked.append))
    assert linked == [str(folder / "yours")]


def test_without_a_video_of_its_own(folder: Path, checkpoint: Path, run: Any) -> None:
    os.remove(folder / "a.mp4")
    os.remove(folder / "sub" / "b.mp4")
    finished = run("caption", folder, "-m", checkpoint)
    assert "3 links to folders" in finished.err
    assert "no files to caption" in finished.err


def test_distilling_leaves_them_out_too(folder: Path) -> None:
    samples = AnsweredVideos(folder, ["What happens?"], per_video=1, seed=0)
    assert [item.video.name for item in samples.items] == ["a.mp4", "b.mp4"]
    assert samples.notes[0].startswith("3 links to folders")
    os.remove(folder / "a.mp4")
    os.remove(folder / "sub" / "b.mp4")
    with pytest.raises(UsageError, match="holds no video; 3 links to folders"):
        AnsweredVideos(folder, ["What happens?"], per_video=1, seed=0)
