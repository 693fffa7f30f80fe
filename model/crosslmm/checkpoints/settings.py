"""The settings of the person who runs this, in one file: the default model, and how the tokens of models
are merged."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosslmm.errors import UsageError, first_line
from crosslmm.files import atomic_write, read_json
from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm.merging import MERGERS, check_merging


def home() -> Path:
    """The folder of settings and named models: `CROSSLMM_HOME`, else crosslmm under XDG's."""
    if given := os.environ.get("CROSSLMM_HOME"):
        return Path(os.path.expanduser(given))
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(base)) / "crosslmm"


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


@dataclass(frozen=True)
class MergingChoice:
    """What a model's tokens are merged to where nothing else is asked for; `merge` None for not at all,
    where somebody chose that."""

    merge: str | None = None
    keep: str | int | None = None


def read_merging(name: str) -> MergingChoice | None:
    """What was chosen for the model of this name, None for nothing. Raises UsageError."""
    known = read_settings().get("merging", {})
    entry = known.get(name) if isinstance(known, dict) else known
    if entry is None:
        return None
    try:
        choice = MergingChoice(**entry)
        check_merging(merge=choice.merge, keep=choice.keep, methods=MERGERS)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{_file()}: merging of {name}: {error}; fix or delete it") from error
    return choice


def write_merging(name: str, choice: MergingChoice | None) -> None:
    """Remember it, or forget what is known with None."""
    settings = read_settings()
    known = {key: value for key, value in settings.get("merging", {}).items() if key != name}
    if choice is not None:
        known[name] = asdict(choice)
    write_settings({**settings, "merging": known})


def _file() -> Path:
    return home() / "settings.json"
