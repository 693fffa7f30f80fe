"""What the Ray engine asks of a cluster, without one; `test_killed.py` starts one."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crosslmm.captioning.engines import ray as ray_engine
from crosslmm.captioning.engines.ray import RayEngine
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.errors import UsageError

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


def test_a_model_s_folder_reaches_workers_as_an_absolute_path(
    checkpoint: Path, make_engine: Callable[..., RayEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    engine = make_engine(checkpoint.name)
    assert list(engine.run(["a.mp4"], stopping=lambda: False)) == []
    assert engine.model == checkpoint.name
    assert sent.count(str(checkpoint)) == 2
    assert checkpoint.name not in sent
