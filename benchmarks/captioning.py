"""Bulk captioning: throughput by batch size and readers, memory over a long run, runs that are killed.

    python -m benchmarks.captioning throughput --model demo --clips 96
    python -m benchmarks.captioning soak --model demo --clips 500
    python -m benchmarks.captioning kills --model demo --clips 500 --kills 20

`throughput` runs every combination in a process of its own. `soak` captions clips and bad files of many
kinds, and notes the memory of the captioning process and of its readers as it goes. `kills` runs the
same from the command line, ends it with SIGKILL at random moments, and compares what the last run
leaves with what an undisturbed one does.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table

BATCHES = (1, 4, 16)
READERS = (0, 1, 2)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as temporary:
        scratch = options.scratch or Path(temporary)
        folder, bad = scratch / "clips", scratch / "bad"
        if not folder.exists():
            say(f"writing {options.clips} clips")
            write_clips(folder, options.clips)
        if not bad.exists():
            write_bad_files(bad, sorted(folder.glob("*.mp4"))[0])
        settings = {"model": options.model, "clips": options.clips, "dtype": options.dtype}
        record = WORK[options.what](options, scratch, settings)
    path = record.write(options.out)
    print(table(record.rows))
    say(f"wrote {path}")


def throughput(options: argparse.Namespace, scratch: Path, settings: dict[str, Any]) -> Record:
    """Clips per minute and where the time went."""
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        for readers in READERS:
            rows.append(fresh(measure, scratch / "clips", options, batch, readers))
            say(f"{rows[-1]}")
    return Record("captioning_throughput", settings, rows)


def measure(
    folder: Path, options: argparse.Namespace, batch_size: int, readers: int
) -> dict[str, Any]:
    import crosslmm

    assistant = crosslmm.load(options.model, dtype=options.dtype, device=options.device)
    paths = sorted(folder.glob("*.mp4"))[: options.clips]
    warm = crosslmm.caption(paths[:2], assistant=assistant, readers=0)
    assert all(result.caption for result in warm)
    run = crosslmm.caption(paths, assistant=assistant, batch_size=batch_size, readers=readers)
    tokens = sum(part.tokens for result in run for part in result.segments)
    summary, shares = run.summary, run.summary.shares
    assert shares is not None
    return {
        "batch": batch_size,
        "readers": readers,
        "clips_per_minute": 60 * summary.captioned / summary.seconds,
        "tokens_per_clip": tokens / summary.captioned,
        "model_busy": shares.busy,
        "encode": shares.encode,
        "generate": shares.generate,
        "idle": shares.idle,
        "decode_in_readers": shares.decode,
    }


def soak(options: argparse.Namespace, scratch: Path, settings: dict[str, Any]) -> Record:
    """Memory as results come."""
    rows, notes = fresh(track_memory, scratch, options)
    files = len(list((scratch / "bad").iterdir()))
    return Record("captioning_soak", settings | {"bad_files": files}, rows, notes)


def track_memory(
    scratch: Path, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    import psutil

    import crosslmm

    assistant = crosslmm.load(options.model, dtype=options.dtype, device=options.device)
    own = psutil.Process()
    rows: list[dict[str, Any]] = []

    def note(results: int) -> None:
        readers = [child.memory_info().rss for child in own.children()]
        rows.append(
            {
                "results": results,
                "captioner_mib": own.memory_info().rss / 2**20,
                "largest_reader_mib": max(readers, default=0) / 2**20,
                "seconds": time.perf_counter() - began,
            }
        )

    began = time.perf_counter()
    run = crosslmm.caption(
        [scratch / "clips", scratch / "bad"],
        assistant=assistant,
        out=scratch / "undisturbed.jsonl",
        batch_size=options.batch_size,
        readers=options.readers,
    )
    for count, _ in enumerate(run, start=1):
        if count % 50 == 0:
            note(count)
    note(run.summary.captioned + run.summary.failed)
    summary = run.summary
    notes = [f"{summary.captioned} captioned, {summary.failed} failed"]
    notes += sorted(f"failed: {Path(path).name!a}: {why!a}" for path, why in summary.failures)
    return rows, notes


def kills(options: argparse.Namespace, scratch: Path, settings: dict[str, Any]) -> Record:
    """What is in the output after each kill, and whether it ends as it should."""
    moment = random.Random(options.seed)

    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "crosslmm_cli", "caption"]
        command += [str(scratch / "clips"), str(scratch / "bad"), "--device", options.device]
        command += ["--model", options.model, "--out", str(out), "--quiet"]
        command += ["--dtype", options.dtype, "--readers", str(options.readers)]
        command += ["--batch-size", str(options.batch_size)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    undisturbed, killed = scratch / "undisturbed.jsonl", scratch / "killed.jsonl"
    if not undisturbed.exists():
        say("an undisturbed run")
        assert start(undisturbed).wait() == 3
    rows: list[dict[str, Any]] = []
    for number in range(1, options.kills + 1):
        began = time.perf_counter()
        process = start(killed)
        try:
            code = process.wait(moment.uniform(options.shortest, options.longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        data = killed.read_bytes() if killed.exists() else b""
        lines = data.split(b"\n")
        paths = [json.loads(line)["path"] for line in lines[:-1]]
        rows.append(
            {
                "run": number,
                "ended_by": "SIGKILL" if code == -9 else f"exit {code}",
                "after_seconds": time.perf_counter() - began,
                "lines": len(paths),
                "doubled": len(paths) - len(set(paths)),
                "torn_bytes": len(lines[-1]),
            }
        )
        say(f"{rows[-1]}")
    assert start(killed).wait() == 3
    found, expected = _results(killed), _results(undisturbed)
    differing = [
        path for path in expected.keys() | found.keys() if found.get(path) != expected.get(path)
    ]
    notes = [
        f"{len(expected)} results undisturbed, {len(found)} after {options.kills} kills, "
        f"{len(differing)} of them different"
    ]
    return Record("captioning_kills", settings, rows, [*notes, *map(ascii, differing)])


def _results(path: Path) -> dict[str, tuple[str | None, str | None]]:
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({record["path"] for record in records}) == len(records)
    return {record["path"]: (record["caption"], record["error"]) for record in records}


def write_clips(folder: Path, clips: int) -> None:
    """Synthetic clips of 2 to 8 seconds, as `crosslmm synth` writes them."""
    from crosslmm.synthetic import write_clips as write

    write(folder, clips=clips, seed=11, seconds=(2.0, 8.0), questions_per_clip=1)


def write_bad_files(folder: Path, good: Path) -> int:
    """Thirty files with the name of a video that are not one, or not any more."""
    folder.mkdir(parents=True)
    data = good.read_bytes()
    noise = random.Random(0).randbytes
    index = data.index(b"moov")
    contents: dict[str, bytes] = {
        "empty.mp4": b"",
        "text.mp4": b"This is a text.\n" * 50,
        "page.webm": b"<!DOCTYPE html><html><body>404</body></html>",
        "table.mov": b'{"videos": []}',
        "subtitles.mkv": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "playlist.mp4": b"#EXTM3U\n#EXTINF:4,\nhttp://example.invalid/a.ts\n",
        "concat.mp4": b"ffconcat version 1.0\nfile other.mp4\n",
        "manifest.mp4": b'<?xml version="1.0"?><MPD></MPD>',
        "session.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        "noise.mp4": noise(50_000),
        "noise.mkv": noise(50_000),
        "noise.avi": noise(50_000),
        "zeros.mp4": bytes(50_000),
        "ones.ts": b"\xff" * 50_000,
        "document.avi": b"%PDF-1.7\n" + noise(5_000),
        "program.mpg": b"\x7fELF" + noise(5_000),
        "database.webm": b"SQLite format 3\0" + noise(5_000),
        "beginning.mp4": data[:32],
        "half.mp4": data[: len(data) // 2],
        "no_index.mp4": data.replace(b"moov", b"xxxx"),
        "index_only.mp4": data[max(0, index - 4) :],
        "index_of_noise.mp4": data[: index + 4] + noise(len(data) - index - 4),
        "matroska_cut.mkv": b"\x1aE\xdf\xa3" + noise(40),
        "riff_cut.avi": b"RIFF\xff\xff\0\0AVI LIST" + noise(40),
        "bad\udcffname.mp4": b"not text, this name",
        "new\nline.mp4": b"nor is this",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "archive.mp4", "w") as archive:
        archive.writestr("a.mp4", data[:1000])
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "itself.mp4").symlink_to(folder / "itself.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return len(list(folder.iterdir()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=sorted(WORK))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--scratch", type=Path, help="keeps clips, bad files and captions here")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shortest", type=float, default=2.0, help="seconds before a kill")
    parser.add_argument("--longest", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


WORK: dict[str, Callable[..., Record]] = {"throughput": throughput, "soak": soak, "kills": kills}

if __name__ == "__main__":
    main()
