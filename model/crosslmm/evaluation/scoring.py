"""Scores answers of synthetic questions by what they say, not by their letters.

- One-word answers (colour, shape, size, glyph, count, yes or no): the only word of that kind in the
  answer must be the right one. A motion: what the answer ends on.
- What leads to an answer may be said first, up to a last `, so`. After it:
  - an event, an object: the right words in the right order, articles and times aside; two that meet
    may be named either way round. `events`: the same events in the same order.
  - `when`: the first number, within the row's tolerance.
  - `multiple_choice`: the letter, at the end or at the very beginning, or the option's text.
- `describe`: every object stands for up to five facts (that it is there, by colour and shape; size;
  mark; motion). Right when the F1 of the facts said against the true ones is at least 0.8.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from crosslmm.synthetic.phrasing import DOES, NOTHING
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, SHAPES, SIZES

DESCRIBE_F1 = 0.8
_KINDS = {
    "colour": COLOUR_NAMES,
    "shape": SHAPES,
    "size": tuple(SIZES),
    "glyph": (*GLYPHS, NOTHING),
    "yes_no": ("yes", "no"),
}


def is_right(row: Mapping[str, Any], said: str) -> bool:
    """Whether `said` answers a row of a synthetic `questions.jsonl`. Raises KeyError for a type that
    is unknown, ValueError or LookupError for an answer that does not fit its type."""
    kind, answer = row["type"], str(row["answer"])
    if kind == "describe":
        if not _facts(answer):
            raise ValueError("a description without an object")
        return facts_f1(said, answer) >= DESCRIBE_F1
    if kind == "events":
        return _events(_end(said)) == _events(answer)
    if kind == "when":
        number = re.search(r"\d+(?:\.\d+)?", _end(said))
        truth = float(re.findall(r"\d+(?:\.\d+)?", answer)[0])
        return number is not None and abs(float(number[0]) - truth) <= float(row["tolerance"])
    if kind == "multiple_choice":
        letters = ascii_uppercase[: len(row["options"])]
        option = _plain(row["options"][letters.index(answer)])  # empty for the mark A
        letter = re.match(rf"\W*([{letters}])\b(?!\s+\w)", said) or re.search(
            rf", so ([{letters}])\W*$", said
        )
        if letter:
            return letter[1] == answer
        return bool(option) and _plain(said) == option
    if kind == "motion":
        ends = [does for does in DOES.values() if _plain(said).endswith(_plain(does))]
        return ends == [answer]
    if kind == "order":
        return _event(_end(said)) == _event(answer)
    words = re.findall(r"\w+", said if kind == "glyph" else said.lower())
    if kind == "count":
        return {word for word in words if word.isdigit()} == {answer}
    named = {word for word in words if word in _KINDS[kind]}
    return named == {answer if kind == "glyph" else answer.lower()}


def facts_f1(said: str, truth: str) -> float:
    """Harmonic mean of the share of said facts that are true and of true facts that are said, 0 to 1."""
    claimed, real = _facts(said), _facts(truth)
    if not claimed or not real:
        return float(claimed == real)
    return 2 * len(claimed & real) / (len(claimed) + len(real))


def _facts(text: str) -> set[tuple[str, ...]]:
    facts: set[tuple[str, ...]] = set()
    for part in re.split(r"[;\n]", text):
        words = part.split()
        colour = next((word for word in words if word in COLOUR_NAMES), "")
        shape = next((word for word in words if word in SHAPES), "")
        who = f"{colour} {shape}"
        if who.strip():
            facts.add((who,))
            facts |= {(who, word) for word in words if word in SIZES}
            mark = re.search(r"marked (\w)", part)
            facts.add((who, "marked", mark[1] if mark else ""))
            facts |= {(who, does) for does in DOES.values() if part.strip().endswith(does)}
    return facts


def _end(said: str) -> str:
    return said.rsplit(", so ", 1)[-1]


def _plain(text: str) -> str:
    """Lower-case words without articles and punctuation."""
    words = re.findall(r"[\w.]+", text.lower())
    return " ".join(word.strip(".") for word in words if word not in ("the", "a", "an", "it"))


def _event(text: str) -> tuple[str, ...]:
    plain = _plain(re.sub(r"\bat [\d.]+ seconds\b", "", text))
    if " meets " in plain:
        return ("meets", *sorted(plain.split(" meets ", 1)))
    return (plain,)


def _events(text: str) -> list[tuple[str, ...]]:
    return [_event(part) for part in re.split(r",?\s*\bthen\b|;", text)]
