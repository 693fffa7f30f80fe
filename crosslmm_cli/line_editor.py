"""Lines that are typed: with editing, history and completion in a terminal, else those of stdin."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm_cli.inputs import check_length, read_stdin_lines
from crosslmm_cli.interrupt import released_interrupt

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History


def is_typed() -> bool:
    """Whether a person types the lines, in a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def read_lines(commands: Iterable[str], *, history: Path) -> Iterator[str]:
    """Until Ctrl-D, or the end of stdin. A line that ends in a backslash goes on in the next one.

    commands: what completion knows, such as `/exit`, or `/open FILE` of one that takes a file. Raises
    UsageError for what is no text in stdin, and for over `MAX_TEXT_BYTES` characters.
    """
    if is_typed():
        yield from _typed(commands, history)
        return
    parts: list[str] = []
    length = 0
    for line in read_stdin_lines():
        length += len(line)
        check_length(length, MAX_TEXT_BYTES, "a line of stdin")
        if line.endswith("\\"):
            parts.append(line[:-1] + "\n")
            continue
        yield "".join([*parts, line])
        parts, length = [], 0
    if parts:
        yield "".join(parts)


def _typed(commands: Iterable[str], history: Path) -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import ColorDepth, create_output

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: object) -> None:
        event.current_buffer.insert_text("\n")  # type: ignore[attr-defined]

    session: PromptSession[str] = PromptSession(
        history=_history(history),
        completer=completer(commands),
        complete_while_typing=False,
        key_bindings=keys,
        output=create_output(stdout=sys.stderr),  # stdout has answers only
        color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
    )
    whole = ""
    while True:
        try:
            with released_interrupt():
                line = session.prompt("... " if whole else "> ", handle_sigint=False)
        except KeyboardInterrupt:  # of a line that was begun
            whole = ""
            print("Ctrl-D or /exit to leave", file=sys.stderr)
            continue
        except EOFError:
            return
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1] + "\n"
            continue
        yield whole
        whole = ""


def _history(file: Path) -> "History":
    """Of earlier dialogues too, where they can be kept."""
    from prompt_toolkit.history import InMemoryHistory

    from crosslmm_cli.chat_history import ChatHistory

    try:
        return ChatHistory.open(file)
    except OSError as error:
        print(f"{file}: {error.strerror}; this dialogue has no history", file=sys.stderr)
        return InMemoryHistory()


def completer(commands: Iterable[str]) -> "Completer":
    """Completes commands, and the files of those that take one."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    files = PathCompleter(expanduser=True)
    names = {usage.split()[0]: " " in usage for usage in commands}

    class Commands(Completer):
        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterable[Completion]:
            text = document.text_before_cursor
            name, space, file = text.partition(" ")
            if not space:
                found = (each for each in names if text and each.startswith(text))
                yield from (Completion(each, -len(text)) for each in found)
            elif names.get(name):
                yield from files.get_completions(Document(file), complete_event)

    return Commands()
