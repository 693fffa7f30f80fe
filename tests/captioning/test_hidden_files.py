"""What a run leaves hidden in the folders of a user: the record that the next run needs, no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.parrot import begin, make, parrot  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")

RECORDS = {
    "jsonl": [],
    "txt": [".crosslmm-captions-txt.jsonl"],
    "srt": [".crosslmm-captions-srt.jsonl"],
    "vtt": [".crosslmm-captions-vtt.jsonl"],
    "parquet": [".captions.parquet.manifest.jsonl"],
    "webdataset": [".crosslmm-captions.jsonl"],
}


def stop(run: Any) -> None:
    next(run)
    run.stop()
    list(run)


def close(run: Any) -> None:
    next(run)
    run.close()


@pytest.mark.parametrize("end", [list, stop, close], ids=["complete", "stopped", "closed"])
@pytest.mark.parametrize("prompt", ["A", "fail"])
@pytest.mark.parametrize("kind", RECORDS)
def test_records_stay_and_locks_and_scratch_files_do_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    prompt: str,
    end: Callable[[Any], Any],
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "clips", "a.mp4", "sub/b.mp4")
    for _ in range(2):
        run = begin(tmp_path / "clips", prompt, format=kind, retry_failed=True)
        with run:
            try:
                end(run)
            except StopIteration:
                assert run.summary.kept  # nothing was left to do the second time
        assert sorted(path.name for path in tmp_path.rglob(".*")) == RECORDS[kind]
        assert not list(tmp_path.rglob("*.new"))
