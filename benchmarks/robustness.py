"""Damaged files of every container and codec that PyAV writes: frames, or an error in words.

    python -m benchmarks.robustness --files 1000 --seed 1

Every file is read twice, each time in a process of its own: as `ask` reads it (`crosslmm.sample`), and
as a reader of `caption` does (in parts, with limited memory). A read is over the limit when it takes
more time or memory than a file may, all its processes together; it has crashed when a process dies or
an error is not a `VideoError` that names the file. `--keep` keeps such files. POSIX only.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.containers import CONTAINERS, Original, image_originals, write_originals
from benchmarks.mutations import mutate
from benchmarks.record import Record, say, table

SIZE = (384, 384)
FRAMES = 8
# Seconds without progress, and in all, that the readers are given; then the process is killed.
DEADLINE, FILE_TIMEOUT, KILLED_AFTER = 10.0, 30.0, 40.0
# Bytes at the peak, as docs and issues promise them.
MEMORY = {"ask": 1536 << 20, "caption": 1152 << 20}
LONGEST_MESSAGE = 400


@dataclass(frozen=True)
class Outcome:
    """How reading one file ended: `kind` is answered, refused, over_limit or crashed."""

    kind: str
    words: str
    seconds: float
    peak: int


def main() -> None:
    options = _options()
    record = run(options.files, seed=options.seed, keep=options.keep)
    path = record.write(options.out)
    print(table(record.rows))
    say(f"wrote {path}")


def run(files: int, *, seed: int, keep: Path | None = None) -> Record:
    """Read so many damaged files, the containers and their codecs in turn."""
    import av

    import crosslmm.captioning.reading
    import crosslmm.video.stream  # noqa: F401  for all processes at once

    av.logging.set_level(None)
    counts: dict[str, Counter[str]] = {}
    largest: dict[tuple[str, str], float] = {}
    notes: list[str] = []
    words: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        originals = [*write_originals(Path(scratch), CONTAINERS), *image_originals()]
        for number, (original, data, damage) in enumerate(damaged(originals, files, seed)):
            path = Path(scratch) / f"{number}.video"
            path.write_bytes(data)
            for door in DOORS:
                outcome = read(path, door, chance=random.Random(f"{seed}-{number}-{door}"))
                row = counts.setdefault(original.container, Counter())
                row.update({"reads": 1, outcome.kind: 1})
                for name, value in (("seconds", outcome.seconds), (door, outcome.peak)):
                    key = original.container, name
                    largest[key] = max(largest.get(key, 0), value)
                if outcome.kind == "refused":
                    words[outcome.words.replace(str(path), "PATH")[:80]] += 1
                if outcome.kind in ("over_limit", "crashed"):
                    about = f"{number}, {original.container}, {original.codec}, {damage}, {door}"
                    notes.append(f"{outcome.kind}: {about}: {outcome.words}")
                    say(notes[-1])
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{seed}-{number}.video").write_bytes(data)
            path.unlink()
            if number % 50 == 49:
                say(f"{number + 1} files")
    rows = [_row(name, row, largest) for name, row in counts.items()]
    total: Counter[str] = sum(counts.values(), Counter())
    for name in ("seconds", *DOORS):
        largest["all", name] = max(value for key, value in largest.items() if key[1] == name)
    rows.append(_row("all", total, largest))
    notes += [f"{count} times: {message}" for message, count in words.most_common(12)]
    settings = {
        "files": files,
        "seed": seed,
        "originals": len(originals),
        "frames": FRAMES,
        "deadline": DEADLINE,
        "file_timeout": FILE_TIMEOUT,
        "killed_after": KILLED_AFTER,
        "memory": MEMORY,
    }
    return Record("robustness", settings, rows, notes)


def damaged(
    originals: list[Original], files: int, seed: int
) -> Iterator[tuple[Original, bytes, str]]:
    """The damaged files, each with its original and the names of what was done to it."""
    groups: dict[str, list[Original]] = {}
    for original in originals:
        groups.setdefault(original.container, []).append(original)
    names = list(groups)
    for number in range(files):
        chance = random.Random(f"{seed}-{number}")
        turn, container = divmod(number, len(names))
        group = groups[names[container]]
        original = group[turn % len(group)]
        donor = chance.choice(originals).data
        yield original, *mutate(original.data, original.size, chance, donor)


def read(path: Path, door: str, *, chance: random.Random) -> Outcome:
    """Read a file in a process forked for it, which is killed when it takes too long or too much."""
    import psutil

    from crosslmm.video.worker import die_with_parent

    seek, fps = chance.choice(("auto", "exact", "keyframe")), chance.choice((None, 5.0))
    receiving, sending = os.pipe()
    parent, began = os.getpid(), time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_with_parent(parent)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            with os.fdopen(sending, "w") as out:
                json.dump(_ending(DOORS[door], str(path), seek, fps), out)
            code = 0
        finally:
            os._exit(code)
    os.close(sending)
    peak, problem = 0, ""
    process = psutil.Process(child)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        peak = max(peak, _resident(process))
        if time.monotonic() - began > KILLED_AFTER:
            problem = f"over {KILLED_AFTER:g} s"
        elif peak > 2 * MEMORY[door]:
            problem = f"over {peak >> 20} MiB"
        if problem:
            _kill(process)
            ended, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.01)
    seconds = time.monotonic() - began
    peak = max(peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    with os.fdopen(receiving) as back:
        said = back.read()
    if problem or peak > MEMORY[door]:
        return Outcome("over_limit", problem or f"{peak >> 20} MiB", seconds, peak)
    code = os.waitstatus_to_exitcode(status)
    if code or not said:
        return Outcome("crashed", f"signal {-code}" if code < 0 else f"exit {code}", seconds, peak)
    kind, words = json.loads(said)
    return Outcome(kind, words, seconds, peak)


def _ending(work: Callable[..., int], path: str, seek: str, fps: float | None) -> tuple[str, str]:
    from crosslmm.errors import VideoError
    from crosslmm.options import Sampling

    count = {"frames": FRAMES} if fps is None else {"fps": fps, "max_frames": FRAMES}
    sampling = Sampling(
        **count,
        seek=seek,  # type: ignore[arg-type]
        deadline=DEADLINE,
        file_timeout=FILE_TIMEOUT,
    )
    try:
        frames = work(path, sampling)
    except VideoError as error:
        message = str(error)
        if path in message and len(message) < LONGEST_MESSAGE + len(path):
            return "refused", message
        return "crashed", f"not in words: {message}"
    except BaseException:
        return "crashed", traceback.format_exc()[-1500:]
    return ("answered", f"{frames} frames") if frames else ("crashed", "neither frames nor words")


def ask(path: str, sampling: Any) -> int:
    """The number of frames that `ask` gets of a file, which it checks first."""
    from crosslmm import sample
    from crosslmm.errors import VideoError
    from crosslmm.video.probe import check_file

    with suppress(VideoError):  # `sample` has to find it too
        check_file(path, deadline=DEADLINE)
    return len(sample(path, sampling, size=SIZE))


def caption(path: str, sampling: Any) -> int:
    """The number of frames that a reader of `caption` gets, of all parts of the video."""
    from crosslmm.captioning.options import CaptionOptions
    from crosslmm.captioning.reading import read_clips, read_request
    from crosslmm.errors import VideoError
    from crosslmm.limits import READER_MEMORY
    from crosslmm.video.memory_limit import limit_memory, out_of_memory

    options = CaptionOptions(segments=0.1, sampling=sampling)
    request = read_request(path, options, size=SIZE, resample=3, default_frames=FRAMES)
    limit_memory(READER_MEMORY + request.frame_bytes)
    frames, problem = 0, ""
    try:
        for clip in read_clips(request):
            frames += len(clip.frames) if clip.frames is not None else 0
            problem = clip.problem or problem
    except MemoryError as error:  # as the reader's process says it
        raise VideoError(f"{path}: {out_of_memory()}") from error
    if not frames and problem:
        raise VideoError(problem)
    return frames


DOORS: dict[str, Callable[..., int]] = {"ask": ask, "caption": caption}


def _resident(process: Any) -> int:
    """Bytes that a process and those that it started hold."""
    import psutil

    total = 0
    with suppress(psutil.Error):
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    return total


def _kill(process: Any) -> None:
    import psutil

    for each in (*process.children(recursive=True), process):
        with suppress(psutil.Error):
            each.kill()


def _row(name: str, row: Counter[str], largest: dict[tuple[str, str], float]) -> dict[str, Any]:
    kinds = ("answered", "refused", "over_limit", "crashed")
    return {
        "container": name,
        "files": row["reads"] // len(DOORS),
        "reads": row["reads"],
        **{kind: row[kind] for kind in kinds},
        "slowest_s": round(largest[name, "seconds"], 1),
        **{f"{door}_peak_mib": round(largest[name, door] / 2**20) for door in DOORS},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keeps files that were not read as they should")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
