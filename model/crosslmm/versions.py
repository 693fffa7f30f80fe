"""Versions of what a result depends on, from the packages' metadata: nothing is imported for it."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def library_versions(*more: str) -> dict[str, str]:
    """Of crosslmm, Python, and those of torch, transformers, PyAV and `more` that are installed."""
    versions = {"crosslmm": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "av", *more):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
