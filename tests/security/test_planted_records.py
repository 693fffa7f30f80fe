"""Records of captions that somebody else wrote into a folder: of wrong types, too long, or not true."""

import json
import tarfile
from pathlib import Path

import pytest

from crosslmm.captioning.manifest import LONGEST_LINE, Manifest
from crosslmm.errors import CrossLMMError
from tests.support.given_folder import OUTPUTS, attempt, record
from tests.support.parrot import captioned, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")


SEGMENT = {
    "start": 0.0,
    "end": 1.0,
    "caption": "evil",
    "finish": None,
    "tokens": 1,
    "frames": [{"index": 0, "time": 0.0}],
}


def test_lines_of_a_manifest_are_bounded(tmp_path: Path) -> None:
    assert LONGEST_LINE == 64 << 20
    path = tmp_path / "captions.jsonl"
    for long in (record("/a", caption="x" * 2000), b'{"path"' + b" " * 5000, b"\0" * 3000):
        path.write_bytes(record("/b") + long)
        with pytest.raises(CrossLMMError, match="line 2 was not written by"):
            Manifest.open(path, longest_line=1000)
        assert path.read_bytes() == record("/b") + long
    path.unlink()
    with (
        Manifest.open(path, longest_line=1000) as manifest,
        pytest.raises(OSError, match="longer than"),
    ):
        manifest.check(json.loads(record("/a", caption="x" * 2000)))


@pytest.mark.parametrize(
    "line",
    [
        b'{"path": ' + b"[" * 200_000 + b"\n",
        record("/a").replace(b'"/a"', b"7"),
        record("/a", content=[]),
        record("/a", sidecar=7),
        record("/a", sidecar=["a.txt"]),
        record("/a", sidecar=[1, 2]),
        record("/a", settings_hash={}),
        record("/a", caption=None),
        record("/a", caption=7),
        record("/a", duration="1"),
        record("/a", duration=10**400),
        record("/a", duration=float("nan")),
        record("/a", warnings=None),
        record("/a", warnings=[1]),
        record("/a", segments=7),
        record("/a", segments=[7]),
        record("/a", segments=[{}]),
        record("/a", segments=[SEGMENT | {"start": "0"}]),
        record("/a", segments=[SEGMENT | {"end": float("inf")}]),
        record("/a", segments=[SEGMENT | {"caption": []}]),
        record("/a", segments=[SEGMENT | {"frames": [{}]}]),
        record("/a", segments=[SEGMENT | {"frames": None}]),
        record("/a", segments=[SEGMENT | {"evil": 1}]),
        record("/a", sidecar=["\ud800.txt", "x"]),
        record("/\ud800"),
    ],
)
def test_records_of_wrong_types_are_refused_with_a_message(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_bytes(line)
    with pytest.raises(CrossLMMError, match="line 1 was not written by"):
        Manifest.open(path)
    assert path.read_bytes() == line


@pytest.mark.parametrize("name", ["caption", "duration", "segments", "warnings"])
@pytest.mark.parametrize("format", list(OUTPUTS))
def test_a_record_that_lacks_a_field_is_refused_with_a_message(
    folder: Path, tmp_path: Path, name: str, format: str
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = {"txt": folder, "webdataset": folder}.get(format, folder / f"out.{format}")
    assert attempt(folder / "a.mp4", format=format, out=out) == []
    (path,) = {*folder.glob("out.jsonl"), *folder.glob(".*.jsonl")}
    row = json.loads(path.read_text("utf-8"))
    del row[name]
    path.write_text(json.dumps(row) + "\n", "utf-8")
    make(folder, "c.mp4")
    (folder / "c.mp4").write_bytes((folder / "a.mp4").read_bytes())
    for lost in (*folder.glob("*.txt"), *folder.glob("*.tar")):
        lost.unlink()
    (said,) = attempt(folder, format=format, out=out)
    assert said.startswith(f"{path}: the record of {folder}/a.mp4 has no {name}")


def test_a_record_with_segments_is_believed(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_bytes(record("/a", segments=[SEGMENT]))
    with Manifest.open(tmp_path / "captions.jsonl") as manifest:
        assert list(manifest.entries) == ["/a"]


def test_a_planted_record_puts_no_file_of_the_users_into_a_shard(
    folder: Path, victim: Path
) -> None:
    out = folder / "captions"
    out.mkdir()
    (out / ".crosslmm-captions.jsonl").write_bytes(record(str(victim)))
    assert attempt(folder, format="webdataset") == []
    names = []
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
            assert all(b"mine" not in tar.extractfile(name).read() for name in tar.getnames())  # type: ignore[union-attr]
    assert len(names) == 6
