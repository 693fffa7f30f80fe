"""Chat templates of a checkpoint that somebody gave you: what fails in one is told in words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.errors import CheckpointError
from tests.conftest import Finished
from tests.support.tiny import tiny_model, tiny_processor

Run = Callable[..., Finished]  # the fixture `run`

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
