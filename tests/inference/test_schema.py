"""Answers as JSON that fits a schema, whatever the model would rather say."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.errors import UsageError
from crosslmm.inference.assistant import Assistant

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["dog", "cat"]},
        "seen": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    },
    "required": ["count", "kind", "seen"],
    "additionalProperties": False,
}
Run = Callable[..., Any]  # the fixture `run`


def check(text: str) -> None:
    found = json.loads(text)
    assert list(found) == ["count", "kind", "seen"]
    assert 0 <= found["count"] <= 99
    assert found["kind"] in ("dog", "cat")
    assert [type(each) for each in found["seen"]] == [bool, bool]


@pytest.fixture
def fits() -> None:
    pytest.importorskip("llguidance")


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.5, "seed": 3}], ids=["greedy", "sampled"]
)
def test_an_answer_fits_its_schema(
    assistant: Assistant, clip: Path, options: dict[str, Any]
) -> None:
    session = assistant.open_video(clip, frames=2)
    free = session.ask("what?", max_new_tokens=20)
    answer = session.ask("what?", schema=SCHEMA, **options)
    check(answer.text)
    assert answer.finish == "end"
    assert answer.settings["schema"] == SCHEMA
    assert answer.text == session.ask("what?", schema=SCHEMA, **options).text
    json.dumps(answer.as_dict())
    again = session.ask("what?", max_new_tokens=20)
    assert (again.text, "schema" in again.settings) == (free.text, False)


@pytest.mark.usefixtures("fits")
def test_pieces_a_dialogue_and_several_videos(assistant: Assistant, clip: Path) -> None:
    check("".join(assistant.stream(clip, "what?", frames=2, schema=SCHEMA)))
    chat = assistant.open_videos([clip, clip], frames=2).chat()
    check(chat.ask("what?", schema=SCHEMA).text)
    check(chat.ask("and?", schema=SCHEMA).text)


@pytest.mark.usefixtures("fits")
def test_an_answer_that_is_cut_says_so(assistant: Assistant, clip: Path) -> None:
    answer = assistant.ask(clip, "what?", frames=1, schema=SCHEMA, max_new_tokens=5)
    assert (answer.finish, answer.text) == ("length", '{"cou')


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objct"}, "no JSON Schema that can be followed: Invalid type: objct"),
        ({"$ref": "https://example.org/x"}, "no JSON Schema that can be followed: Resource"),
        ([1], "a JSON Schema: an object"),
        ("{}", "a JSON Schema: an object"),
        ({"const": {1}}, "no JSON Schema that can be followed"),
    ],
)
def test_what_is_no_schema(assistant: Assistant, clip: Path, schema: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"`schema` is .*{message}|`schema` is {message}"):
        assistant.ask(clip, "what?", schema=schema)


@pytest.mark.usefixtures("fits")
def test_the_built_in_model_writes_none(clip: Path) -> None:
    session = crosslmm.load("demo", device="cpu").open_video(clip, frames=1)
    with pytest.raises(UsageError, match="needs a model that writes text"):
        session.ask("what?", schema=SCHEMA)


def test_without_the_library_it_says_what_to_install(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"pip install 'crosslmm\[schema\]'"):
        assistant.ask(clip, "what?", schema=SCHEMA)


@pytest.mark.usefixtures("fits")
def test_on_the_command_line(run: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    asked = ("ask", clip, "what?", "--model", checkpoint, "--frames", 1, "--schema")
    done = run(*asked, tmp_path / "s.json")
    assert done.code == 0, done.err
    check(done.out)
    check(json.loads(run(*asked, tmp_path / "s.json", "--json").out)["answer"])
    for name, text, words in (
        ("none.json", None, "none.json: No such file"),
        ("bad.json", "{", "bad.json: not JSON"),
        ("odd.json", '{"type": 3}', "odd.json: --schema is no JSON Schema that can be followed"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        done = run(*asked, tmp_path / name)
        assert done.code == 2
        assert words in done.err
