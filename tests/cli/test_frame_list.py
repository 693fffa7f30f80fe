"""`--frames-at`: frames that a user names, in a file or on stdin."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm_cli import frame_list
from tests.conftest import Finished

Run = Callable[..., Finished]


def ask(run: Run, clip: Path, checkpoint: Path, names: str | Path) -> Finished:
    return run(
        *("ask", clip, "what?", "--model", checkpoint, "--frames-at", names, "--json"),
        *("--max-new-tokens", "2"),
    )


def test_times_and_indices(run: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "at.txt").write_text("\ufeff2.25\n\n0:01\r\n#3\n1\n", "utf-8")
    finished = ask(run, clip, checkpoint, tmp_path / "at.txt")
    assert finished.code == 0, finished.err
    record = json.loads(finished.out)
    assert [frame["index"] for frame in record["frames"]] == [3, 10, 22]
    assert "--frames-at names the same frame more than once" in finished.err
    assert "1 s (as 1 s)" in finished.err


def test_a_list_of_indices_from_stdin(
    run: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'{"video": "a.mp4", "index": [0, 7, 29]}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    finished = ask(run, clip, checkpoint, "-")
    assert [frame["index"] for frame in json.loads(finished.out)["frames"]] == [0, 7, 29]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\nsoon\n", "at.txt, line 2: 'soon' is neither a time"),
        ("#x", "at.txt, line 1: '#x' is neither"),
        ("", "no frames are named"),
        ("{", "line 1: not valid JSON"),
        ('{"index": 3}', "`index` must be a list of frame numbers"),
        ('{"index": [-1]}', "`index` must be a list of frame numbers"),
        ('{"index": [1]}\n{"index": [2]}', "2 lists of frames"),
        ("\0", "line 1"),
    ],
)
def test_what_is_no_list_is_refused_before_torch(
    run: Run,
    clip: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    words: str,
) -> None:
    monkeypatch.setattr("crosslmm_cli.ask.load_assistant", None)
    monkeypatch.chdir(tmp_path)
    Path("at.txt").write_text(text, "utf-8")
    finished = ask(run, clip, checkpoint, "at.txt")
    assert (finished.code, finished.out) == (2, "")
    assert words in finished.err
    assert len(finished.err) < 300


def test_a_list_that_is_none(
    run: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslmm_cli.ask.load_assistant", None)
    assert ask(run, clip, checkpoint, tmp_path / "none").code == 2
    assert ask(run, clip, checkpoint, tmp_path).code == 2
    (tmp_path / "at").write_bytes(b"1\n" * 100)
    monkeypatch.setattr(frame_list, "MAX_TEXT_BYTES", 100)
    assert "longer than 100 bytes" in ask(run, clip, checkpoint, tmp_path / "at").err
    finished = run("ask", clip, "-", "--model", checkpoint, "--frames-at", "-")
    assert (finished.code, "not both" in finished.err) == (2, True)
