"""Features in 8 bits: asked for, said, and never otherwise."""

import io
import json
from pathlib import Path

import pytest

from tests.support.tiny import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("home")


def test_answers_say_it(run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ("ask", clip, "what?", "-n", 3, "--max-new-tokens", 1, "--json", "--model", checkpoint)
    packed = run(*ask, "--feature-bits", 8)
    assert packed.code == 0, packed.err
    assert json.loads(packed.out)["settings"]["features"] == "8bit"
    assert "features kept in 8 bits\n" in packed.err
    plain = run(*ask)
    assert "features" not in json.loads(plain.out)["settings"]
    assert "8 bits" not in plain.err
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n"))
    chat = ("chat", clip, "-n", 3, "--max-new-tokens", 1, "--model", checkpoint)
    assert "features kept in 8 bits\n" in run(*chat, "--feature-bits", 8).err


def test_other_numbers_are_refused_before_anything_is_loaded(run, clip: Path) -> None:
    done = run("ask", clip, "what?", "--model", "demo", "--feature-bits", 4)
    assert (done.code, done.out) == (2, "")
    assert done.err == "crosslmm: --feature-bits must be 8, or not be given, not 4\n"


def test_where_nothing_reads_them_nothing_is_said(run, clip: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "closed", gates=False)
    done = run(
        "ask", clip, "what?", "-n", 3, "--max-new-tokens", 1, "--model", folder,
        "--feature-bits", 8,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "features kept" not in done.err


def test_profile_counts_them(run) -> None:
    def features(*options: object) -> int:
        done = run("profile", "--model", "crosslmm-7b", "--frames", 64, "--json", *options)
        return json.loads(done.out)["rows"][0]["memory"]["features"]

    patches = 64 * 729
    assert features() == patches * 1152 * 2
    assert features("--feature-bits", 8) == patches * (1152 + 4)
    assert features("--feature-bits", 8, "--cross-kv", "shared") == patches * (1024 + 8)
    done = run("profile", "--model", "crosslmm-7b", "--frames", 64, "--feature-bits", 8)
    assert "8-bit features" in done.out
