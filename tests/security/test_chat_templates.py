"""Chat templates of a checkpoint that somebody gave you: what fails in one is told in words."""

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.errors import CheckpointError
from crosslmm.prompts import templates
from tests.conftest import Finished
from tests.support.tiny import tiny_model, tiny_processor

Run = Callable[..., Finished]  # the fixture `run`


@contextmanager
def in_new_thread() -> Iterator[Callable[..., Any]]:
    """Where no process renders yet: each thread has its own."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


HOSTILE = {
    "long range": "{% for i in range(10**9) %}x{% endfor %}",
    "long prompt": "{{ 'x' * 20000000 }}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "division": "{{ 1 // 0 }}",
    "refused": "{{ raise_exception('no users here') }}",
    "syntax": "{% for %}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "undefined": "{{ nothing.at.all }}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_template_that_fails_is_an_error_in_words(kind: str) -> None:
    processor = tiny_processor(chat_template=HOSTILE[kind])
    with pytest.raises(CheckpointError, match="the checkpoint's chat template"):
        processor.prompt("what?")


def test_asking_says_it(tmp_path: Path, clip: Path, run: Run) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_processor(chat_template=HOSTILE["long range"]).save_pretrained(tmp_path)
    done = run("ask", clip, "what?", "-m", tmp_path, "--frames", 1)
    assert (done.code, done.out) == (1, "")
    assert "chat template failed: OverflowError" in done.err


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "constant": "{{ 9 ** (9 ** 9) }}",
}
LARGE = {
    "string": "{{ 'x' * 10**10 }}",
    "filter": "{{ 'x' | center(10**10) }}",
    "format": "{{ '{:>9999999999}'.format(messages[0].role) }}",
    "list": "{{ [messages[0].role] * 10**10 }}",
    "doubling": "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_an_end_is_stopped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "TEMPLATE_SECONDS", 1.0)
    processor = tiny_processor(chat_template=ENDLESS[kind])
    with in_new_thread() as run:
        with pytest.raises(
            CheckpointError, match=r"chat template ran for over 1 s and was stopped"
        ):
            run(processor.prompt, "what?")
        assert run(tiny_processor(chat_template=FOREIGN).prompt, "what?") == "user: what?"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
@pytest.mark.parametrize("kind", LARGE)
def test_a_template_that_wants_all_memory(kind: str) -> None:
    processor = tiny_processor(chat_template=LARGE[kind])
    with pytest.raises(CheckpointError, match=r"chat template (failed: MemoryError|wrote)"):
        processor.prompt("what?")


FOREIGN = "{% for m in messages %}{{ m.role }}: {{ m.content[-1].text }}{{ extra }}{% endfor %}"


def test_another_template_is_rendered_as_transformers_does() -> None:
    processor = tiny_processor(chat_template=FOREIGN)
    assert processor.prompt("who?") == "user: who?"
    talk = [{"role": "user", "content": [{"type": "text", "text": "who?"}]}]
    assert processor.apply_chat_template([talk, talk], extra="!") == ["user: who?!"] * 2
    ids = processor.apply_chat_template(talk, tokenize=True, extra="!")
    assert processor.decode(ids[0]) == "user: who?!"
    for tokenize in (False, True):
        with pytest.raises(TypeError, match="'more' is not an argument"):
            processor.apply_chat_template(talk, tokenize=tokenize, more=1)


def test_the_assistants_part_is_marked() -> None:
    marked = (
        "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    processor = tiny_processor(chat_template=marked)
    talk = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}] * 2
    found = processor.apply_chat_template(
        talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = found["input_ids"][found["assistant_masks"].bool()]
    assert processor.decode(answer) == "meme"
    with pytest.raises(ValueError, match="continue_final_message"):
        processor.apply_chat_template(talk, continue_final_message=True, add_generation_prompt=True)
    assert processor.apply_chat_template(talk[:2], continue_final_message=True) == (
        "userwho?assistantme"
    )


def test_the_template_of_the_built_in_model_is_rendered_here() -> None:
    file = Path(crosslmm.__file__).parent / "demo" / "weights" / "chat_template.jinja"
    assert file.read_text("utf-8") == templates.PLAIN_TEMPLATE
    with in_new_thread() as run:
        prompt = run(tiny_processor(chat_template=templates.PLAIN_TEMPLATE).prompt, "who?")
        assert "who?" in prompt
        assert run(lambda: templates._of_thread.renderer) is None


def test_a_thread_takes_its_process_along() -> None:
    processor = tiny_processor(chat_template=FOREIGN)
    with in_new_thread() as run:
        run(processor.prompt, "who?")
        worker = run(lambda: templates._of_thread.renderer).worker
        assert worker.alive
    gc.collect()
    assert not worker.alive
