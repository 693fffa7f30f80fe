"""JSON Schemas that answers are made to fit; imports no torch."""

import json
from collections.abc import Mapping
from typing import Any

from crosslmm.errors import UsageError

Schema = Mapping[str, Any]


def grammar_of(schema: Schema) -> str:
    """What the tokens of an answer must spell, for llguidance: one JSON value without optional spaces,
    of which a model might write any number.

    Raises UsageError for what is no schema, and without llguidance."""
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise UsageError(
            "`schema` needs llguidance, which is not installed: pip install 'crosslmm[schema]'"
        ) from None
    if not isinstance(schema, Mapping):
        raise UsageError("`schema` is a JSON Schema: an object")
    try:
        text = json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})
        grammar: str = LLMatcher.grammar_from_json_schema(text)
        problem = LLMatcher.validate_grammar(grammar, None)
    except (TypeError, ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise UsageError(
            f"`schema` is no JSON Schema that can be followed: {problem.splitlines()[0]}"
        )
    return grammar
