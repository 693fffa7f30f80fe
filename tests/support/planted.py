"""What somebody else may have put under a name that crosslmm reads or writes."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

STRANGER = 12345

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away"
)

Plant = Callable[[Path, Path], None]
"""Puts something at the first path, which may lead to the second."""


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def second_name(path: Path, victim: Path) -> None:
    os.link(victim, path)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("created"))


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


def strangers(path: Path, victim: Path) -> None:
    path.write_bytes(b"planted")
    os.chown(path, STRANGER, STRANGER)


def device(path: Path, victim: Path) -> None:
    with suppress(PermissionError):  # where containers may not
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # endless zeros
        return
    pytest.skip("no device may be made here")


PLANTED = [
    *(link, second_name, dangling, pipe, folder),
    pytest.param(strangers, marks=needs_root),
    pytest.param(device, marks=needs_root),
]
