"""The worker's side of `apart`: a stream of a video as replies, its plan before its frames."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from crosslmm.options import Sampling
from crosslmm.video.image import BICUBIC
from crosslmm.video.plan import ReadPlan
from crosslmm.video.stream import FrameStream
from crosslmm.video.worker import Payload


def read(job: dict[str, Any]) -> Iterator[tuple[Any, Payload]]:
    """The handler: the plan, each frame, and at the end what there is to warn of."""
    stream = FrameStream(
        job["path"],
        Sampling(**job["sampling"]),
        size=None if job["size"] is None else tuple(job["size"]),
        resample=job.get("resample", BICUBIC),
    )
    stream.open()
    with stream:
        yield _packed(stream.plan)
        for frame in stream:
            shape = frame.pixels.shape
            yield {"index": frame.index, "time": frame.time, "shape": shape}, frame.pixels.data
        told = stream.warnings[len(stream.plan.warnings) :]
        yield {"warnings": told, "bad_packets": stream.source.damaged_packets}, b""


def _packed(plan: ReadPlan) -> tuple[dict[str, Any], Payload]:
    probe, index = plan.probe, plan.probe.index
    targets = np.array([target.index for target in plan.targets], dtype=np.int64)
    lone = np.array([target.key for target in plan.targets], dtype=np.int64)
    numbers = [index.pts, index.keys.astype(np.int64), targets, lone]
    names = ("tail", "sequential", "leading", "hidden", "bad_reads")
    head = {
        "source": asdict(probe.source),
        "lengths": list(map(len, numbers)),
        "time_base": (index.time_base.numerator, index.time_base.denominator),
        "bad_pts": sorted(index.bad_pts),
        "index_fields": {name: getattr(index, name) for name in names},
        "probe_warnings": probe.warnings,
        "plan_warnings": plan.warnings,
        "mirrored": probe.mirrored,
        "identity": probe.identity,
    }
    return head, np.concatenate(numbers).view(np.uint8).data
