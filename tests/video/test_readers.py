"""Readers other than PyAV, readers that hang, and the thread and process that hold them.

The functions `hang`, `hang_hard`, ... are targets of readers; each is imported by a
worker process of its own.
"""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import crosslmm
from crosslmm.errors import UsageError, VideoError
from crosslmm.options import Sampling
from crosslmm.video import open_stream, reader_statuses
from crosslmm.video.readers import READERS, ReaderSpec
from crosslmm.video.readers.job import DecodeJob
from crosslmm.video.readers.pyav import PyAVReader
from crosslmm.video.stream import FrameStream
from tests.support.clips import copy_from, numbers_of, picture, write_clip
from tests.support.threads import no_thread_within, reading_threads

HAS_DECORD = any(s.name == "decord" and s.version for s in reader_statuses())
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord is not installed here")
ROOT = Path(__file__).parents[2]

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def good(job: DecodeJob) -> Iterator[tuple[int, np.ndarray]]:
    print("a library's chatter")
    os.write(1, b"more of it\n")
    for number in job.indices:
        yield number, picture(number)


def hang(job: DecodeJob) -> Iterator[tuple[int, np.ndarray]]:
    Path(job.path + ".pid").write_text(str(os.getpid()))
    yield job.indices[0], picture(job.indices[0])
    time.sleep(1000)


def hang_hard(job: DecodeJob) -> Iterator[tuple[int, np.ndarray]]:
    """Hang inside C with the interpreter's lock held: no thread of the process runs again."""
    Path(job.path + ".pid").write_text(str(os.getpid()))
    yield job.indices[0], picture(job.indices[0])
    ctypes.PyDLL(None).sleep(1000)


def crash(job: DecodeJob) -> Iterator[tuple[int, np.ndarray]]:
    yield job.indices[0], picture(job.indices[0])
    os.kill(os.getpid(), signal.SIGSEGV)


def fail(job: DecodeJob) -> Iterator[tuple[int, np.ndarray]]:
    raise RuntimeError("[12:00:00] /src/video.cc:42: Check failed:\n a long story")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.mp4", frames=40, gop=20)
    return tmp_path / "clip.mp4"


@pytest.fixture
def read_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace PyAV's reader by a worker with the named function, or by a class."""

    def replace(double: str | type) -> None:
        in_process = isinstance(double, type)
        target = f"{__name__}:{double.__name__ if isinstance(double, type) else double}"
        spec = ReaderSpec(package="av", target=target, in_process=in_process)
        monkeypatch.setitem(READERS, "pyav", spec)

    return replace


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shorten(stream: FrameStream, deadline: float) -> None:
    """Give the running reader a deadline; starting a worker may take long on a busy machine."""
    assert stream._running is not None
    stream._running.deadline = deadline


def gone_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


class HangsAfterThree(PyAVReader):
    """PyAV's reader, stuck after three frames as a library would be: it looks up no more."""

    release = threading.Event()

    def read(self) -> Iterator:
        for count, frame in enumerate(super().read()):
            if count == 3:
                self.release.wait(60)
            yield frame


class FailsAfterThree(PyAVReader):
    def read(self) -> Iterator:
        for count, frame in enumerate(super().read()):
            if count == 3:
                raise VideoError(f"{self.plan.path}: cannot go on")
            yield frame


def test_worker_gives_the_frames_past_a_library_s_chatter(clip: Path, read_with: Callable) -> None:
    read_with("good")
    frames = crosslmm.sample(clip, frames=7, seek="exact", reader="pyav", size=(32, 40))
    assert frames.pixels.shape == (7, 32, 40, 3)
    assert numbers_of(frames.pixels) == list(frames.indices)
    assert frames.pixels.flags.writeable


@needs_proc
@pytest.mark.parametrize("double", ["hang", "hang_hard"])
def test_hanging_worker_is_killed_at_the_deadline(
    double: str, clip: Path, read_with: Callable
) -> None:
    read_with(double)
    with open_stream(clip, frames=7, reader="pyav") as stream:
        next(stream)
        began = time.monotonic()
        shorten(stream, 1.0)
        with pytest.raises(VideoError, match=r"clip\.mp4: the reader pyav made no progress"):
            next(stream)
    assert time.monotonic() - began < 10
    assert gone_within(int(Path(f"{clip}.pid").read_text()), 2)
    assert no_thread_within(5)


@needs_proc
def test_closing_kills_the_worker(clip: Path, read_with: Callable) -> None:
    read_with("hang")
    stream = open_stream(clip, frames=7, reader="pyav")
    next(stream)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1
    assert gone_within(int(Path(f"{clip}.pid").read_text()), 1)
    assert list(stream) == []


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize("double", ["hang", "hang_hard"])
def test_worker_dies_with_a_parent_that_is_killed(double: str, clip: Path) -> None:
    script = f"""
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from crosslmm.video import open_stream
        from crosslmm.video.readers import READERS, ReaderSpec
        READERS["pyav"] = ReaderSpec(package="av", target="tests.video.test_readers:{double}")
        opened = open_stream({str(clip)!r}, frames=7, reader="pyav")
        next(opened)
        print("hanging", flush=True)
        next(opened)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"hanging\n"
    worker = int(Path(f"{clip}.pid").read_text())
    assert alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within(worker, 5)


def test_crash_of_the_worker_is_an_error(clip: Path, read_with: Callable) -> None:
    read_with("crash")
    with pytest.raises(VideoError, match=r"clip\.mp4: the decoding process died \(signal 11\)"):
        crosslmm.sample(clip, frames=7, reader="pyav")


def test_a_failure_in_the_worker_is_a_plain_error(clip: Path, read_with: Callable) -> None:
    read_with("fail")
    with pytest.raises(VideoError, match="use `reader` pyav") as caught:
        crosslmm.sample(clip, frames=7, reader="pyav")
    assert "Check failed" not in str(caught.value)


def test_neither_main_nor_the_working_directory_is_run_again(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("json", "decord", "numpy"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    # No guard around its body, as in many a user's script.
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "import crosslmm\n"
        "from crosslmm.video.readers import READERS, ReaderSpec\n"
        "READERS['pyav'] = ReaderSpec(package='av', target='tests.video.test_readers:good')\n"
        f"print(len(crosslmm.sample({str(clip)!r}, frames=3, reader='pyav')))\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.stderr) == ("3\n", "")


@needs_decord
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", {"options": {"bf": "2"}}),
        ("plain.mkv", {}),
        ("uneven.mp4", {"times": [0, 40, 80, 500, 540, 1000, 1033, 1066, 2000, 2500]}),
        ("turned.mp4", {"rotation": 90, "width": 128}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("anamorphic.mp4", {"aspect": 2}),
    ],
)
def test_decord_agrees_with_pyav(name: str, options: dict, tmp_path: Path) -> None:
    write_clip(tmp_path / name, **options)
    ours = crosslmm.sample(tmp_path / name, frames=6, seek="exact", size=(64, 96))
    theirs = crosslmm.sample(
        tmp_path / name, frames=6, seek="exact", size=(64, 96), reader="decord"
    )
    assert theirs.source.reader == "decord"
    assert (theirs.indices, theirs.times) == (ours.indices, ours.times)
    assert numbers_of(theirs.pixels) == list(theirs.indices)


@needs_decord
def test_decord_is_not_trusted_where_it_is_wrong(tmp_path: Path) -> None:
    write_clip(tmp_path / "whole.mp4", frames=60, gop=12)
    copy_from(tmp_path / "whole.mp4", tmp_path / "cut.mp4", start=1.75)
    write_clip(tmp_path / "stream.ts")
    open_gop = {"x265-params": "log-level=none:open-gop=1:keyint=12:bframes=4"}
    write_clip(tmp_path / "open_gop.mp4", codec="libx265", frames=40, options=open_gop)
    write_clip(tmp_path / "mirrored.mp4", mirrored=True)
    for name in ("cut.mp4", "stream.ts", "open_gop.mp4", "mirrored.mp4"):
        with pytest.raises(VideoError, match=rf"{name}: decord .* use `reader` pyav"):
            crosslmm.sample(tmp_path / name, frames=8, reader="decord")


@needs_decord
def test_decord_cannot_read_av1_and_says_so(tmp_path: Path) -> None:
    write_clip(tmp_path / "av1.mp4", codec="libsvtav1", frames=8)
    with pytest.raises(VideoError, match="decord could not decode this file; use `reader` pyav"):
        crosslmm.sample(tmp_path / "av1.mp4", reader="decord")


def installed(name: str, version: str, folder: Path) -> None:
    (folder / f"{name}-{version}.dist-info").mkdir()
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


def test_decord2_is_refused_by_name(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("decord2", "3.4.0", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"decord2 .* wrong frames"):
        crosslmm.sample(clip, reader="decord")
    assert [s.version for s in reader_statuses() if s.name == "decord"] == [None]


@pytest.mark.skipif(
    any(s.name == "torchcodec" and s.version for s in reader_statuses()),
    reason="torchcodec is installed here",
)
def test_torchcodec_missing_or_broken(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="torchcodec is not installed"):
        crosslmm.sample(clip, reader="torchcodec")
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").touch()
    (tmp_path / "torchcodec" / "decoders.py").write_text("raise OSError('libnvrtc.so.13')")
    installed("torchcodec", "0.17.0", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VideoError, match="torchcodec is installed but does not load"):
        crosslmm.sample(clip, reader="torchcodec")


@needs_decord
@pytest.mark.parametrize("double", [HangsAfterThree, FailsAfterThree])
def test_the_next_reader_goes_on_where_one_gave_up(
    double: type, clip: Path, read_with: Callable
) -> None:
    read_with(double)
    HangsAfterThree.release.clear()
    try:
        with open_stream(clip, frames=9, seek="exact") as stream:
            frames = [next(stream) for _ in range(3)]
            shorten(stream, 1.0)
            frames += stream
    finally:
        HangsAfterThree.release.set()
    assert no_thread_within(5)
    assert numbers_of([frame.pixels for frame in frames]) == [frame.index for frame in frames]
    assert len({frame.index for frame in frames}) == 9
    assert stream.source.reader == "decord"
    assert "decord took over after 3 frames" in stream.warnings[0]


@needs_decord
def test_when_all_readers_fail_the_first_error_is_raised(
    tmp_path: Path, read_with: Callable
) -> None:
    write_clip(tmp_path / "clip.ts", frames=40)  # decord is refused for these
    read_with(FailsAfterThree)
    with pytest.raises(VideoError, match="cannot go on"):
        crosslmm.sample(tmp_path / "clip.ts", frames=9)


def test_a_reader_asked_for_by_name_has_no_successor(clip: Path, read_with: Callable) -> None:
    read_with(FailsAfterThree)
    with pytest.raises(VideoError, match="cannot go on"):
        crosslmm.sample(clip, frames=9, reader="pyav")


def test_a_stream_does_nothing_before_it_is_opened(tmp_path: Path) -> None:
    stream = FrameStream(tmp_path / "none.mp4", Sampling(), size=None, resample=3)
    assert reading_threads() == 0
    with pytest.raises(VideoError, match="no such file"):
        stream.open()
    assert no_thread_within(5)


def test_a_file_that_cannot_be_opened_in_time(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    monkeypatch.setattr("crosslmm.video.decoder.open_container", lambda *a, **k: waiting.wait(60))
    began = time.monotonic()
    try:
        with pytest.raises(VideoError, match=r"clip\.mp4: could not be opened within 0\.5 s"):
            open_stream(clip, deadline=0.5)
    finally:
        waiting.set()
    assert no_thread_within(5)
    assert time.monotonic() - began < 3


def test_a_forgotten_stream_ends_its_thread(clip: Path) -> None:
    stream = open_stream(clip, frames=30)
    next(stream)
    assert reading_threads() == 1
    del stream
    gc.collect()
    assert no_thread_within(5)


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
def test_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=600, gop=600, width=320, height=240)
    script = f"""
        import crosslmm, time
        from crosslmm.video import open_stream
        print("started", flush=True)
        try:
            while True:
                with open_stream({str(tmp_path / "clip.mp4")!r}, frames=500) as stream:
                    for frame in stream:
                        pass
        except KeyboardInterrupt:
            print("stopped", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("stopped\n", "", 0)
    assert time.monotonic() - began < 2
