"""The security rules of ruff are on, and each exception says why it is one."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXCEPTION = re.compile(r"# noqa: S\d+(, [A-Z]+\d+)*(?P<reason>.*)")


@pytest.fixture(scope="module")
def lint() -> dict[str, object]:
    settings: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return settings["tool"]["ruff"]["lint"]  # type: ignore[index, no-any-return]


def test_the_rules_are_on_for_the_library_and_the_command_line(lint: dict[str, object]) -> None:
    assert "S" in lint["select"]  # type: ignore[operator]
    assert [rule for rule in lint["ignore"] if rule.startswith("S")] == ["S101"]  # type: ignore[attr-defined]
    excepted = lint["per-file-ignores"]
    folders = [name for name, rules in excepted.items() if any(r[0] == "S" for r in rules)]  # type: ignore[attr-defined]
    assert sorted(folders) == ["benchmarks/**", "docs/**", "tests/**"]


def test_every_exception_has_its_reason() -> None:
    found = 0
    for folder in ("model", "crosslmm_cli", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
                if match := EXCEPTION.search(line):
                    found += 1
                    assert len(match["reason"].strip()) > 5, f"{path}:{number} gives no reason"
    assert found > 5


def test_no_blanket_exceptions() -> None:
    blanket = re.compile(r"#\s*noqa\s*(:\s*S\s|$)|#\s*ruff:\s*noqa", re.MULTILINE)
    for folder in ("model", "crosslmm_cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert not blanket.search(path.read_text("utf-8")), path
