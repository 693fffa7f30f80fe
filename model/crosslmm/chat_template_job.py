"""The worker's side of `chat_templates`: renders with transformers, which it imports as it starts."""

import json
from collections.abc import Iterator
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from crosslmm.chat_templates import check_prompt, template_errors
from crosslmm.video.worker import Payload


def render(job: dict[str, Any]) -> Iterator[tuple[Any, Payload]]:
    """The handler: prompts and spans of `render_jinja_template`, as JSON. Raises CheckpointError."""
    with template_errors():
        prompts, spans = render_jinja_template(**json.loads(job["arguments"]))
        checked = [check_prompt(prompt) for prompt in prompts]
        yield None, json.dumps([checked, spans]).encode()
