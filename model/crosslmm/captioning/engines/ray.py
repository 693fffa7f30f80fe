"""The same stages on a Ray cluster: CPU actors read, GPU actors caption, Ray Data streams between them.

What is done is decided by our own manifest, written by the process that called: Ray's checkpointing
does the work of finished rows again and writes them twice. A worker that dies is replaced and what it
held is done again; its rows come here once, and one that came twice would be passed over.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from typing import Any

from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.outcomes import InProgress, Outcome, Outcomes, Stopping
from crosslmm.captioning.pool import ReaderProcess
from crosslmm.captioning.reading import HEARTBEAT, ReadRequest, explain, pack, read_request, unpack
from crosslmm.captioning.results import Segment, TimeBreakdown
from crosslmm.checkpoints import catalog
from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.fingerprint import folder_fingerprint

# Rows of Ray's tables: `path` in bytes, since names need not be text; `head`, JSON of a clip or of
# what came of it; `pixels`, the clip's frames.
Columns = dict[str, Any]

_BLOCKS = 10_000


class RayEngine:
    """Captions on a Ray cluster: the one that is running or that RAY_ADDRESS names, else one of this
    machine's. All its machines must see the same files and models under the same names.

    - workers: models at work; default one per GPU, or one where there is none;
    - readers: default half the cluster's CPUs, wherever this process runs.
    """

    def __init__(
        self,
        model: str | None,
        model_options: Mapping[str, Any],
        *,
        options: CaptionOptions,
        run_options: RunOptions,
        workers: int | None,
    ) -> None:
        from crosslmm.checkpoints.loading import load_config, load_processor

        if workers is not None and workers < 1:
            raise UsageError(f"workers is a whole number from 1 up, not {workers}")
        ray = _started_ray()
        self.options = options
        self.run_options = run_options
        self.model = model if model is not None else catalog.default_model().name
        self._model_options = dict(model_options)
        folder = catalog.resolve(self.model).absolute()
        # A worker's working folder is another.
        self._loaded = str(folder) if os.path.isdir(self.model) else self.model
        config, processor = load_config(folder), load_processor(folder)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        readers = run_options.readers
        self.readers = max(1, cpus // 2 if readers is None else readers)
        self._workers = workers or gpus or 1
        self._resources = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        self.fingerprint = folder_fingerprint(folder)
        self.default_frames = config.default_frames
        self._size = processor.frame_size
        self._resample = int(processor.image_processor.resample)
        tokens = model_options.get("tokens_per_frame") or processor.tokens_per_frame
        describe = ray.remote(_describe_worker).options(**self._resources)
        dtype, quantization, self.versions = ray.get(
            describe.remote(str(folder), self._model_options)
        )
        self.settings = {
            "dtype": dtype,
            "quantization": quantization,
            "tokens_per_frame": str(tokens),
        }

    def run(self, paths: Sequence[str], *, stopping: Stopping) -> Outcomes:
        if not paths:
            return
        ray = _started_ray()
        pool = ray.data.ActorPoolStrategy
        orders = [{"path": os.fsencode(path)} for path in paths]
        stop: Any = ray.remote(_Stop).options(num_cpus=0).remote()
        # Small blocks, so that rows come as they are done and little is done again.
        dataset = ray.data.from_items(orders, override_num_blocks=min(len(orders), _BLOCKS))
        dataset = dataset.map_batches(
            _Reader,
            batch_size=1,
            num_cpus=1,
            compute=pool(min_size=1, max_size=self.readers),
            fn_constructor_args=(self._reading(), stop),
        ).map_batches(
            _Worker,
            batch_size=self.run_options.batch_size,
            compute=pool(min_size=1, max_size=self._workers),
            fn_constructor_args=(self._loaded, self._model_options, self.options, self.run_options),
            **self._resources,
        )
        told = False
        videos: dict[str, InProgress | None] = {path: InProgress(path) for path in paths}
        try:
            for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                if stopping() and not told:
                    ray.get(stop.set.remote())
                    told = True
                yield list(_outcomes(rows, videos))
        except ray.exceptions.RayError as error:
            raise CrossLMMError(f"Ray gave up: {_first_line(error)}") from error
        finally:
            with suppress(Exception):
                ray.kill(stop)

    def shares(self) -> TimeBreakdown | None:
        return None

    def _reading(self) -> ReadRequest:
        return read_request(
            "",
            self.options,
            size=self._size,
            resample=self._resample,
            default_frames=self.default_frames,
        )


class _Stop:
    """Told by the calling process that no further video is to be begun; an actor."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def get(self) -> bool:
        return self.is_set


class _Reader:
    """Reads videos; an actor, with a process of its own that can be killed over a bad file."""

    def __init__(self, order: ReadRequest, stop: Any) -> None:
        self._order = order
        self._stop = stop
        self._process = ReaderProcess(timeout=order.sampling.deadline + 5 * HEARTBEAT)

    def __call__(self, batch: Columns) -> Iterator[Columns]:
        import ray

        for name in batch["path"]:
            path = os.fsdecode(bytes(name))
            if ray.get(self._stop.get.remote()):
                yield _row(path, {"kind": "stopped"})
                continue
            order = ReadRequest(**{**vars(self._order), "path": path})
            try:
                for clip in self._process.read(order):
                    head, pixels = pack(clip)
                    yield _row(path, head, bytes(pixels))
            except CrossLMMError as error:
                yield _row(path, {"kind": "error", "error": explain(error, path)})


class _Worker:
    """Captions clips; an actor, with a model of its own."""

    def __init__(
        self,
        model: str,
        model_options: dict[str, Any],
        options: CaptionOptions,
        run_options: RunOptions,
    ) -> None:
        from crosslmm.captioning.captioner import Captioner
        from crosslmm.inference.assistant import load

        self._options = options
        self._captioner = Captioner(
            load(model, **model_options),
            batch_size=run_options.batch_size,
            max_new_tokens=options.max_new_tokens,
        )

    def __call__(self, batch: Columns) -> Columns:
        from crosslmm.captioning.captioner import Task

        rows = list(
            zip(map(_path, batch["path"]), map(_json, batch["head"]), batch["pixels"], strict=True)
        )
        tasks: dict[int, Task] = {}
        for place, (path, head, pixels) in enumerate(rows):
            if head["kind"] == "clip":
                clip = unpack(head, _array(pixels, head))
                prompt = self._options.render(
                    path, start=clip.start, duration=clip.end - clip.start
                )
                tasks[place] = Task(clip, prompt)
        segments = self._captioner.caption(list(tasks.values()))
        results = dict(zip(tasks, segments, strict=True))
        kept = ("kind", "number", "count", "duration", "error")
        heads = []
        for place, (_, head, _) in enumerate(rows):
            short = {name: head[name] for name in kept if name in head}
            if place in results:
                short["segment"] = asdict(results[place])
            heads.append(json.dumps(short))
        return {"path": list(batch["path"]), "head": heads}


def _outcomes(rows: Columns, videos: dict[str, InProgress | None]) -> Iterator[Outcome]:
    """Videos that these rows make whole; None in `videos` marks those that were given out."""
    for name, text in zip(rows["path"], rows["head"], strict=True):
        path, head = _path(name), _json(text)
        video = videos.get(path)
        if video is None or head["kind"] == "stopped":
            continue
        if head["kind"] == "error":
            video.error = head["error"]
        else:
            video.duration, video.count = head["duration"], head["count"]
            video.segments[head["number"]] = Segment.from_dict(head["segment"])
        if video.is_complete:
            videos[path] = None
            yield video.outcome()


def _describe_worker(folder: str, model_options: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """How a worker's machine will run the model: dtype, quantization, versions."""
    from pathlib import Path

    from crosslmm.checkpoints.headers import read_headers
    from crosslmm.checkpoints.quantization import resolve_quantization
    from crosslmm.device import resolve_device, resolve_dtype
    from crosslmm.inference.assistant import library_versions

    device = resolve_device(model_options.get("device"))
    dtype = resolve_dtype(model_options.get("dtype"), device)
    parameters = sum(tensor.count for tensor in read_headers(Path(folder)).values())
    wanted = model_options.get("quantization", "auto")
    kind = resolve_quantization(wanted, device, parameters)
    return str(dtype).removeprefix("torch."), kind, library_versions()


def _started_ray() -> Any:
    """The library, connected to a cluster. Raises UsageError where it is not installed, and
    CrossLMMError where it does not start."""
    try:
        ray: Any = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise UsageError(
            "the ray engine needs Ray, which is not installed: pip install 'crosslmm[ray]'"
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except Exception as error:  # it raises no narrower one
            raise CrossLMMError(f"Ray did not start: {_first_line(error)}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _row(path: str, head: dict[str, Any], pixels: bytes = b"") -> Columns:
    return {"path": [os.fsencode(path)], "head": [json.dumps(head)], "pixels": [pixels]}


def _path(name: Any) -> str:
    return os.fsdecode(bytes(name))


def _json(text: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(str(text))
    return record


def _array(pixels: Any, head: dict[str, Any]) -> Any:
    import numpy as np

    if "shape" not in head:
        return None
    return np.frombuffer(bytes(pixels), dtype=np.uint8).reshape(head["shape"])


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
