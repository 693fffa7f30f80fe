"""What is told of this machine without torch is what torch says, wherever it is told."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from crosslmm import host
from crosslmm.device import resolve_device, resolve_dtype

LIST = """
import sys
from crosslmm_cli.main import execute
from crosslmm.host import cpu_dtype, known_device
assert execute(["models", "list"]) == 0
certain = known_device() is not None and cpu_dtype() is not None
print("torch" in sys.modules, not certain)
"""


def test_torch_says_the_same() -> None:
    assert host.known_device() in (None, str(resolve_device()))
    assert host.known_device("cpu") == "cpu"
    assert host.known_device("cuda") is None
    assert host.cpu_dtype() in (None, str(resolve_dtype(None, resolve_device("cpu")))[6:])


def test_where_a_limit_is_set_only_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert host.cpu_dtype() is None


@pytest.mark.parametrize(
    ("build", "known"), [("2.13.0+cpu", "cpu"), ("2.13.0+rocm6.4", None), ("", None)]
)
def test_the_build_of_torch_may_say_it(
    monkeypatch: pytest.MonkeyPatch, build: str, known: str | None
) -> None:
    def version(name: str) -> str:
        if not build:
            raise PackageNotFoundError(name)
        return build

    monkeypatch.setattr(host, "version", version)
    monkeypatch.setattr(sys, "platform", "linux")
    assert host.known_device() == known


def test_the_list_of_models_imports_torch_only_where_it_must() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", LIST], capture_output=True, text=True, check=True
    )
    imported, allowed = finished.stdout.split()[-2:]
    assert imported == "False" or allowed == "True"
