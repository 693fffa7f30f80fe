"""SIGKILL where it hurts: as `caption` loads its model, in a batch, as it writes a table or shards.

    python -m benchmarks.kills --kills 20

Each run starts with nothing and is killed at a random moment of the work aimed at. What then has the
name of a table or a shard must be complete. The next run goes on to the end, and its results must be
those of an uninterrupted run. The built-in model in float32, one reader. POSIX only: runs are forked.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.captioning import write_clips
from benchmarks.record import Record, say, table


@dataclass(frozen=True)
class Aim:
    """What is killed: a method of a class of crosslmm, while captions are written in a format."""

    name: str
    format: str
    module: str
    owner: str
    method: str


AIMS = (
    Aim("loading the model", "jsonl", "engines.local", "LocalEngine", "load"),
    Aim("in a batch", "jsonl", "captioner", "Captioner", "caption"),
    Aim("writing Parquet", "parquet", "outputs.table", "TableOutput", "finish"),
    Aim("writing WebDataset", "webdataset", "outputs.webdataset", "WebDatasetOutput", "finish"),
)
NAMES = {"jsonl": "captions.jsonl", "parquet": "captions.parquet", "webdataset": "captions"}


def main() -> None:
    import torch

    options = _options()
    torch.set_num_threads(1)  # a forked run cannot use threads that were started here
    chance = random.Random(options.seed)
    _import_all()
    rows = []
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as temporary:
        clips = Path(temporary) / "clips"
        write_clips(clips, options.clips)
        for aim in AIMS:
            rows.append(_row(aim, clips, Path(temporary) / "out", options.kills, chance))
            say(f"{rows[-1]}")
    settings = {"kills": options.kills, "clips": options.clips, "seed": options.seed}
    path = Record("kills", settings, rows).write(options.out)
    print(table(rows))
    say(f"wrote {path}")


def _row(aim: Aim, clips: Path, folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """So many runs that were killed in time, and what became of them."""
    out = folder / NAMES[aim.format]
    spans = _Run(aim, clips, out).finish()
    expected, names = CONTENTS[aim.format](out), _names(folder)
    row = dict.fromkeys(("kills", "complete", "incomplete", "different"), 0)
    measured = seconds = median(spans)
    while row["kills"] < kills:
        shutil.rmtree(folder)
        run = _Run(aim, clips, out)
        if not run.kill(chance.randrange(len(spans)), delay=chance.uniform(0, seconds)):
            seconds *= 0.8  # it was done before
            continue
        row["kills"] += 1
        there = out.exists() and _check(aim, out, expected)
        row["incomplete"] += there is None
        row["complete"] += bool(there)
        _Run(aim, clips, out).finish()
        row["different"] += CONTENTS[aim.format](out) != expected or _names(folder) != names
    shutil.rmtree(folder)
    return {"killed_while": aim.name, **row, "seconds_aimed_at": round(measured, 4)}


def _check(aim: Aim, out: Path, expected: dict[str, Any]) -> bool | None:
    """Whether all is there, for what a killed run left; None where it is neither complete nor absent.

    JSON lines grow by a line at a time: a last line that is cut off does not count.
    """
    try:
        found = CONTENTS[aim.format](out)
    except Exception as error:
        say(f"{aim.name}: {error!r}")
        return None
    if any(expected[name] != content for name, content in found.items()):
        return None
    if aim.format == "parquet" and found != expected:
        return None
    return found == expected


class _Run:
    """A run in a process forked for it, which says when the work aimed at begins and ends."""

    def __init__(self, aim: Aim, clips: Path, out: Path) -> None:
        receiving, sending = os.pipe()
        self._said = os.fdopen(receiving, "rb", buffering=0)
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                _use_one_thread()  # before loading's threads race to renew the parent's pool
                _announce(aim, sending)
                _caption(clips, out, aim.format)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(sending)

    def finish(self) -> list[float]:
        """Wait for its end, and give how long the work aimed at took, each time, in seconds."""
        times = []
        while self._said.read(1):
            times.append(time.perf_counter())
        _, status = os.waitpid(self._pid, 0)
        self._said.close()
        if status:
            raise RuntimeError(f"a run ended with {os.waitstatus_to_exitcode(status)}")
        return [ended - began for began, ended in zip(times[::2], times[1::2], strict=True)]

    def kill(self, number: int, *, delay: float) -> bool:
        """Kill it `delay` seconds into the work aimed at, the `number`-th time of it; whether it was
        still at it."""
        for _ in range(2 * number + 1):
            self._said.read(1)
        time.sleep(delay)
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        done = self._said.read(1) != b""
        self._said.close()
        return os.waitstatus_to_exitcode(status) == -signal.SIGKILL and not done


def _announce(aim: Aim, descriptor: int) -> None:
    owner = getattr(import_module(f"crosslmm.captioning.{aim.module}"), aim.owner)
    work = getattr(owner, aim.method)

    def announced(*arguments: Any, **options: Any) -> Any:
        os.write(descriptor, b"(")
        try:
            return work(*arguments, **options)
        finally:
            os.write(descriptor, b")")

    setattr(owner, aim.method, announced)


def _caption(clips: Path, out: Path, format: Any) -> None:
    import crosslmm

    out.parent.mkdir(exist_ok=True)
    run = crosslmm.caption(
        clips,
        assistant="demo",
        model_options={"dtype": "float32", "device": "cpu"},
        format=format,
        out=out,
        readers=1,
        batch_size=2,
        frames=2,
        max_new_tokens=8,
    )
    for result in run:
        if result.error:
            raise RuntimeError(result.error)


def _import_all() -> None:
    """Most of a run is importing, which the forked ones then need not do."""
    _use_one_thread()
    for name in ("captioning.run", "captioning.captioner", "inference.assistant"):
        import_module(f"crosslmm.{name}")
    for name in ("pyarrow.parquet", *(f"crosslmm.captioning.{aim.module}" for aim in AIMS)):
        import_module(name)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _lines(out: Path) -> dict[str, Any]:
    lines = out.read_bytes().splitlines(keepends=True)
    complete = [json.loads(line) for line in lines if line.endswith(b"\n")]
    records = {record["path"]: _lasting(record) for record in complete}
    if len(records) < len(complete):
        raise ValueError(f"{out}: a video has two lines")
    return records


def _rows(out: Path) -> dict[str, Any]:
    from pyarrow import parquet

    return {row["path"]: _lasting(row) for row in parquet.read_table(out).to_pylist()}


def _samples(out: Path) -> dict[str, Any]:
    """Of all shards, each file by its name."""
    found: dict[str, Any] = {}
    for shard in sorted(out.glob("*.tar")):
        if not shard.read_bytes().endswith(bytes(1024)):
            raise ValueError(f"{shard}: without the end of an archive")
        with tarfile.open(shard) as tar:
            for member in tar:
                data = tar.extractfile(member)
                content = b"" if data is None else data.read()
                is_record = member.name.endswith(".json")
                found[member.name] = _lasting(json.loads(content)) if is_record else content
    return found


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs from run to run."""
    return {name: value for name, value in record.items() if name != "timing"}


CONTENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "jsonl": _lines,
    "parquet": _rows,
    "webdataset": _samples,
}


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
