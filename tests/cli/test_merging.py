"""How many tokens of a model are kept: remembered by `models use`, taken by other commands."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crosslmm.checkpoints import catalog, settings
from crosslmm_cli import merging
from tests.support.models import write_cached, write_model

SET = "salient keeps 50% of the tokens, as set by `crosslmm models use`"
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def chosen(run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("CROSSLMM_MODEL", raising=False)
    done = run("models", "use", checkpoint, "--keep", "50%")
    assert done.code == 0, done.err
    assert "salient keeps 50% of the tokens, unless a command says otherwise" in done.err
    return str(checkpoint)


def asked(run, clip: Path, *options: object) -> tuple[dict, str]:
    done = run("ask", clip, "what?", "-n", 6, "--max-new-tokens", 1, "--json", *options)
    assert done.code == 0, done.err
    return json.loads(done.out), done.err


def test_it_is_taken_unless_told_otherwise(run, clip: Path, chosen: str) -> None:
    answer, said = asked(run, clip)
    assert (answer["tokens"]["visual"], answer["settings"]["keep"]) == (12, "50%")
    assert SET in said
    assert "salient: 12 of 24 tokens kept" in said
    for options, tokens in (
        (("--merge", "none"), 24),
        (("--tokens-per-frame", 9), 54),
        (("--keep", "25%"), 6),
        (("--merge", "uniform", "--keep", 5), 5),
        (("--merge", "uniform"), 12),
    ):
        answer, said = asked(run, clip, *options)
        assert answer["tokens"]["visual"] == tokens, options
        assert SET not in said
    assert answer["settings"]["merge"] == "uniform"


def test_chat_caption_and_eval_take_it(
    run, clip: Path, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n"))
    done = run("chat", clip, "-n", 6, "--max-new-tokens", 1)
    assert "salient: 12 of 24 tokens kept" in done.err, done.err
    done = run("caption", clip, "-n", 6, "--max-new-tokens", 1, "--out", "-")
    assert json.loads(done.out)["segments"][0]["visual_tokens"] == 12, done.err
    assert SET in done.err
    question = {
        "id": "1",
        "video": str(clip),
        "question": "what?",
        "answer": "red",
        "type": "colour",
    }
    (tmp_path / "q.jsonl").write_text(json.dumps(question))
    done = run("eval", tmp_path / "q.jsonl", "-n", 2, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["settings"]["keep"] == "50%"
    done = run("eval", tmp_path / "q.jsonl", "-n", 2, "--tokens-per-frame", "4,9", "--json")
    assert [json.loads(line)["merge"] for line in done.out.splitlines()] == [None] * 3


def test_it_is_shown_and_forgotten(run, chosen: str) -> None:
    assert f"{chosen}: {SET}" in run("models", "list").err
    records = [json.loads(line) for line in run("models", "list", "--json").out.splitlines()]
    kept = {record["name"]: record.get("merging") for record in records}
    assert kept[chosen] == {"merge": "salient", "keep": "50%"}
    assert kept["demo"] is None
    run("models", "use", "demo")
    run("models", "use", chosen)  # says nothing of tokens
    assert SET in run("models", "list").err
    done = run("models", "use", chosen, "--keep", "100%")
    assert "all tokens are kept" in done.err
    assert settings.read_merging(chosen) == settings.MergingChoice()
    run("models", "use", chosen, "--keep", "500")
    assert settings.read_merging(chosen) == settings.MergingChoice("salient", "500")
    run("models", "use", chosen, "--merge", "none")
    assert settings.read_merging(chosen) == settings.MergingChoice()


def test_a_removed_model_is_forgotten(run) -> None:
    write_model(settings.home() / "models" / "pet")
    run("models", "use", "pet", "--keep", "500", "--merge", "random")
    name = catalog.lasting_name("pet")
    assert settings.read_merging(name) == settings.MergingChoice("random", "500")
    assert run("models", "rm", "pet", "--yes").code == 0
    assert settings.read_merging(name) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("demo", "--keep", "0%"), "--keep must be a share above 0"),
        (("demo", "--merge", "foldr", "--keep", "10%"), "did you mean folder"),
        (("demo", "--merge", "folder"), "--merge needs --keep"),
        (("demo", "--merge", "none", "--keep", "10%"), "it excludes --keep"),
        (("--reset", "--keep", "10%"), "it excludes --merge and --keep"),
    ],
)
def test_what_cannot_be_remembered(run, given: tuple[str, ...], message: str) -> None:
    done = run("models", "use", *given)
    assert done.code == 2
    assert message in done.err
    assert settings.read_settings() == {}


def test_settings_of_another_hand(run, clip: Path) -> None:
    settings.write_settings({"merging": {"demo": {"merge": "magic", "keep": "10%"}}})
    done = run("ask", clip, "what?", "-m", "demo")
    assert done.code == 2
    assert "settings.json: merging of demo: --merge must be one of area" in done.err
    assert "fix or delete it" in done.err


def test_merge_none_keeps_all(run, clip: Path) -> None:
    done = run("ask", clip, "what?", "-m", "demo", "--merge", "none", "--keep", "10%")
    assert (done.code, "--merge none takes all tokens" in done.err) == (2, True)


def test_llava_onevision_is_told_of_a_setting(run, tmp_path: Path) -> None:
    write_cached(tmp_path / "hub", "org/llava", kind="llava_onevision")
    told = "`crosslmm models use org/llava --keep 10%` fits ten times the frames"
    assert told in run("models", "use", "org/llava").err
    assert told not in run("models", "use", "org/llava", "--keep", "10%").err
    assert told not in run("models", "use", "org/llava", "--keep", "100%").err
    write_cached(tmp_path / "hub", "org/other")
    assert "fits ten times" not in run("models", "use", "org/other").err


@pytest.mark.parametrize(
    ("tokens", "merged", "said"),
    [(5000, "", 1), (4000, "", 0), (5000, "folder: 5,000 of 50,000 tokens kept", 0)],
)
def test_where_it_matters(tokens: int, merged: str, said: int, tmp_path: Path) -> None:
    write_cached(tmp_path / "hub", "org/llava", kind="llava_onevision")
    lines: list[str] = []
    output: Any = SimpleNamespace(notice=lines.append)
    session = SimpleNamespace(visual_tokens=tokens, merged=merged)
    merging.recommend_for(output, "org/llava", session)
    assert len(lines) == said
