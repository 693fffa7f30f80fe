"""What was typed in earlier dialogues: a file of the user alone, in the format of prompt_toolkit."""

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from prompt_toolkit.history import History

from crosslmm.files import open_regular
from crosslmm.limits import MAX_TEXT_BYTES


class ChatHistory(History):
    """Never through a link, and at most the last `MAX_TEXT_BYTES` of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__()

    @classmethod
    def open(cls, path: Path) -> "ChatHistory":
        """Make the file where it is missing. Raises OSError where it cannot be used."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(path, os.O_RDWR | os.O_CREAT, own=True) as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
        return cls(path)

    def load_history_strings(self) -> Iterable[str]:
        """The latest first."""
        data = b""
        with suppress(OSError), open_regular(self._path, os.O_RDONLY, own=True) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_TEXT_BYTES))
            data = file.read(MAX_TEXT_BYTES)
        entries: list[list[str]] = [[]]
        for line in data.decode("utf-8", "replace").split("\n"):
            if line.startswith("+"):
                entries[-1].append(line[1:])
            elif entries[-1]:  # the line before an entry has its time
                entries.append([])
        return ["\n".join(lines) for lines in reversed(entries) if lines]

    def store_string(self, string: str) -> None:
        """A full disk is no reason to end the dialogue."""
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        with (
            suppress(OSError),
            open_regular(self._path, os.O_WRONLY | os.O_APPEND, own=True) as file,
        ):
            file.write(f"\n# {datetime.now()}\n{lines}".encode("utf-8", "replace"))
