"""What captioning a folder that somebody else made says and leaves alone, and records to plant in it."""

import json
from pathlib import Path
from typing import Any

from crosslmm.errors import CrossLMMError
from tests.support.parrot import run

OUTPUTS = {
    "jsonl": ("captions.jsonl", ".captions.jsonl.lock", ".captions.jsonl.new"),
    "txt": (
        ".crosslmm-captions-txt.jsonl",
        ".crosslmm-captions-txt.jsonl.lock",
        "..crosslmm-captions-txt.jsonl.new",
        "a.txt",
    ),
    "parquet": (
        "captions.parquet",
        ".captions.parquet.manifest.jsonl",
        ".captions.parquet.manifest.jsonl.lock",
    ),
    "webdataset": (
        "captions/.crosslmm-captions.jsonl",
        "captions/.crosslmm-captions.jsonl.lock",
        "captions/captions-000000.tar",
        "captions/.captions-000000.tar.new",
    ),
}


def attempt(*args: Any, **options: Any) -> list[str]:
    """The errors of a run."""
    try:
        return run(*args, **options)[1]
    except CrossLMMError as error:
        return [str(error)]


def untouched(victim: Path) -> bool:
    return victim.read_text("utf-8") == "mine" and list(victim.parent.iterdir()) == [victim]


def record(path: str, **changes: Any) -> bytes:
    row = {"path": path, "caption": "evil", "error": None, "content": "c", "settings_hash": "s"}
    return (
        json.dumps(row | {"segments": [], "duration": 1.0, "warnings": []} | changes).encode()
        + b"\n"
    )
