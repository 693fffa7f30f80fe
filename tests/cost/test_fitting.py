"""Which published checkpoint is proposed for which machine, and that it is what `load` would do."""

from dataclasses import replace
from pathlib import Path

import pytest

from crosslmm.checkpoints.published import LICENSES
from crosslmm.cost import fitting
from crosslmm.cost.fitting import Machine, fit, fit_all, propose
from crosslmm.cost.memory import memory_needed
from crosslmm.cost.profile import find_shape
from crosslmm.cost.shape import PUBLISHED
from crosslmm.merging import TokenBudget
from tests.support.models import write_cached

SMALL, LARGE = LICENSES
GB = 10**9
GPU = Machine("cuda:0", "a GPU", 24 * GB, "bfloat16", 100 * GB)
CPU = Machine("cpu", "a CPU", 64 * GB, "float32", 100 * GB)

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (GPU, LARGE),
        (replace(GPU, memory=8 * GB), SMALL),  # the larger fits with fewer frames only
        (replace(GPU, memory=2 * GB), SMALL),
        (replace(GPU, memory=GB), None),
        (replace(GPU, disk=10 * GB), SMALL),
        (replace(GPU, disk=GB), None),
        (replace(GPU, device="mps", memory=64 * GB), LARGE),
        (CPU, SMALL),
    ],
)
def test_the_proposal(machine: Machine, name: str | None) -> None:
    proposed = propose(fit_all(machine), machine)
    assert (proposed and proposed.name) == name


def test_a_gpu_runs_the_larger_one_in_4_bits() -> None:
    assert fit(GPU, LARGE).quantization == "4bit"
    assert fit(GPU, SMALL).quantization == "none"
    assert fit(replace(GPU, device="mps"), LARGE).quantization == "none"
    assert fit(CPU, LARGE).quantization == "none"


@pytest.mark.parametrize("machine", [GPU, CPU, replace(GPU, memory=7_500_000_000)])
def test_memory_and_frames_are_those_of_the_profile(machine: Machine) -> None:
    found = fit(machine, LARGE if machine is not CPU else SMALL)

    def needed(frames: int) -> int:
        return memory_needed(
            PUBLISHED[found.name],
            frames=frames,
            budget=TokenBudget(196),
            dtype=machine.dtype,
            quantization=found.quantization,
        ).total

    assert found.problem is None
    assert found.tokens_per_frame == 196
    assert found.memory == needed(found.frames) <= machine.memory
    assert 1 <= found.frames <= min(64, found.most_frames)
    in_context = (32768 - 64 - 1) // 196
    assert found.most_frames == in_context or needed(found.most_frames + 1) > machine.memory


def test_what_does_not_fit_says_why() -> None:
    assert "of memory for a single frame, and cuda:0 has 1.0 GB free" in str(
        fit(replace(GPU, memory=GB), LARGE).problem
    )
    assert "needs 16.3 GB of disk, and 5.0 GB are free" in str(
        fit(replace(GPU, disk=5 * GB), LARGE).problem
    )


def test_what_is_on_disk_needs_none(tmp_path: Path) -> None:
    write_cached(tmp_path / "hub", LARGE, kind="llava_onevision")
    found = fit(replace(GPU, disk=0), LARGE)
    assert (found.installed, found.download, found.problem) == (True, 0, None)


def test_an_interrupted_download_counts_what_has_come(tmp_path: Path) -> None:
    complete = fit(GPU, SMALL).download
    blobs = tmp_path / "hub" / f"models--{SMALL.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights.incomplete").write_bytes(b"x" * 1000)
    assert fit(GPU, SMALL).download == complete - 1000


def test_published_models_are_profiled_without_the_network() -> None:
    assert list(PUBLISHED) == list(LICENSES)
    assert find_shape(SMALL) == PUBLISHED[SMALL]


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "free_disk", lambda: 5 * GB)
    machine = fitting.inspect_machine()
    assert (machine.device, machine.disk) == ("cpu", 5 * GB)
    assert machine.memory > 0
    assert machine.dtype in ("bfloat16", "float32")
