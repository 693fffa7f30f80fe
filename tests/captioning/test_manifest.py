"""The manifest survives being cut off anywhere, and the lock dies with its process."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning.lock import Lock
from crosslmm.captioning.manifest import Manifest
from crosslmm.errors import CrossLMMError
from crosslmm.fingerprint import content_identity


def record(path: str, caption: str | None = "ein Café", **changes: Any) -> dict[str, Any]:
    error = None if caption is not None else "why"
    base = {"path": path, "caption": caption, "error": error}
    return base | {"content": "c" + path, "settings_hash": "s"} | changes


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Manifest]]:
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(Manifest.open(path))


Opened = Callable[[Path], Manifest]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_is_appended_is_read_again(path: Path, opened: Opened) -> None:
    first = opened(path)
    first.append([record("/a"), record("/b", None)])
    first.append([record("/c")])
    assert first.read("/c") == record("/c")
    again = opened(path)
    assert [r["path"] for r in again.records()] == ["/a", "/b", "/c"]
    assert again.entries["/b"].failed
    assert not again.repaired
    assert again.read("/a") == record("/a")


def test_a_line_cut_at_any_byte_is_removed_and_the_rest_kept(path: Path, opened: Opened) -> None:
    manifest = opened(path)
    manifest.append([record("/a"), record("/b")])
    manifest.close()
    complete = path.read_bytes()
    first = complete.index(b"\n") + 1
    cuts = [complete[:cut] for cut in range(first + 1, len(complete))]
    # A machine that loses power may leave NULs where the rest was to be.
    cuts += [cut + bytes(5000) for cut in (complete[:first], complete[: first + 1], complete[:-9])]
    for cut in cuts:
        path.write_bytes(cut)
        repaired = opened(path)
        assert list(repaired.entries) == ["/a"], cut
        assert repaired.repaired
        repaired.append([record("/b")])
        repaired.close()
        assert path.read_bytes() == complete


@pytest.mark.parametrize(
    "content",
    [
        *(b"my notes\n", b'{"path": "/a"}\n', b"\0\0\0\x20ftyp", b'{"video": 1}', b"[]\n"),
        *(b"{}", b'{"pat\n', b"notes\0\0", b'{"path": "/a.mp4", "text": "x"}'),
    ],
)
def test_a_file_that_crosslmm_did_not_write_is_refused_and_left_alone(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(CrossLMMError, match=r"line 1.*choose another `out`"):
        Manifest.open(path)
    assert path.read_bytes() == content


def test_the_last_line_of_a_path_counts_and_the_rest_is_compacted(
    path: Path, opened: Opened
) -> None:
    manifest = opened(path)
    manifest.append([record("/a", None), record("/b")])
    manifest.append([record("/a", "now")])
    assert manifest.read("/a")["caption"] == "now"
    manifest.compact()
    assert [(r["path"], r["caption"]) for r in lines(path)] == [("/b", "ein Café"), ("/a", "now")]
    manifest.append([record("/c")])
    assert manifest.read("/c")["path"] == "/c"
    assert manifest.read("/b")["path"] == "/b"


def test_dropped_captions_are_kept_beside_but_not_failures(path: Path, opened: Opened) -> None:
    manifest = opened(path)
    manifest.append([record("/a"), record("/b", None), record("/c")])
    beside = path.with_name("old.jsonl")
    assert manifest.drop({"/a", "/b", "/new"}, keep_in=beside) == 1
    assert [r["path"] for r in lines(path)] == ["/c"]
    assert [r["path"] for r in lines(beside)] == ["/a"]
    with beside.open("ab") as file:  # as a kill leaves it
        file.write(b'{"path": "/c", "cap')
    assert manifest.drop({"/c"}, keep_in=beside) == 1
    assert [r["path"] for r in lines(beside)] == ["/a", "/c"]


def test_a_name_that_is_not_text_survives(path: Path, opened: Opened) -> None:
    manifest = opened(path)
    manifest.append([record("/\udcff.mp4")])
    assert list(opened(path).entries) == ["/\udcff.mp4"]


def test_identity_is_of_the_content_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    data = bytes(range(256)) * 20_000  # 5 MB: too large to be hashed completely
    one.write_bytes(data)
    two.write_bytes(data)
    assert content_identity(one) == content_identity(two)
    for change in (data[:-1], data[:-1] + b"!", b"!" + data[1:], data + b"!"):
        two.write_bytes(change)
        assert content_identity(one) != content_identity(two)
    assert content_identity(tmp_path) is None
    assert content_identity(tmp_path / "missing") is None


HOLD = """
import sys, time
from pathlib import Path
from crosslmm.captioning.lock import Lock
with Lock(Path(sys.argv[1]), output="x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CrossLMMError, match=f"out.jsonl: another run.*process {holder.pid} on"):
            Lock(path, output="out.jsonl").acquire()
        holder.send_signal(signal.SIGKILL)
    with Lock(path, output="x"), pytest.raises(CrossLMMError, match="another run"):
        Lock(path, output="x").acquire()
    with Lock(path, output="x"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="it has no flock")
def test_where_files_cannot_be_locked_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(CrossLMMError, match=rf"{tmp_path}/lock: files cannot be .* another disk"):
        Lock(tmp_path / "lock", output="x").acquire()


def test_a_lock_that_cannot_be_made_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = Lock(tmp_path / "file" / ".captions.jsonl.lock", output="captions.jsonl")
    with pytest.raises(CrossLMMError, match="file: cannot be written to"):
        lock.acquire()
