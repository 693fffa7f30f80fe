"""`doctor` tries things for real; here on this machine, and with things taken away."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.doctor import Check, diagnose
from tests.conftest import Finished

Run = Callable[..., Finished]


def test_a_working_machine(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLMM_MODEL", str(checkpoint))
    finished = run("doctor", "--json")
    found = json.loads(finished.out)
    checks = {check["name"]: check for check in found["checks"]}
    assert (finished.code, found["able"]) == (0, True), checks
    assert {"python", "packages", "device", "memory", "disk", "quantization"} <= set(checks)
    assert checks["reader pyav"]["status"] == "ok"
    assert checks["model"]["status"] == "ok"
    assert "crosslmm" in checks["model"]["detail"]
    assert "right on" in checks["quantization"]["detail"]


def test_without_a_model_it_fails_and_says_what_to_do(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm import doctor

    monkeypatch.setenv("CROSSLMM_MODEL", "org/model")
    monkeypatch.setattr(doctor, "_CHECKS", {"model": doctor._default_model})
    finished = run("doctor")
    assert finished.code == 1
    assert "FAIL model" in finished.out
    assert "crosslmm models pull org/model" in finished.out


def test_a_reader_that_returns_wrong_frames_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from crosslmm import doctor, video

    def black(*arguments: object, **options: object) -> object:
        frames = sample(*arguments, **options)
        frames.pixels[:] = 0
        return frames

    sample = video.sample
    monkeypatch.setattr(video, "sample", black)
    monkeypatch.setattr(doctor, "_CHECKS", {"readers": doctor._readers})
    checks = {check.name: check for check in diagnose()}
    assert checks["reader pyav"].status == "warning"
    assert "wrong pixels" in checks["reader pyav"].detail
    assert checks["readers"] == Check(
        "readers", "failure", "no reader works", "pip install --force-reinstall av"
    )


def test_nowhere_to_write_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    from crosslmm import doctor

    def none(*arguments: object, **options: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", none)
    monkeypatch.setattr(doctor, "_CHECKS", {"readers": doctor._readers})
    assert [(check.name, check.status) for check in diagnose()] == [
        ("python", "ok"),
        ("readers", "failure"),
    ]


def test_a_broken_installation_is_a_finding_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from crosslmm import doctor

    def broken() -> Check:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "_CHECKS", {"device": broken})
    *_, last = diagnose()
    assert last == Check("device", "failure", "libcuda.so.1: cannot open shared object file")
