"""Damaged files, runs that are killed, strange values: the short form of the benchmarks of them."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import checkpoint_values, large
from benchmarks.containers import CONTAINERS, Original
from benchmarks.mutations import KINDS, mutate
from benchmarks.robustness import damaged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and limits of memory")

# Two files of every container.
FILES = 70


def benchmark(name: str, *options: object, out: Path) -> list[dict[str, Any]]:
    """The rows of a benchmark that is run in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, options), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    content = json.loads((out / f"{name}.json").read_text())
    print(*content["notes"], sep="\n")
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def test_every_damaged_file_is_answered_or_refused_in_words(tmp_path: Path) -> None:
    *rows, total = benchmark("robustness", "--files", FILES, "--seed", 0, out=tmp_path)
    assert {row["container"] for row in rows} == {*CONTAINERS, "image"}
    assert total["files"] == FILES
    assert total["answered"] + total["refused"] == total["reads"] == 2 * FILES
    assert (total["over_limit"], total["crashed"]) == (0, 0)
    assert min(total["answered"], total["refused"]) > FILES / 4


@pytest.mark.parametrize("name", ["GIF of 65,535×65,535", "mp4 of 2³¹ frames (stts)"])
def test_small_files_that_promise_large_ones(name: str) -> None:
    (row,) = large.run((name,)).rows
    assert (row["ask"], row["caption"]) == ("refused", "refused")


def test_values_that_no_checkpoint_has(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "given"))
    name, most = "processor_config.json", 4
    before = (folder / name).read_text()
    counts = checkpoint_values.try_file(folder, name, clip, most=most)
    assert counts["checkpoints"] == counts["answered"] + counts["refused"] == most
    assert (counts["over_limit"], counts["crashed"]) == (0, 0)
    assert (folder / name).read_text() == before


def test_killed_runs_leave_nothing_half_written(tmp_path: Path) -> None:
    rows = benchmark("kills", "--kills", 1, "--clips", 2, out=tmp_path)
    assert [row["kills"] for row in rows] == [1, 1, 1, 1]
    assert {(row["incomplete"], row["different"]) for row in rows} == {(0, 0)}


def test_damage_is_the_same_for_the_same_seed() -> None:
    data = bytes(range(256)) * 8
    originals = [Original(name, "any", data, (96, 64)) for name in ("mp4", "avi")]

    def files(seed: int) -> list[bytes]:
        return [content for _, content, _ in damaged(originals, 20, seed)]

    assert files(1) == files(1) != files(2)


@pytest.mark.parametrize("data", [b"", b"a", bytes(96) + b"ftyp" + bytes(1000)])
def test_every_kind_of_damage_fits_any_file(data: bytes) -> None:
    seen = set()
    for seed in range(300):
        content, names = mutate(data, (96, 64), random.Random(seed), b"donor" * 100)
        seen |= set(names.split(", "))
        assert len(content) < len(data) + (4 << 20)
    assert seen == set(KINDS)
