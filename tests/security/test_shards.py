"""WebDataset shards: what gets into them, and shards that somebody else made."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.captioning.outputs.webdataset import WebDatasetOutput
from crosslmm.errors import CrossLMMError
from tests.support.parrot import Parrot, begin, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(tmp_path / "given", "a.mp4", "b.mp4")
    monkeypatch.chdir(tmp_path / "given")
    return tmp_path / "given"


def names(out: Path) -> list[str]:
    """The videos in the shards."""
    found = []
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found += [name.partition("-")[0] for name in tar.getnames() if name.endswith(".mp4")]
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert b"mine" not in file.read()
    return found


def errors(out: Path) -> dict[str, str]:
    rows = map(json.loads, (out / ".crosslmm-captions.jsonl").read_text("utf-8").splitlines())
    return {Path(row["path"]).name: row["error"] for row in rows if row["error"]}


def put_link(path: Path) -> None:
    victim = path.parents[1] / "victim"
    victim.write_text("mine", "utf-8")
    path.symlink_to(victim)


REPLACED = {
    "link": put_link,
    "other": lambda path: path.write_text("mine", "utf-8"),
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("put", REPLACED.values(), ids=REPLACED)
def test_a_video_that_was_replaced_does_not_get_into_a_shard(
    folder: Path, put: Callable[[Path], None]
) -> None:
    out = folder / "captions"
    for result in begin(folder, format="webdataset"):
        if result.path.endswith("a.mp4") and not result.error:
            (folder / "a.mp4").unlink()
            put(folder / "a.mp4")
    assert names(out) == ["b"]
    said = errors(out)["a.mp4"]
    assert said.endswith(("changed before its shard was written", "(Is a directory)"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("put", REPLACED.values(), ids=REPLACED)
def test_nor_does_it_after_a_run_that_was_killed(folder: Path, put: Callable[[Path], None]) -> None:
    out = folder / "captions"
    killed = begin([folder / "a.mp4", folder / "b.mp4"], format="webdataset")
    next(killed)
    next(killed)
    killed.close()
    (folder / "a.mp4").unlink()
    put(folder / "a.mp4")
    captioned, _ = run(
        [folder / "b.mp4", folder / "a.mp4"], "fail", format="webdataset", retry_failed=True
    )
    assert "a.mp4" in captioned or errors(out)
    assert "a" not in names(out)


def test_a_captioned_video_that_is_gone_after_a_kill_fails_alone(folder: Path) -> None:
    killed = begin([folder / "a.mp4", folder / "b.mp4"], format="webdataset")
    next(killed)
    next(killed)
    killed.close()
    (folder / "a.mp4").write_text("other", "utf-8")
    _, said = run([folder / "a.mp4"], "fail", format="webdataset")
    assert said == [f"{folder}/a.mp4: failed"]
    assert names(folder / "captions") == []
    assert run([folder / "b.mp4"], format="webdataset") == ([], [])
    assert names(folder / "captions") == ["b"]


@pytest.mark.parametrize("shard_samples", [1, 1000])
def test_a_captioned_video_that_is_gone_counts_as_failed(
    folder: Path, shard_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebDatasetOutput, "shard_samples", shard_samples)
    prepare = WebDatasetOutput.prepare
    monkeypatch.setattr(
        WebDatasetOutput,
        "prepare",
        lambda self, path: (prepare(self, path), path.endswith("a.mp4") and os.remove(path)),
    )
    captioning = begin(folder, format="webdataset")
    results = [(Path(result.path).name, result.error) for result in captioning]
    gone = f"{folder}/a.mp4: gone before its shard was written (No such file or directory)"
    assert results == [("a.mp4", None), ("a.mp4", gone), ("b.mp4", None)] or (
        results == [("a.mp4", None), ("b.mp4", None), ("a.mp4", gone)] and shard_samples == 1000
    )
    summary = captioning.summary
    assert (summary.captioned, summary.failed, summary.total) == (1, 1, 2)
    assert summary.failures == [(f"{folder}/a.mp4", gone)]
    assert errors(folder / "captions") == {"a.mp4": gone}
    make(folder, "a.mp4")
    monkeypatch.setattr(WebDatasetOutput, "prepare", prepare)
    assert run(folder, format="webdataset") == ([], [])
    assert run(folder, format="webdataset", retry_failed=True) == (["a.mp4"], [])
    assert sorted(names(folder / "captions")) == ["a", "b"]


def test_one_that_was_kept_counts_as_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = begin([folder / "a.mp4", folder / "b.mp4"], format="webdataset")
    next(killed)
    next(killed)
    killed.close()
    begun = WebDatasetOutput.finish
    monkeypatch.setattr(
        WebDatasetOutput,
        "finish",
        lambda self, manifest: ((folder / "a.mp4").unlink(), begun(self, manifest)),
    )
    again = begin(folder, format="webdataset")
    assert [Path(result.path).name for result in again if result.error] == ["a.mp4"]
    assert (again.summary.kept, again.summary.captioned, again.summary.failed) == (1, 0, 1)


def test_a_copy_stands_in_for_a_video_that_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "copy.mp4").write_text("a.mp4", "utf-8")
    begun = WebDatasetOutput.finish
    monkeypatch.setattr(
        WebDatasetOutput,
        "finish",
        lambda self, manifest: ((folder / "a.mp4").unlink(), begun(self, manifest)),
    )
    assert run(folder, format="webdataset")[1] == []
    assert sorted(names(folder / "captions")) == ["b", "copy"]


def test_a_video_that_is_a_link_is_as_good_as_any(folder: Path, tmp_path: Path) -> None:
    make(tmp_path, "c.mp4")
    (folder / "c.mp4").symlink_to(tmp_path / "c.mp4")
    assert run(folder, format="webdataset")[1] == []
    assert names(folder / "captions") == ["a", "b", "c"]


def header(name: str = "a.mp4", size: int = 0, kind: bytes = tarfile.REGTYPE, **more: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    member.linkname = more.pop("linkname", "")
    member.pax_headers = more
    return member.tobuf(tarfile.PAX_FORMAT)


def with_size(size: int) -> bytes:
    """A header with a size in base 256, which may be negative."""
    block = bytearray(header())
    block[124:136] = bytes([255 if size < 0 else 128]) + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(*records: bytes) -> bytes:
    data = b"".join(records)
    block = header("x", len(data), tarfile.XHDTYPE)
    return block + data + b"\0" * (-len(data) % 512)


def pax(key: bytes, value: bytes) -> bytes:
    length = next(n for n in range(9999) if n == len(b"%d %s=%s\n" % (n, key, value)))
    return b"%d %s=%s\n" % (length, key, value)


PLANTED = {
    "negative": with_size(-512),
    "negative-extended": extended(pax(b"size", b"-1024")) + header(),
    "huge": with_size(1 << 60),
    "long-name": header("x", 6 << 30, tarfile.GNUTYPE_LONGNAME),
    "long-header": header("x", 6 << 30, tarfile.XHDTYPE),
    "self-link": header(kind=tarfile.LNKTYPE, linkname="a.mp4"),
    "link": header(kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "sparse": header(kind=tarfile.GNUTYPE_SPARSE),
    "sparse-extended": extended(pax(b"GNU.sparse.major", b"1")) + header(),
    "nested": extended(pax(b"path", b"a")) * 5000 + header(),
    "zero-length": extended(b"0 path=a\n") + header(),
    "torn": header(size=4096),
    "name": extended(pax(b"path", b"a" * 5000)) + header(),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_shard_that_is_not_ours_is_refused(folder: Path, planted: bytes) -> None:
    out = folder / "captions"
    assert run(folder / "a.mp4", format="webdataset")[1] == []
    data = header("b.mp4", 3) + b"abc" + b"\0" * 509 + planted + b"\0" * 1024
    (out / "captions-000001.tar").write_bytes(data)
    with pytest.raises(CrossLMMError, match=r"captions-000001.tar: this shard cannot be read"):
        run(folder, format="webdataset")
    assert (out / "captions-000001.tar").read_bytes() == data


def test_what_tarfile_writes_is_read() -> None:
    from crosslmm.captioning.outputs.shards import read_members

    file = io.BytesIO()
    written = {"a.txt": b"a", "ü" * 300: b"x" * 1024, "b" * 101: b"", "c": b"c" * 513}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in written.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    content = file.getvalue()
    assert {
        member.name: content[member.offset : member.offset + member.size]
        for member in read_members(file)
    } == written


def test_a_link_put_at_the_default_folder_after_it_was_checked(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    captioning = begin([folder / "a.mp4"], format="webdataset")
    (folder / "captions").symlink_to("elsewhere")
    with pytest.raises(CrossLMMError, match=r"captions: .* links are not followed"):
        list(captioning)
    assert list((folder / "elsewhere").iterdir()) == []
    (folder / "captions").unlink()
    (folder / "named").symlink_to("elsewhere")
    assert run([folder / "a.mp4"], format="webdataset", out=folder / "named")[1] == []


@pytest.mark.parametrize("kind", ["txt", "jsonl", "webdataset"])
def test_a_folder_that_may_not_be_written_to_is_named_before_a_model_is_loaded(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as `/`, which is all that some files have in common."""
    monkeypatch.setattr(Parrot, "load", None)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(
        CrossLMMError, match=r"given.*cannot be written to this folder .*another `out`"
    ):
        run(folder, format=kind)
