"""The readers there are, which of them can be used here, and in what order they are tried."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from typing import TYPE_CHECKING, Protocol, get_args

from crosslmm.errors import UsageError
from crosslmm.options import ReaderName

if TYPE_CHECKING:
    from crosslmm.video.frames import Frame
    from crosslmm.video.prefetch import Heartbeat
    from crosslmm.video.probe import Plan

READERS = tuple(name for name in get_args(ReaderName) if name != "auto")


class Reader(Protocol):
    """Reads the frames of one plan; what it has to say about damage is complete at the end."""

    warnings: list[str]
    bad_packets: int

    def read(self) -> "Iterator[Frame]":
        """The frames of the plan, ascending, upright, resized."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReaderStatus:
    """Whether a reader can be used here: ``version`` where installed, else ``problem`` in words."""

    name: str
    version: str | None
    problem: str | None = None


def reader_status(name: str) -> ReaderStatus:
    """Whether this reader is installed and may be used, told without importing it."""
    package = {"pyav": "av"}.get(name, name)
    if name == "decord" and _version("decord2") is not None:
        problem = (
            "decord2 is installed under decord's name, and it returns wrong frames on long videos; "
            "pip uninstall decord2, then pip install --force-reinstall decord"
        )
        return ReaderStatus(name=name, version=None, problem=problem)
    version = _version(package)
    if version is None or util.find_spec(package) is None:
        problem = f"{package} is not installed; pip install {package}, or use the reader pyav"
        return ReaderStatus(name=name, version=None, problem=problem)
    return ReaderStatus(name=name, version=version)


def reader_statuses() -> tuple[ReaderStatus, ...]:
    """The status of every reader, in the order in which ``auto`` tries them."""
    return tuple(reader_status(name) for name in READERS)


def candidates(reader: ReaderName) -> tuple[str, ...]:
    """The readers to try, in order; ``UsageError`` for one that cannot be used here."""
    if reader == "auto":
        return tuple(status.name for status in reader_statuses() if status.version is not None)
    status = reader_status(reader)
    if status.problem is not None:
        raise UsageError(f"the reader {reader} cannot be used: {status.problem}")
    return (reader,)


def make_reader(name: str, plan: "Plan", *, heartbeat: "Heartbeat", deadline: float) -> Reader:
    """The reader of that name, about to read ``plan``."""
    if plan.still is not None:
        from crosslmm.video.readers.image import StillReader

        return StillReader(plan)
    if name == "pyav":
        from crosslmm.video.readers.pyav import PyAVReader

        return PyAVReader(plan, heartbeat=heartbeat, deadline=deadline)
    from crosslmm.video.readers.process import ProcessReader

    return ProcessReader(plan, f"crosslmm.video.readers.{name}:read", heartbeat=heartbeat)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
