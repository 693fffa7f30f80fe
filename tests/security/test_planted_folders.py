"""A folder that somebody else made: links, records and locks planted under the names that we write.

Each test is an attack that once worked. `victim` stands for any file of the user's outside of it.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import crosslmm
from crosslmm.captioning.lock import Lock
from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.outputs.sidecar import SidecarOutput
from crosslmm.captioning.sources import Source
from crosslmm.errors import CrossLMMError, UsageError
from tests.support.given_folder import OUTPUTS, attempt, record, untouched
from tests.support.parrot import captioned, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")

LINK = "a link, and links are not followed"


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize(
    ("format", "name"), [(format, name) for format, names in OUTPUTS.items() for name in names]
)
def test_no_link_under_the_name_of_an_output_is_written_through(
    folder: Path, victim: Path, format: str, name: str, dangling: bool
) -> None:
    if format in ("parquet", "webdataset"):
        pytest.importorskip("pyarrow")
    link = folder / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim.with_name("new.txt") if dangling else victim)
    for overwrite in (False, True):
        attempt(folder, format=format, overwrite=overwrite)
        attempt(folder, format=format, overwrite=overwrite, prompt="B")
        assert untouched(victim)


def test_a_link_in_place_of_the_lock_or_the_output_is_named(folder: Path, victim: Path) -> None:
    (folder / ".captions.jsonl.lock").symlink_to(victim)
    (said,) = attempt(folder, format="jsonl")
    assert said.startswith(f"{folder}/.captions.jsonl.lock: this file cannot be used as a lock")
    assert LINK in said
    (folder / ".captions.jsonl.lock").unlink()
    (folder / "captions.jsonl").symlink_to(victim)
    assert attempt(folder, format="jsonl") == [
        f"{folder}/captions.jsonl: {LINK}; give the file itself"
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("../home/victim.txt", "{victim}", "sub/../../home/victim.txt", "../home/new.txt"),
        *("sub/../b.mp4", "movie.mp4", "a\0.txt", "link/victim.txt"),
    ],
)
@pytest.mark.parametrize("below", [False, True])
def test_a_recorded_name_outside_of_the_folder_is_not_believed(
    folder: Path, victim: Path, name: str, below: bool
) -> None:
    name = name.format(victim=victim)
    (folder / "link").symlink_to(victim.parent)
    digest = hashlib.blake2b(b"mine", digest_size=8).hexdigest()
    planted = folder / ("sub" if below else "") / ".crosslmm-captions-txt.jsonl"
    planted.write_bytes(
        record(str(folder / "a.mp4"), sidecar=[name, digest])
        + record(str(folder / "sub" / "b.mp4"), sidecar=[name, digest])
    )
    for options in ({}, {"overwrite": True}, {"retry_failed": True, "prompt": "B"}):
        said = attempt(folder, **options)
        if below:  # it is not even read
            assert said == []
        else:
            assert any("not to be trusted" in text or LINK in text for text in said)
        assert untouched(victim)
        assert (folder / "a.mp4").read_text("utf-8") == "a.mp4"


def test_no_sidecar_goes_through_a_folder_that_is_a_link(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "films", "c.mp4")
    (tmp_path / "films" / "c.txt").write_text("mine", "utf-8")
    (folder / "films").symlink_to(tmp_path / "films")
    for overwrite in (False, True):
        assert attempt(folder, overwrite=overwrite) == []  # it is not searched
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == ["c.mp4", "c.txt"]
    assert (tmp_path / "films" / "c.txt").read_text("utf-8") == "mine"
    # Named by the user, it is as good as any.
    assert attempt(folder / "films", overwrite=True) == []
    assert (tmp_path / "films" / "c.txt").read_text("utf-8") == "A c.mp4\n"


def test_records_above_the_named_folder_are_not_read(folder: Path, victim: Path) -> None:
    planted = folder / ".crosslmm-captions-txt.jsonl"
    planted.write_bytes(record(str(folder / "sub" / "b.mp4"), sidecar=["../home/victim.txt", "x"]))
    assert attempt(folder / "sub") == []
    assert (folder / "sub" / "b.txt").read_text("utf-8") == "A b.mp4\n"
    assert untouched(victim)


def test_records_below_the_named_folder_are_not_read(folder: Path, victim: Path) -> None:
    mine = folder / "sub" / "b.txt"
    mine.write_text("mine", "utf-8")
    planted = folder / "sub" / ".crosslmm-captions-txt.jsonl"
    digest = hashlib.blake2b(b"mine", digest_size=8).hexdigest()
    data = record(str(folder / "sub" / "b.mp4"), sidecar=["b.txt", digest]) + b"not a record\n"
    planted.write_bytes(data)
    (said,) = attempt(folder)
    assert said.startswith(
        f"{folder}/sub/b.mp4: b.txt already exists and was not written by a run on"
    )
    assert mine.read_text("utf-8") == "mine"
    assert planted.read_bytes() == data


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners there")
@pytest.mark.parametrize(
    "name", [".crosslmm-captions-txt.jsonl", ".crosslmm-captions-txt.jsonl.lock"]
)
def test_records_and_locks_of_another_user_are_refused(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / name).write_bytes(b"" if name.endswith("lock") else record(str(folder / "a.mp4")))
    real, uid = os.fstat, os.geteuid()

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        theirs = os.path.samestat(status, os.stat(folder / name))
        return os.stat_result([*status[:4], uid + theirs, *status[5:10]])

    monkeypatch.setattr("os.fstat", fstat)
    (said,) = attempt(folder)
    assert said.startswith(f"{folder}/{name}: ")
    assert "belongs to another user" in said


def test_a_lock_with_a_second_name_is_not_written_to(folder: Path, victim: Path) -> None:
    os.link(victim, folder / ".captions.jsonl.lock")
    with pytest.raises(CrossLMMError, match="second name"):
        Lock(folder / ".captions.jsonl.lock", output="x").acquire()
    assert victim.read_text("utf-8") == "mine"


def test_a_lock_is_gone_after_its_run(folder: Path) -> None:
    run(folder, format="jsonl")
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "captions.jsonl", "sub"]


@pytest.mark.parametrize(
    "make_output",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/full"),
        lambda path: path.symlink_to("/dev/zero"),
    ],
)
def test_an_output_is_a_regular_file_or_a_new_one(
    folder: Path, make_output: Callable[[Path], None]
) -> None:
    make_output(folder / "out.jsonl")
    for path in (folder / "out.jsonl", Path("/dev/full"), Path("/dev/zero")):
        for format in ("jsonl", "parquet"):
            with pytest.raises(UsageError, match=LINK + "|not a regular file"):
                crosslmm.caption([folder], format=format, out=path)  # type: ignore[arg-type]


def test_a_shard_that_is_a_pipe_or_compressed_is_not_read(folder: Path) -> None:
    out = folder / "captions"
    out.mkdir()
    (out / ".crosslmm-captions.jsonl").write_bytes(record(str(folder / "a.mp4")))
    os.mkfifo(out / "captions-000000.tar")
    (said,) = attempt(folder, format="webdataset")
    assert "captions-000000.tar: this shard cannot be read" in said
    (out / "captions-000000.tar").unlink()
    with tarfile.open(out / "captions-000000.tar", "w:gz") as tar:
        tar.add(folder / "a.mp4", "a.mp4")
    (said,) = attempt(folder, format="webdataset")
    assert "captions-000000.tar: this shard cannot be read" in said


@pytest.mark.parametrize("dangling", [False, True])
def test_a_default_folder_that_is_a_link_is_refused(
    folder: Path, tmp_path: Path, dangling: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if not dangling:
        elsewhere.mkdir()
    (folder / "captions").symlink_to(elsewhere)
    (said,) = attempt(folder, format="webdataset")
    assert said.startswith(f"{folder}/captions: a link; give `out`")
    assert dangling or list(elsewhere.iterdir()) == []


def test_a_link_that_the_user_names_is_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "captions").symlink_to(tmp_path / "elsewhere")
    assert attempt(folder, format="webdataset", out="captions") == []
    assert (tmp_path / "elsewhere" / "captions-000000.tar").is_file()


def test_an_output_with_a_second_name_is_not_written_to(folder: Path, victim: Path) -> None:
    for name in ("captions.jsonl", "captions.superseded.jsonl"):
        assert attempt(folder, format="jsonl") == []
        if name == "captions.jsonl":
            (folder / name).unlink()
        victim.write_bytes(b"")
        os.link(victim, folder / name)
        (said,) = attempt(folder, "B", format="jsonl")
        assert said.startswith(
            f"{folder}/{name}: cannot be written to (has a second name elsewhere)"
        )
        assert victim.read_bytes() == b""
        (folder / name).unlink()


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "put",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path.with_name("a.mp4")),
    ],
)
def test_the_file_of_superseded_captions_is_checked_at_the_start(
    folder: Path, put: Callable[[Path], None]
) -> None:
    assert attempt(folder, format="jsonl", out="out.jsonl") == []
    before = (folder / "out.jsonl").read_bytes()
    put(folder / "out.superseded.jsonl")
    captioned.clear()
    (said,) = attempt(folder, "B", format="jsonl", out="out.jsonl")
    assert said.startswith(f"{folder}/out.superseded.jsonl: cannot be written to (")
    assert captioned == []
    assert (folder / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("format", list(OUTPUTS))
def test_without_videos_nothing_is_written(folder: Path, tmp_path: Path, format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "empty").mkdir()
    scratch = folder / ".crosslmm-0123456789abcdef.new"
    scratch.touch()
    before = sorted(folder.rglob("*"))
    shard = crosslmm.captioning.Shard(1, 2)
    assert attempt(tmp_path / "empty", format=format, shard=shard) == []
    assert sorted(folder.rglob("*")) == before
    assert list((tmp_path / "empty").iterdir()) == []


def test_no_shard_number_is_longer_than_the_others(folder: Path) -> None:
    out = folder / "captions"
    assert attempt(folder / "a.mp4", format="webdataset") == []
    (out / "captions-000000.tar").rename(out / "captions-999999.tar")
    captioned.clear()
    (said,) = attempt(folder, format="webdataset")
    assert said.startswith(f"{out}/captions-999999.tar: there is no shard number after it")
    assert captioned == []


def test_no_caption_replaces_a_video_that_is_named(folder: Path) -> None:
    make(folder, "m.mp4", "m.txt")
    (folder / "link").symlink_to(folder)
    for other in (folder / "m.txt", folder / "link" / "m.txt"):
        said = attempt([folder / "m.mp4", other], overwrite=True)
        assert f"{folder}/m.mp4: its caption would replace {folder}/m.txt, which" in said[0]
        assert (folder / "m.txt").read_text("utf-8") == "m.txt"
    make(folder, "own.txt")
    (said,) = attempt([folder / "own.txt"], overwrite=True)
    assert "which is given as a video" in said
    assert (folder / "own.txt").read_text("utf-8") == "own.txt"


def test_captions_beside_many_texts_that_are_given_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `caption *` gives them: each was compared with all others, which took hours for 20,000."""
    for number in range(40):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video %d" % number)
        (tmp_path / f"{number}.txt").write_text(f"notes {number}")
    sources = [Source(str(path), str(tmp_path), named=True) for path in sorted(tmp_path.iterdir())]
    output = SidecarOutput(None, "txt", "", sources=sources)
    with (
        output.held() as root,
        Manifest.open(output.manifest_path, own=True, root=root) as manifest,
    ):
        output.begin(sources, manifest, overwrite=False)
        looks: list[object] = []
        stat = os.stat
        monkeypatch.setattr(
            os, "stat", lambda *given, **at: (looks.append(given), stat(*given, **at))[1]
        )
        for number in range(40):
            reason = output.conflict(str(tmp_path / f"{number}.mp4"), overwrite=False)
            assert "which is given as a video" in str(reason)
        assert len(looks) < 5 * 40
