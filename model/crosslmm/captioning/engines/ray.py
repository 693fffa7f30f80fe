"""The same stages on a Ray cluster: CPU actors read, GPU actors caption, Ray Data streams between them.

The manifest, written by the calling process, decides what is done: Ray's checkpointing repeats the
work of finished rows and writes them twice. A worker that dies is replaced and what it held is done
again; its rows come here once, and one that came twice would be ignored.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosslmm.captioning.engines import InProgress, Results
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.pool import ClipReader
from crosslmm.captioning.reading import Clip, ReadRequest, pack, read_request, unpack
from crosslmm.captioning.results import CaptionResult, Segment, TimeBreakdown
from crosslmm.checkpoints import catalog
from crosslmm.errors import CrossLMMError, UsageError, first_line
from crosslmm.fingerprint import checkpoint_fingerprint
from crosslmm.options import check_feature_bits, features_setting

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant

# Rows of Ray's tables. To readers: `path` in bytes, since names need not be text. To workers: `head`,
# the JSON of a clip (null for a video that is not begun any more), and `pixels`, its frames. From
# workers: `result`, the JSON of a clip without frames and its segment, or null.
Columns = dict[str, Any]

_BLOCKS = 10_000
_POLL = 0.1  # seconds between two looks at whether to stop


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
        if workers is not None and workers < 1:
            raise UsageError(f"`workers` must be an integer from 1 up, not {workers}")
        if run_options.readers == 0:
            raise UsageError(
                "`readers` 0 decodes in the main process, and on a cluster no video is there; "
                "give at least 1"
            )
        self.options = options
        self.run_options = run_options
        self.workers = workers
        self._named = model
        self._model_options = dict(model_options)

    def start(self) -> None:
        """Connect to the cluster, and see what it has and how it will run the model."""
        from crosslmm.checkpoints.loading import load_config, load_processor

        ray = _started_ray()
        self.model = catalog.default_model().name if self._named is None else self._named
        resolved = catalog.resolve_model(self.model)
        folder = resolved.folder.absolute()
        # The working folder of a worker is a different one.
        named = (resolved.adapter or resolved.folder).absolute()
        self._loaded = str(named) if os.path.isdir(self.model) else self.model
        processor = load_processor(folder)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        readers = self.run_options.readers
        self.readers = max(1, cpus // 2 if readers is None else readers)
        self.workers = self.workers or gpus or 1
        self._resources = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        self.fingerprint = checkpoint_fingerprint(folder, resolved.adapter)
        self.default_frames = load_config(folder).default_frames
        self._request = read_request(
            "",
            self.options,
            size=processor.frame_size,
            resample=int(processor.image_processor.resample),
            default_frames=self.default_frames,
        )
        tokens = self._model_options.get("tokens_per_frame") or processor.tokens_per_frame
        describe = ray.remote(_describe_worker).options(**self._resources)
        dtype, quantization, self.versions = ray.get(
            describe.remote(str(folder), self._model_options)
        )
        self.settings = {
            "dtype": dtype,
            "quantization": quantization,
            "tokens_per_frame": str(tokens),
            **features_setting(check_feature_bits(self._model_options.get("feature_bits"))),
        }

    def load(self) -> None:
        """Nothing: the workers load their own."""

    def run(self, paths: Sequence[str], *, stopping: Callable[[], bool]) -> Results:
        if not paths:
            return
        ray = _started_ray()
        pool = ray.data.ActorPoolStrategy
        rows = [{"path": os.fsencode(path)} for path in paths]
        stop: Any = ray.remote(_Stop).options(num_cpus=0).remote()
        # Small blocks, so that rows come as they are done and little is done again.
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
        dataset = dataset.map_batches(
            _Reader,
            batch_size=1,
            num_cpus=1,
            compute=pool(min_size=1, max_size=self.readers),
            fn_constructor_args=(self._request, stop),
        ).map_batches(
            _Worker,
            batch_size=self.run_options.batch_size,
            compute=pool(min_size=1, max_size=self.workers),
            fn_constructor_args=(
                self._loaded,
                self._model_options,
                self.options,
                self.run_options,
                stop,
            ),
            **self._resources,
        )
        videos = InProgress()
        ended = threading.Event()

        def tell() -> None:
            # From a thread, since the next rows may come only when workers have begun another batch.
            while not ended.wait(_POLL):
                if stopping():
                    ray.get(stop.set.remote())
                    return

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                yield list(_results(batch, videos))
        except ray.exceptions.RayError as error:
            raise CrossLMMError(f"Ray failed: {first_line(error)}") from error
        finally:
            ended.set()
            telling.join()
            with suppress(Exception):
                ray.kill(stop)

    def time_breakdown(self) -> TimeBreakdown | None:
        return None


class _Stop:
    """An actor that the calling process tells that no further video or batch is to be begun."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def get(self) -> bool:
        return self.is_set


class _Reader:
    """Reads videos; an actor, with a process of its own that can be killed over a bad file."""

    def __init__(self, request: ReadRequest, stop: Any) -> None:
        self._request = request
        self._stop = stop
        self._reader = ClipReader(deadline=request.sampling.deadline)

    def __call__(self, batch: Columns) -> Iterator[Columns]:
        for name in batch["path"]:
            path = os.fsdecode(bytes(name))
            if _is_set(self._stop):
                yield _row(None)
                continue
            try:
                for clip in self._reader.read(replace(self._request, path=path)):
                    yield _row(clip)
                    if _is_set(self._stop):
                        break
            except CrossLMMError as error:
                yield _row(Clip(path=path, problem=str(error)))


class _Worker:
    """Captions clips; an actor, with a model of its own."""

    def __init__(
        self,
        model: str,
        model_options: dict[str, Any],
        options: CaptionOptions,
        run_options: RunOptions,
        stop: Any,
    ) -> None:
        from crosslmm.captioning.captioner import Captioner
        from crosslmm.inference.assistant import load

        self._captioner = Captioner(
            load(model, **model_options), options, batch_size=run_options.batch_size
        )
        self._stop = stop

    def __call__(self, batch: Columns) -> Columns:
        if _is_set(self._stop):  # what has only been read is left for the next run
            return {"result": [json.dumps(None)] * len(batch["head"])}
        rows = zip(batch["head"], batch["pixels"], strict=True)
        clips = [_clip(*row) for row in rows]
        segments = iter(self._captioner.caption([clip for clip in clips if clip is not None]))
        done = [
            clip and {"clip": vars(replace(clip, frames=None)), "segment": asdict(next(segments))}
            for clip in clips
        ]
        return {"result": list(map(json.dumps, done))}


def _is_set(stop: Any) -> bool:
    import ray

    return bool(ray.get(stop.get.remote()))


def _results(batch: Columns, videos: InProgress) -> Iterator[CaptionResult]:
    """The results of the videos that these rows complete."""
    for text in batch["result"]:
        row = json.loads(str(text))
        if row is not None:
            result = videos.add(Clip(**row["clip"]), Segment.from_dict(row["segment"]))
            if result is not None:
                yield result


def _describe_worker(folder: str, model_options: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """How a worker's machine will run the model: dtype, quantization, versions."""
    from pathlib import Path

    from crosslmm.checkpoints.headers import read_headers
    from crosslmm.checkpoints.quantization import resolve_quantization
    from crosslmm.device import resolve_device, resolve_dtype
    from crosslmm.versions import library_versions

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
            raise CrossLMMError(f"Ray did not start: {first_line(error)}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _row(clip: Clip | None) -> Columns:
    head, pixels = (None, b"") if clip is None else pack(clip)
    return {"head": [json.dumps(head)], "pixels": [bytes(pixels)]}


def _clip(text: Any, pixels: bytes) -> Clip | None:
    import numpy as np

    head = json.loads(str(text))
    return None if head is None else unpack(head, np.frombuffer(bytes(pixels), dtype=np.uint8))


def start(
    assistant: "Assistant | str | os.PathLike[str] | None",
    model_options: Mapping[str, Any],
    *,
    options: CaptionOptions,
    run_options: RunOptions,
    workers: int | None,
    on_notice: Callable[[str], None] | None,
) -> RayEngine:
    if assistant is not None and not isinstance(assistant, str | os.PathLike):
        raise UsageError(
            "`engine` ray needs the name of a model, which its workers load themselves"
        )
    name = None if assistant is None else os.fspath(assistant)
    engine = RayEngine(
        name, model_options, options=options, run_options=run_options, workers=workers
    )
    engine.start()
    return engine
