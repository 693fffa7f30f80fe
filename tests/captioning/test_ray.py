"""What the Ray engine asks of a cluster, without one; `test_killed.py` starts one."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crosslmm.captioning.engines import ray as ray_engine
from crosslmm.captioning.engines.ray import RayEngine
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.reading import Clip
from crosslmm.errors import UsageError
from tests.support.clips import write_clip

# What actors were made with, and what functions were called with on the cluster.
sent: list[Any] = []


class Dataset:
    """Takes every stage and gives no rows."""

    def map_batches(self, stage: Any, *, fn_constructor_args: Any, **options: Any) -> "Dataset":
        sent.extend(fn_constructor_args)
        return self

    def iter_batches(self, **options: Any) -> list[Any]:
        return []


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayEngine]:
    def remote(*arguments: Any) -> Any:
        sent.extend(arguments)
        return "float32", "none", dict[str, str]()

    cluster = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 200.0, "GPU": 4.0},
        remote=lambda work: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote)),
        get=lambda reference: reference,
        kill=lambda actor: None,
        exceptions=SimpleNamespace(RayError=RuntimeError),
        data=SimpleNamespace(
            ActorPoolStrategy=lambda **sizes: sizes,
            from_items=lambda items, **options: Dataset(),
        ),
    )
    monkeypatch.setattr(ray_engine, "_started_ray", lambda: cluster)
    sent.clear()

    def make(model: str, **options: Any) -> RayEngine:
        return ray_engine.start(
            model,
            {},
            options=CaptionOptions(),
            run_options=RunOptions(**options),
            workers=None,
            on_notice=None,
        )

    return make


@pytest.mark.parametrize(("given", "expected"), [(None, 100), (1, 1), (7, 7)])
def test_readers_on_a_cluster_are_half_its_cpus(
    checkpoint: Path, make_engine: Callable[..., RayEngine], given: int | None, expected: int
) -> None:
    assert make_engine(str(checkpoint), readers=given).readers == expected


def test_a_cluster_has_no_main_process_that_decodes(
    checkpoint: Path, make_engine: Callable[..., RayEngine]
) -> None:
    with pytest.raises(UsageError, match="`readers` 0 decodes in the main process"):
        make_engine(str(checkpoint), readers=0)


def test_a_cluster_is_told_to_stop_while_its_next_rows_are_awaited(
    checkpoint: Path, make_engine: Callable[..., RayEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(str(checkpoint))
    told = threading.Event()
    cluster = ray_engine._started_ray()
    actor = SimpleNamespace(set=SimpleNamespace(remote=told.set))
    made = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: actor))
    monkeypatch.setattr(cluster, "remote", lambda work: made)
    monkeypatch.setattr(Dataset, "iter_batches", lambda self, **_: [] if told.wait(30) else None)
    assert list(engine.run(["a.mp4"], stopping=lambda: True)) == []


def test_a_worker_that_is_to_stop_begins_no_batch(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ray_engine._Worker(
        str(checkpoint), {"device": "cpu"}, CaptionOptions(), RunOptions(), object()
    )
    rows = ray_engine._row(Clip(path="a.mp4", problem="it is broken"))
    for stopped, result in [(True, None), (False, "a.mp4")]:
        monkeypatch.setattr(ray_engine, "_is_set", lambda stop, stopped=stopped: stopped)
        (row,) = map(json.loads, worker(rows)["result"])
        assert (row and row["clip"]["path"]) == result


STOPPED = """
import json, os, sys, time
import crosslmm
from crosslmm.captioning.captioner import Captioner

folder, checkpoint, out = sys.argv[1:]
run = crosslmm.caption(
    folder, assistant=checkpoint, engine="ray", workers=1, readers=1, batch_size=4, out=out,
    frames=2, max_new_tokens=400, model_options={"dtype": "float32", "device": "cpu"},
)
for _ in run:
    run.stop()
print(json.dumps({"captioned": run.summary.captioned, "stopped": run.summary.stopped}))
"""


@pytest.mark.ray
@pytest.mark.timeout(900)  # starting a cluster takes its time on a busy machine
def test_on_ray_a_stopped_run_finishes_the_batch_in_flight_only(
    checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "clips").mkdir()
    for number in range(30):
        write_clip(tmp_path / "clips" / f"{number:02}.mp4", frames=2, first_number=9 * number)
    out = tmp_path / "captions.jsonl"
    finished = subprocess.run(
        [sys.executable, "-c", STOPPED, str(tmp_path / "clips"), str(checkpoint), str(out)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
    )
    got = json.loads(finished.stdout.splitlines()[-1])
    assert got["stopped"]
    assert out.read_text("utf-8").count("\n") == got["captioned"] <= 12


def test_a_model_s_folder_reaches_workers_as_an_absolute_path(
    checkpoint: Path, make_engine: Callable[..., RayEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    engine = make_engine(checkpoint.name)
    assert list(engine.run(["a.mp4"], stopping=lambda: False)) == []
    assert engine.model == checkpoint.name
    assert sent.count(str(checkpoint)) == 2
    assert checkpoint.name not in sent
