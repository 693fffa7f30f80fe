"""The readers, which of them can be used here, and in what order they are tried.

A new reader is a file in this folder, a line in `READERS` and its name in `options.ReaderName`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata, util
from typing import TYPE_CHECKING, Protocol

from crosslmm.errors import UsageError
from crosslmm.options import ReaderName, Sampling

if TYPE_CHECKING:
    from crosslmm.video.decoder import Decoder
    from crosslmm.video.frames import Frame
    from crosslmm.video.plan import ReadPlan
    from crosslmm.video.prefetch import Heartbeat


class Reader(Protocol):
    """Reads the frames of one plan; what it has to say about damage is complete at the end."""

    warnings: list[str]
    bad_packets: int

    def read(self) -> "Iterator[Frame]":
        """The frames of the plan, ascending, upright, resized."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReaderSpec:
    """A reader: the `package` that it needs, and the `target` ("module:name") that does the reading.

    The target is a function that a worker process calls, see `readers.job`; with `in_process` it is a
    `Reader` class that takes a plan, `heartbeat`, `sampling` and the `decoder` of the probe.
    `impostor` is a package that installs itself under the same name, and why it is refused.
    """

    package: str
    target: str
    in_process: bool = False
    impostor: tuple[str, str] | None = None


READERS: dict[str, ReaderSpec] = {
    "pyav": ReaderSpec(
        package="av", target="crosslmm.video.readers.pyav:PyAVReader", in_process=True
    ),
    "decord": ReaderSpec(
        package="decord",
        target="crosslmm.video.readers.decord:read",
        impostor=("decord2", "it returns wrong frames on long videos"),
    ),
    "torchcodec": ReaderSpec(package="torchcodec", target="crosslmm.video.readers.torchcodec:read"),
}


@dataclass(frozen=True, kw_only=True)
class ReaderStatus:
    """Whether a reader can be used here: `version` where installed, else `problem` says why not."""

    name: str
    version: str | None
    problem: str | None = None


def reader_status(name: str) -> ReaderStatus:
    """Whether this reader is installed and may be used, told without importing it."""
    spec = READERS[name]
    package = spec.package
    if spec.impostor is not None and _version(spec.impostor[0]) is not None:
        other, why = spec.impostor
        problem = (
            f"{other} is installed under {package}'s name, and {why}; "
            f"pip uninstall {other}, then pip install --force-reinstall {package}"
        )
        return ReaderStatus(name=name, version=None, problem=problem)
    version = _version(package)
    if version is None or util.find_spec(package) is None:
        problem = f"{package} is not installed; pip install {package}, or use `reader` pyav"
        return ReaderStatus(name=name, version=None, problem=problem)
    return ReaderStatus(name=name, version=version)


def reader_statuses() -> tuple[ReaderStatus, ...]:
    """The status of every reader, in the order in which `auto` tries them."""
    return tuple(reader_status(name) for name in READERS)


def candidates(reader: ReaderName) -> tuple[str, ...]:
    """The readers to try, in order; `UsageError` for one that cannot be used here."""
    if reader == "auto":
        found = tuple(status.name for status in reader_statuses() if status.version is not None)
        return found or ("pyav",)  # packages whose metadata cannot be read may work all the same
    status = reader_status(reader)
    if status.problem is not None:
        raise UsageError(f"the reader {reader} cannot be used: {status.problem}")
    return (reader,)


def make_reader(
    name: str,
    plan: "ReadPlan",
    *,
    heartbeat: "Heartbeat",
    sampling: Sampling,
    decoder: "Decoder | None" = None,
) -> Reader:
    """The reader of that name, about to read `plan`; it uses or closes the open `decoder`."""
    if plan.probe.image is not None:
        from crosslmm.video.readers.image import ImageReader

        return ImageReader(plan)
    spec = READERS[name]
    if spec.in_process:
        module, _, kind = spec.target.partition(":")
        make = getattr(import_module(module), kind)
        reader: Reader = make(plan, heartbeat=heartbeat, sampling=sampling, decoder=decoder)
        return reader
    if decoder is not None:
        decoder.close()  # a library in a worker process opens the file itself
    from crosslmm.video.readers.process import ProcessReader

    return ProcessReader(plan, spec.target, heartbeat=heartbeat)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
