"""What a run really takes: seconds per stage and peak memory, on the device at hand.

Every figure is of a warm model: one run goes before those that are timed, and the median of these
is given with the fastest and the slowest. Memory is what a run takes above the loaded model: on a
GPU the allocator's peak, on Linux the process's; elsewhere it is not known.
"""

import ctypes
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslmm.cost.measured import Measured, Measurement, Spread
from crosslmm.cost.memory import memory_needed
from crosslmm.cost.profile import Profile
from crosslmm.device import resolve_device, resolve_dtype
from crosslmm.errors import UsageError, VideoError
from crosslmm.inference.answer import Answer
from crosslmm.inference.assistant import Assistant
from crosslmm.merging import TokenBudget
from crosslmm.video.memory_limit import process_status

if TYPE_CHECKING:
    import torch

QUESTION = "What happens in this video?"
NEW_TOKENS = 16


def measure(
    assistant: Assistant,
    video: str | os.PathLike[str],
    *,
    frames: int,
    budget: TokenBudget | None = None,
    repeats: int = 3,
    question: str = QUESTION,
    on_run: Callable[[], None] | None = None,
) -> Measurement:
    """Time `repeats` first and second questions about `frames` frames of a video, after one unseen.

    `budget` is of the visual tokens, the assistant's own unless given; `on_run` is called after every
    run. Raises VideoError where the video has fewer frames, and what `Assistant.open_video` raises.
    """
    if repeats < 1:
        raise UsageError(f"`repeats` {repeats}: give at least 1")

    budget = budget or assistant.runtime.budget
    options: Any = budget.settings

    def run() -> tuple[Answer, Answer]:
        session = assistant.open_video(video, frames=frames, **options)
        first = session.ask(question, max_new_tokens=NEW_TOKENS)
        second = session.ask(question, max_new_tokens=1)
        if on_run:
            on_run()
        return first, second

    warm, _ = run()
    if len(warm.frames) != frames:
        raise VideoError(
            f"{os.fsdecode(video)}: has {len(warm.frames)} frames, fewer than {frames}; "
            "measure fewer or give another clip"
        )
    with peak_memory(assistant.device) as peak:
        runs = [run() for _ in range(repeats)]
    first = [answer for answer, _ in runs]
    steps = [
        answer.timing.generate / (answer.tokens.generated - 1)
        for answer in first
        if answer.tokens.generated > 1
    ]
    return Measurement(
        frames=frames,
        budget=budget,
        text_tokens=warm.tokens.prompt - warm.tokens.visual,
        repeats=repeats,
        decode=Spread.of([answer.timing.decode for answer in first]),
        encode=Spread.of([answer.timing.encode for answer in first]),
        prefill=Spread.of([answer.timing.prefill for answer in first]),
        first_token=Spread.of([answer.timing.first_token for answer in first]),
        second_question=Spread.of([second.timing.first_token for _, second in runs]),
        per_token=Spread.of(steps) if steps else None,
        peak=peak.bytes,
    )


def matrix_rate(device: str | None = None, dtype: str | None = None) -> float:
    """Multiply-accumulates a second of a large matrix product on the device: what its prefills come
    close to at best. Takes a fraction of a second."""
    import torch

    chosen = resolve_device(device)
    size = 4096 if chosen.type == "cuda" else 1024
    a = torch.randn(size, size, device=chosen).to(resolve_dtype(dtype, chosen))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - started)
    return size**3 / min(times)


def measure_profile(
    assistant: Assistant,
    profile: Profile,
    video: Path | None = None,
    *,
    repeats: int = 3,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Measured]:
    """Run every row of a profile, on a generated clip unless a video is given.

    The assistant's model is set to the profile's scope, cache and chunk. `on_progress` is called
    with "measure", the runs done and all runs.
    """
    _configure(assistant, profile)
    total = len(profile.rows) * (repeats + 1)
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress("measure", done, total)

    most = max(row.frames for row in profile.rows)
    measured = []
    with nullcontext(video) if video else sample_clip(most) as clip:
        for row in profile.rows:
            run = measure(
                assistant,
                clip,
                frames=row.frames,
                budget=row.budget,
                repeats=repeats,
                on_run=report,
            )
            estimate = memory_needed(
                profile.shape,
                frames=row.frames,
                budget=row.budget,
                **asdict(replace(profile.settings, text_tokens=run.text_tokens)),
            )
            measured.append(Measured(run, estimate, assistant.settings))
    return measured


def _configure(assistant: Assistant, profile: Profile) -> None:
    model = assistant.model.model
    model.frames_per_chunk = profile.settings.frames_per_chunk
    model.config.t2v_cache = profile.shape.t2v_cache
    model.config.v2v_scope = profile.shape.v2v_scope


class Peak:
    """Bytes above those at the start, once the block is left; None where they cannot be known."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: "torch.device") -> Iterator[Peak]:
    """The most memory that a block of code holds on `device` above what is held before it."""
    import torch

    peak = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    _return_freed_memory()
    known = device.type == "cpu" and _reset_high_water()
    resident = process_status("VmRSS")
    yield peak
    highest = process_status("VmHWM")
    if known and resident is not None and highest is not None:
        peak.bytes = max(highest - resident, 0)


@contextmanager
def sample_clip(frames: int, *, size: tuple[int, int] = (640, 360)) -> Iterator[Path]:
    """A clip of at least so many frames in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="crosslmm-profile-") as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, frames=max(2 * frames, 50), size=size)
        yield path


def write_clip(
    path: Path,
    *,
    frames: int,
    size: tuple[int, int],
    fps: int = 25,
    codec_options: Mapping[str, str] | None = None,
) -> None:
    """A moving pattern of `size` (width, height) in H.264, or in MPEG-4 where PyAV lacks that."""
    import numpy as np

    from crosslmm.video.writing import write_frames

    width, height = size
    ramp = np.add.outer(np.arange(height), np.arange(2 * width)) * (256 / width)
    grain = np.random.default_rng(0).integers(0, 6, (height, 2 * width))
    grey = ((ramp + grain) % 256).astype(np.uint8)
    wall = np.stack([grey, grey[::-1], 255 - grey], axis=-1)  # the frame moves along it
    lefts = (3 * number % width for number in range(frames))
    moving = (wall[:, left : left + width] for left in lefts)
    write_frames(path, moving, fps=fps, options=codec_options)


def _return_freed_memory() -> None:
    """glibc keeps what was freed; a peak above it would not show."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_high_water() -> bool:
    """Make the kernel forget the process's highest memory use; False where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
