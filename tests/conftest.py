"""What every test shares: no network, no settings or models of the person who runs them, one tiny
checkpoint, one clip, and the command line called in-process."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.site import Site

# Started in the background of a script, Ctrl-C is ignored, and so it would be in what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports huggingface_hub, which reads these once.
_HOME = Path(tempfile.mkdtemp(prefix="crosslmm-tests-"))
os.environ["HF_HOME"] = str(_HOME / "huggingface")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CROSSLMM_HOME"] = str(_HOME / "crosslmm")
os.environ["CROSSLMM_CACHE"] = str(_HOME / "cache")
os.environ["NO_COLOR"] = "1"
for name in ("HF_HUB_CACHE", "HF_ENDPOINT", "CROSSLMM_MODEL"):
    os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Of a worker of pytest-xdist: "popen-gw0" in every path is a word that tests of words may look for.
    if hasattr(config, "workerinput"):
        folder = Path(config.option.basetemp)
        config.option.basetemp = folder.with_name(folder.name.removeprefix("popen-"))


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked `gpu` see one: the others compare to the bit, and name devices."""
    if "gpu" not in request.keywords:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CrossLMM with open gates."""
    from tests.support.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of video, 30 frames."""
    from tests.support.clips import write_clip

    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(path, frames=30, fps=10)
    return path


@dataclass(frozen=True)
class Finished:
    """A command line that has run."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`run(*arguments)`: the command line in this process, through the real error table."""
    from crosslmm_cli.main import execute

    def call(*arguments: object) -> Finished:
        capsys.readouterr()
        code = execute([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return call


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, named models and a Hugging Face cache of the test's own."""
    from huggingface_hub import constants

    monkeypatch.setenv("CROSSLMM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator["Site"]:
    """A server of this machine, which may be downloaded from by http."""
    from tests.support.site import open_site

    with open_site(monkeypatch) as site:
        yield site
