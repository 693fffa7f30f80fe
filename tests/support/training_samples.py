"""Samples that several tests of training read."""

from pathlib import Path
from typing import Any

from crosslmm.training.records import Sample, parse_record


def parsed(**record: Any) -> Sample:
    return parse_record(record, Path("/media"), "data.json, record 7")


def says(*texts: str) -> list[dict[str, str]]:
    speakers = ("human", "gpt")
    return [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]
