"""The worker's side of `templates`; it imports transformers as it starts."""

import json
from collections.abc import Iterator
from typing import Any

import transformers.utils.chat_template_utils  # noqa: F401

from crosslmm.prompts.templates import render_here
from crosslmm.video.worker import Payload


def render(job: dict[str, Any]) -> Iterator[tuple[Any, Payload]]:
    """The handler: prompts and spans, as JSON. Raises CheckpointError."""
    yield None, json.dumps(render_here(json.loads(job["arguments"]))).encode()
