"""What the command line writes: times, tables, records and control codes."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
import typer

from crosslmm_cli import options
from crosslmm_cli.amounts import size_text
from crosslmm_cli.output import Output
from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0", 0.0),
            ("90", 90.0),
            ("2.5", 2.5),
            (".5", 0.5),
            ("1:30", 90.0),
            ("01:02:03.25", 3723.25),
            ("100:00", 6000.0),
            ("90:00", 5400.0),
        ],
    )
    def test_times(self, text: str, expected: float) -> None:
        assert options.seconds(text) == expected

    @pytest.mark.parametrize("text", ["", "x", "-1", "1:60", "1:60:00", "1:2:3:4", "1e3", "inf"])
    def test_what_is_not_a_time(self, text: str) -> None:
        with pytest.raises(typer.BadParameter):
            options.seconds(text)


class TestOutput:
    def test_text_cannot_control_the_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = Output()
        output.notice("name\x1b[2J.mp4\x07\n\ttab")
        assert capsys.readouterr().err == "name[2J.mp4\n\ttab\n"
        output.record({"name": "a\x1b\x7f\x9bé"})
        line = capsys.readouterr().out
        assert line == '{"name": "a\\u001b\\u007f\\u009bé"}\n'
        assert json.loads(line) == {"name": "a\x1b\x7f\x9bé"}
        output.text("kept \x1b in a pipe")
        assert capsys.readouterr().out == "kept \x1b in a pipe\n"

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
    def test_json_is_json_in_every_encoding(
        self, monkeypatch: pytest.MonkeyPatch, encoding: str
    ) -> None:
        import io

        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
        Output(as_json=True).record({"answer": "é 猫"})
        assert json.loads(written.getvalue().decode("utf-8")) == {"answer": "é 猫"}
        if encoding == "utf-8":
            assert "猫" in written.getvalue().decode()

    def test_the_rate_is_the_mean_since_the_display_began(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Answers come in bursts, one for each video."""
        from rich.progress import Task

        from crosslmm_cli.output import speed_of

        now = [0.0]
        task = Task(0, "evaluating", 80, 0, _get_time=lambda: now[0], fields={"kind": "items"})  # type: ignore[arg-type]
        task.fields["first"] = 0
        task.start_time = 0.0
        assert speed_of(task) is None
        now[0], task.completed = 4.0, 8
        assert speed_of(task) == 2.0
        task.fields["first"] = 4  # resumed there
        assert speed_of(task) == 1.0

    def test_no_progress_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        output = Output()
        for done in range(5):
            output.progress("encode", done, 4)
        assert capsys.readouterr() == ("", "")

    def test_a_table_is_plain_aligned_text_without_a_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [
            ("NAME", "SIZE", "PATH"),
            ("a", "1 kB", "/x"),
            ("long name", "12 kB", "/" + "y" * 99),
        ]
        Output().table(rows, right=(1,))
        assert capsys.readouterr().out.splitlines() == [
            "NAME        SIZE  PATH",
            "a           1 kB  /x",
            "long name  12 kB  /" + "y" * 99,
        ]

    def test_a_table_wraps_within_its_columns_on_a_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Output, "on_terminal", True)
        monkeypatch.setattr("crosslmm_cli.output.supports_ansi", lambda stream: True)
        monkeypatch.setenv("COLUMNS", "40")
        Output().table([("NAME", "PATH"), ("[red]", "/" + "y" * 50 + "\x1b[2J")])
        out = capsys.readouterr().out
        lines = [line.rstrip() for line in out.splitlines()]
        assert len(lines) == 3
        assert all(len(line) <= 40 for line in lines)
        assert lines[1].startswith("[red]")
        assert lines[2].startswith(" " * 7)
        assert out.count("y") == 50
        assert "\x1b[2J" not in out

    @pytest.mark.parametrize("ansi", [True, False])
    def test_reasoning_is_faint_until_the_answer(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ansi: bool
    ) -> None:
        monkeypatch.setattr(Output, "on_terminal", True)
        monkeypatch.setattr("crosslmm_cli.output.supports_ansi", lambda stream: ansi)
        said: list[str] = []

        def pieces() -> Iterator[str]:
            for piece in ("1: no", "thing\x1b[2m,", " so", " it", " stays"):
                said.append(piece)
                yield piece

        Output().stream(pieces(), is_faint=lambda: "it" not in "".join(said))
        out = capsys.readouterr().out
        assert out.replace("\x1b[2m", "").replace("\x1b[22m", "") == "1: nothing[2m, so it stays\n"
        faint = re.findall(r"\x1b\[2m(.*?)\x1b\[22m", out)
        assert "".join(faint) == ("1: nothing[2m," if ansi else "")

    def test_sizes(self) -> None:
        sizes = [0, 999, 1000, 851_234, 1_730_000_000, 2.5e13]
        assert [size_text(size) for size in sizes] == [
            "0 B",
            "999 B",
            "1.0 kB",
            "851 kB",
            "1.7 GB",
            "25.0 TB",
        ]
