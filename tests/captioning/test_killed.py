"""A run that is killed again and again ends where an undisturbed one does; so does one on Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.clips import write_clip

CLIPS = 24

# One interpreter that has imported everything forks the runs, since importing is most of a run.
KILLED = """
import json, os, random, signal, sys, time
import psutil, torch
import crosslmm
from crosslmm import captioning
from crosslmm.inference import assistant
from crosslmm.captioning import run
from crosslmm.captioning.engines import local

folder, checkpoint, out, kills, seed = sys.argv[1:]
moment = random.Random(int(seed))
torch.set_num_threads(1)

def begin():
    if pid := os.fork():
        return pid
    model = crosslmm.load(checkpoint, dtype="float32", device="cpu")
    for _ in crosslmm.caption(folder, assistant=model, out=out, readers=1, frames=2,
                              max_new_tokens=24, batch_size=2):
        pass
    os._exit(0)

def lines():
    try:
        with open(out, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""

began, readers, torn = time.monotonic(), [], 0
assert os.waitpid(begin(), 0)[1] == 0
complete = lines()
seconds = time.monotonic() - began
os.remove(out)

counts = []
for kill in range(int(kills)):
    before = lines().count(b"\\n")
    pid = begin()
    time.sleep(seconds * moment.uniform(0.1, 0.3))
    # Every other run gets to write something first, however long a start takes on this machine.
    while kill % 2 and lines().count(b"\\n") < before + moment.randint(1, 3):
        time.sleep(0.005)
    readers += psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    data = lines()
    torn += bool(data) and not data.endswith(b"\\n")
    paths = [json.loads(line)["path"] for line in data.splitlines(keepends=True)
             if line.endswith(b"\\n")]
    assert len(set(paths)) == len(paths)
    counts.append(len(paths))
assert os.waitpid(begin(), 0)[1] == 0
gone, alive = psutil.wait_procs(readers, timeout=20)
print(json.dumps({"complete": complete.decode(), "killed": lines().decode(), "counts": counts,
                  "readers": len(readers), "alive": len(alive)}))
"""

# A worker is killed after some results, a reader as soon as it reads: it is done long before.
ON_RAY = """
import json, signal, sys, threading, time
import psutil, ray
import crosslmm

folder, checkpoint, out = sys.argv[1:]
killed, paths = [], []

def kill(stage):
    for process in psutil.process_iter(["cmdline"]):
        name = " ".join(process.info["cmdline"] or ())
        try:
            busy = stage == "_Worker" or process.children()
            if name.startswith("ray::") and stage in name and busy:
                process.send_signal(signal.SIGKILL)
                killed.append(stage)
                return
        except psutil.NoSuchProcess:
            pass

def kill_reader():
    while not killed:
        kill("_Reader")
        time.sleep(0.05)

for attempt in range(3):
    try:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        break
    except Exception:  # a machine that is too busy for it to start in 30 seconds
        ray.shutdown()
run = crosslmm.caption(
    folder, assistant=checkpoint, engine="ray", workers=2, readers=2, batch_size=2, out=out,
    frames=2, max_new_tokens=24, merge="salient", keep="50%",
    model_options={"dtype": "float32", "device": "cpu"},
)
threading.Thread(target=kill_reader, daemon=True).start()
for result in run:
    paths.append(result.path)
    if len(paths) == 4:
        kill("_Worker")
print(json.dumps({"killed": killed, "paths": paths, "failed": run.summary.failed}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(CLIPS):
        write_clip(folder / f"{number:03}.mp4", frames=1 + number % 9, first_number=20 * number)
    (folder / "bad.mp4").write_bytes(b"text")
    (folder / "empty.mp4").touch()
    return folder


def python(script: str, *arguments: object) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    finished = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        env=environment,
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith(b"{")]  # Ray prints
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def results(text: str) -> list[tuple[Any, ...]]:
    names = ("path", "caption", "error", "content", "settings_hash")
    records = map(json.loads, text.splitlines())
    return sorted(tuple(record[name] or "" for name in names) for record in records)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
def test_killed_runs_end_where_an_undisturbed_one_does(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    got = python(KILLED, folder, checkpoint, tmp_path / "captions.jsonl", 4, 7)
    assert results(got["killed"]) == results(got["complete"])
    assert len(results(got["complete"])) == CLIPS + 2
    assert got["counts"] == sorted(got["counts"])
    assert 0 < got["counts"][-1] < CLIPS + 2
    assert got["readers"] > 0
    assert got["alive"] == 0


@pytest.mark.ray
@pytest.mark.timeout(900)  # starting a cluster takes its time on a busy machine
def test_on_ray_killed_workers_lose_nothing_and_double_nothing(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    import crosslmm

    out = tmp_path / "captions.jsonl"
    got = python(ON_RAY, folder, checkpoint, out)
    assert got["killed"] == ["_Reader", "_Worker"]
    assert sorted(got["paths"]) == sorted(str(path) for path in folder.iterdir())
    assert got["failed"] == 2

    local = tmp_path / "local.jsonl"
    options: dict[str, Any] = {"frames": 2, "max_new_tokens": 24, "readers": 0}
    options |= {"merge": "salient", "keep": "50%"}
    model = crosslmm.load(checkpoint, dtype="float32", device="cpu")
    list(crosslmm.caption(folder, assistant=model, out=local, **options))
    assert results(out.read_text("utf-8")) == results(local.read_text("utf-8"))
    # What Ray did, this process takes as done.
    assert list(crosslmm.caption(folder, assistant=model, out=out, **options)) == []
