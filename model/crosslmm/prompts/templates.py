"""A checkpoint's chat template, rendered in bounded time and memory, with what fails in it in words.

A template is a program. The sandbox of transformers keeps it away from files and from Python itself, but
not from looping or allocating without end, which it can do while it is compiled already. So it runs in a
process that can be killed. Only crosslmm's own template, which does neither, runs here: the process
takes a second to start, and then a fraction of a millisecond for a prompt.
"""

import json
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import isfunction, ismethod
from typing import Any

import numpy as np
from jinja2 import TemplateError

from crosslmm.errors import CheckpointError, first_line
from crosslmm.limits import TEMPLATE_MEMORY, TEMPLATE_SECONDS
from crosslmm.video.worker import JobFailed, WorkerDied, WorkerProcess, WorkerTimeout

LONGEST_PROMPT = 16 << 20  # characters; a context of a million tokens has a quarter of it

# The template of the built-in model.
PLAIN_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] if part['type'] == 'video' %}<video>
{% endfor %}\
{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}\
{% endif %}<|im_end|>
{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Writes what was rendered elsewhere, with its marks of the assistant's part.
RENDERED_TEMPLATE = (
    "{% for generated, text in messages[0].rendered %}{% if generated %}"
    "{% generation %}{{ text }}{% endgeneration %}{% else %}{{ text }}{% endif %}{% endfor %}"
)

_HANDLER = "crosslmm.prompts.template_job:render"

# What a template's own expressions raise.
_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
           TypeError, ValueError)  # fmt: skip

Span = tuple[int, int]
Piece = tuple[bool, str]


class _Renderer:
    """A process that renders, for one thread of the process `owner`; closed when it is forgotten."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.worker = WorkerProcess(
            _HANDLER, timeout=TEMPLATE_SECONDS, memory=TEMPLATE_MEMORY, heartbeats=False
        )
        weakref.finalize(self, _close, self.worker, self.owner)

    @property
    def usable(self) -> bool:
        """False after a fork too: two processes cannot share its pipes."""
        return self.owner == os.getpid() and self.worker.alive


class _OfThread(threading.local):
    renderer: _Renderer | None = None


_of_thread = _OfThread()


def chat_turn(role: str, text: str, *, shows: bool) -> dict[str, Any]:
    """A turn as chat templates take it; `shows`: with a video before its text."""
    content = [{"type": "text", "text": text}]
    return {"role": role, "content": [{"type": "video"}, *content] if shows else content}


def render(
    talks: Sequence[Any], template: str, arguments: Mapping[str, Any]
) -> list[tuple[str, list[Piece]]]:
    """The prompt that a template writes for each conversation, and the same in pieces as
    `RENDERED_TEMPLATE` takes it: the assistant's apart where `return_assistant_tokens_mask` asks for it.

    arguments: of `render_jinja_template` of transformers, and the variables of the template. Raises
    CheckpointError.
    """
    job = {"conversations": talks, "chat_template": template} | dict(arguments)
    if template == PLAIN_TEMPLATE:
        prompts, spans = render_here(job)
    else:
        prompts, spans = _render_apart(job)
    both = zip(prompts, spans or [[]] * len(prompts), strict=True)
    return [(prompt, _pieces(prompt, marked)) for prompt, marked in both]


def render_here(job: dict[str, Any]) -> tuple[list[str], list[list[Span]]]:
    """Prompts and spans of `render_jinja_template`, in this process. Raises CheckpointError."""
    from transformers.utils.chat_template_utils import render_jinja_template

    with _template_errors():
        rendered: Any = render_jinja_template(**job)
    prompts, spans = rendered
    return [_check_prompt(prompt) for prompt in prompts], spans


def _pieces(prompt: str, spans: Sequence[Span]) -> list[Piece]:
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [(False, prompt[end:start]), (True, prompt[start:stop])]
        end = stop
    return [*pieces, (False, prompt[end:])]


@contextmanager
def _template_errors() -> Iterator[None]:
    """Turns an error of a chat template into CheckpointError."""
    try:
        yield
    except _FAULTS as error:
        raise _failure(f"failed: {type(error).__name__}: {first_line(error)[:200]}") from error


def _render_apart(job: dict[str, Any]) -> tuple[list[str], list[list[Span]]]:
    sent = {"arguments": json.dumps(job, default=_plain)}
    try:
        (reply,) = _worker().run(sent)
    except JobFailed as error:
        raise CheckpointError(str(error)) from None
    except WorkerTimeout as error:
        raise _failure(f"ran for over {error.seconds:g} s and was stopped") from None
    except WorkerDied as error:
        raise _failure(f"ended the process that renders it ({error.cause})") from None
    prompts, spans = json.loads(reply.payload.tobytes())
    return prompts, spans


def _worker() -> WorkerProcess:
    if _of_thread.renderer is None or not _of_thread.renderer.usable:
        _of_thread.renderer = _Renderer()
        _of_thread.renderer.worker.start()
    return _of_thread.renderer.worker


def _close(worker: WorkerProcess, owner: int) -> None:
    if owner == os.getpid():
        worker.close()


def _plain(value: Any) -> Any:
    """What a template sees of a value that is not JSON: of most, only that it is there."""
    if isfunction(value) or ismethod(value):
        from transformers.utils.chat_template_utils import get_json_schema

        return get_json_schema(value)
    return value.item() if isinstance(value, np.generic) else f"<{type(value).__name__}>"


def _check_prompt(rendered: object) -> str:
    """The prompt that a template wrote. Raises CheckpointError where it is none."""
    if not isinstance(rendered, str):
        raise _failure("wrote no text")
    if len(rendered) > LONGEST_PROMPT:
        raise _failure(f"wrote {len(rendered):,} characters, more than any model reads")
    return rendered


def _failure(what: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint's chat template {what}")
