"""A test of transformers' model suites is skipped for a reason that is listed, or it fails."""

import re
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report: Any = yield
    kind = getattr(item, "cls", None)
    if report.skipped and kind is not None and kind.__name__ == "CrossLMMModelTest":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skips = item.module.SKIPS  # type: ignore[attr-defined]
        if not any(re.search(words, reason) for words in skips):
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that SKIPS does not list: {reason}"
    return report
