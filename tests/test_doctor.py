"""`doctor` runs the real thing: here on this machine, and with things taken away."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.doctor import Check, check_readers, diagnose
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
    assert "correct on" in checks["quantization"]["detail"]


def test_without_a_model_it_fails_and_says_what_to_do(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSLMM_MODEL", "org/model")
    finished = run("doctor")
    assert finished.code == 1
    assert "FAIL model" in finished.out
    assert "crosslmm models pull org/model" in finished.out


def test_a_reader_that_returns_wrong_frames_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from crosslmm import video

    def black(*arguments: object, **options: object) -> object:
        frames = sample(*arguments, **options)
        frames.pixels[:] = 0
        return frames

    sample = video.sample
    monkeypatch.setattr(video, "sample", black)
    checks = {check.name: check for check in diagnose({"readers": check_readers})}
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
    found = diagnose({"python": doctor.check_python, "readers": check_readers})
    assert [(check.name, check.status) for check in found] == [
        ("python", "ok"),
        ("readers", "failure"),
    ]


def test_a_broken_installation_is_a_finding_and_no_traceback() -> None:
    def broken() -> Check:
        raise OSError("libcuda.so.1: cannot open shared object file")

    (found,) = diagnose({"device": broken})
    assert found == Check("device", "failure", "libcuda.so.1: cannot open shared object file")


def test_a_remedy_names_the_flag_of_the_command_that_takes_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diagnose() -> list[Check]:
        return [Check("quantization", "warning", "bitsandbytes: no", "use `quantization` none")]

    monkeypatch.setattr("crosslmm.doctor.diagnose", diagnose)
    assert run("doctor") == Finished(
        0,
        f"{'WARN quantization':<24}bitsandbytes: no\n{'':<24}use --quantize none\n",
        "",
    )


def test_details_name_the_flags_of_the_command_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm import doctor

    check = Check("reader decord", "note", "decord is not installed; use `reader` pyav")
    monkeypatch.setattr(doctor, "diagnose", lambda: [check])
    assert "use --reader pyav" in run("doctor").out
