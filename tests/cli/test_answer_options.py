"""`--stop`, `--top-p` and `--system` of `ask` and `chat`."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture `run`


@pytest.fixture
def asked(clip: Path, checkpoint: Path, home: Path) -> tuple[object, ...]:
    return (clip, "what?", "--model", checkpoint, "--frames", 2, "--max-new-tokens", 12)


def test_an_answer_ends_before_a_text(run: Run, asked: tuple[object, ...]) -> None:
    complete = run("ask", *asked).out.rstrip("\n")
    first, second = complete[4:6], complete[7:9]
    done = run("ask", *asked, "--stop", second, "--stop", first)
    place = min(complete.index(first), complete.index(second))
    assert done.out.rstrip("\n") == complete[:place]
    assert "was cut" not in done.err


def test_sampling_from_the_likeliest(run: Run, asked: tuple[object, ...]) -> None:
    greedy = run("ask", *asked).out
    hot = ("--temperature", 1.5, "--seed", 3)
    assert run("ask", *asked, *hot, "--top-p", 1e-6).out == greedy
    refused = run("ask", *asked, "--top-p", 0.5)
    assert refused.code == 2
    assert "--top-p is for sampling: give a --temperature above 0" in refused.err


def test_a_system_turn_is_part_of_the_dialogue(
    run: Run, asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(run("ask", *asked, "--system", "Be\nbrief.", "--json").out)
    assert "system\nBe\nbrief.<|im_end|>" in first["prompt"]
    more = run("ask", "-c", "and?", "--max-new-tokens", 1, "--json")
    assert json.loads(more.out)["settings"]["system"] == "Be\nbrief."
    monkeypatch.setattr("sys.stdin", io.StringIO("who?\n"))
    said = json.loads(run("chat", "-c", "--json", "--max-new-tokens", 1).out)
    assert said["settings"]["system"] == "Be\nbrief."
    assert run("ask", *asked, "--system", "").err == "crosslmm: --system is empty\n"
