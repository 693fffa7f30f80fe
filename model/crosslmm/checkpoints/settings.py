"""The settings of the person who runs this, in one file; the default model is the only one so far."""

import json
import os
from pathlib import Path
from typing import Any

from crosslmm.errors import UsageError, first_line
from crosslmm.files import atomic_write, read_json
from crosslmm.limits import MAX_TEXT_BYTES


def home() -> Path:
    """The folder of settings and named models: `CROSSLMM_HOME`, else crosslmm under XDG's."""
    if given := os.environ.get("CROSSLMM_HOME"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "crosslmm"


def read_settings() -> dict[str, Any]:
    """Raises UsageError for a file that holds anything else."""
    path = _file()
    try:
        settings = read_json(path, longest=MAX_TEXT_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; fix or delete it") from error
    except ValueError as error:
        reason = first_line(error)
        raise UsageError(f"{path}: not readable as JSON ({reason}); fix or delete it") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: not a table of settings; fix or delete it")
    return settings


def write_settings(settings: dict[str, Any]) -> None:
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, f"{json.dumps(settings, indent=2)}\n".encode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _file() -> Path:
    return home() / "settings.json"
