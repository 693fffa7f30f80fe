"""Versions of what a result depends on, from the packages' metadata: nothing is imported for it."""

import platform
from importlib.metadata import PackageNotFoundError, version

import crosslmm


def library_versions(*more: str) -> dict[str, str]:
    """Of crosslmm, Python, and those of torch, transformers, PyAV and `more` that are installed."""
    versions = {"crosslmm": crosslmm.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "av", *more):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
