"""Names of files that somebody gave you, where they are shown: no lines, codes or marks of ours."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm_cli.output import Output, one_line
from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`
FORGED = "crosslmm: all 5 captioned"
NAME = f"a\n{FORGED}\x1b[31m\r\u2028.mp4"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such names there")


@pytest.mark.parametrize(
    "content", [b"\0\0\0\x18ftypmp42" + bytes(99), None], ids=["broken", "good"]
)
def test_a_line_break_in_a_name_begins_no_line(
    tmp_path: Path, clip: Path, checkpoint: Path, run: Run, content: bytes | None
) -> None:
    (tmp_path / NAME).write_bytes(clip.read_bytes() if content is None else content)
    options = ("-m", checkpoint, "--frames", 1, "--max-new-tokens", 1, "--verbose")
    done = run("caption", tmp_path, *options, "-o", tmp_path.parent / "out.jsonl")
    assert FORGED in done.err
    assert not any(line.startswith(FORGED) for line in done.err.splitlines())
    assert "\x1b" not in done.err


def test_a_cell_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table([("video", "frames"), (NAME, "3"), ("b.mp4", "4")], right=(1,))
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_every_end_of_a_line(end: str) -> None:
    assert one_line(f"a{end}b") == "a b"
    assert one_line("") == ""
