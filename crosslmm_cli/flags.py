"""From the library's parameters to this program's flags.

The library knows no command line: its errors and notices name parameters, as `max_frames` in
backticks. What is printed names the flag of the command that runs instead, --max-frames.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# Parameters of the library that have another name on the command line.
ALIASES = {
    "at": "--frames-at",
    "cross_attention_interval": "--interval",
    "frames_per_chunk": "--chunk",
    "media_folder": "--video-folder",
    "overrides": "--set",
    "quantization": "--quantize",
    "questions_per_clip": "--questions",
}

_PARAMETER = re.compile(r"`([a-z_][a-z0-9_]*)`")

_current: ContextVar[Mapping[str, str]] = ContextVar("flags")


def set_flags(flags: Mapping[str, str]) -> None:
    """Name these flags in everything that is printed from now on."""
    _current.set(flags)


def current_flags() -> Mapping[str, str]:
    """The flags of the command that runs, by parameter; empty before one runs."""
    return _current.get({})


def flags_of(command: Any) -> dict[str, str]:
    """A command's flags by parameter: the longest of each option's, by all names it goes by."""
    flags = {}
    for parameter in command.params:
        names = [name for name in parameter.opts if name.startswith("--")]
        if parameter.param_type_name == "option" and names:
            flag = max(names, key=len)
            flags[parameter.name] = flags[flag[2:].replace("-", "_")] = flag
    known = set(flags.values())
    return {**{name: flag for name, flag in ALIASES.items() if flag in known}, **flags}


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """`text` with each parameter in backticks replaced by its flag, where it has one."""
    return _PARAMETER.sub(lambda match: flags.get(match[1], match[0]), text)
