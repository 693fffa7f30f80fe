"""Versions that results are recorded with."""

import platform

import torch

import crosslmm
from crosslmm.versions import library_versions


def test_versions_are_those_that_run() -> None:
    versions = library_versions("numpy", "no-such-package")
    assert list(versions) == ["crosslmm", "python", "torch", "transformers", "av", "numpy"]
    assert versions["crosslmm"] == crosslmm.__version__
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
