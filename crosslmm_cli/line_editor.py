"""Lines that are typed: with editing, history and completion in a terminal, else those of stdin."""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm_cli.interrupt import released_interrupt


def read_lines(commands: Mapping[str, str], *, history: Path) -> Iterator[str]:
    """Until Ctrl-D, or the end of stdin. A line that ends in a backslash goes on in the next one.

    What cannot be decoded is escaped, as in the name of a file. Of a line of over `MAX_TEXT_BYTES`
    characters so many and one more are given.
    """
    is_typed = sys.stdin.isatty() and sys.stderr.isatty()
    yield from _typed(commands, history) if is_typed else _piped()


def _piped() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    parts: list[str] = []
    length = 0
    while piece := sys.stdin.readline(MAX_TEXT_BYTES):
        line = piece.removesuffix("\n")
        goes_on = line.endswith("\\") and line != piece
        text = line[:-1] + "\n" if goes_on else line
        if length <= MAX_TEXT_BYTES:
            parts.append(text)
            length += len(text)
        if goes_on or line == piece:  # the latter where a line is longer than what is read at once
            continue
        yield "".join(parts)[: MAX_TEXT_BYTES + 1]
        parts, length = [], 0
    if parts:
        yield "".join(parts)[: MAX_TEXT_BYTES + 1]


def _typed(commands: Mapping[str, str], history: Path) -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import NestedCompleter, PathCompleter
    from prompt_toolkit.history import History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import ColorDepth, create_output

    from crosslmm_cli.chat_history import ChatHistory

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: object) -> None:
        event.current_buffer.insert_text("\n")  # type: ignore[attr-defined]

    kept: History
    try:
        kept = ChatHistory.open(history)
    except OSError as error:
        print(f"{history}: {error.strerror}; this dialogue has no history", file=sys.stderr)
        kept = InMemoryHistory()
    paths = {"/open": PathCompleter(expanduser=True), "/save": PathCompleter(expanduser=True)}
    session: PromptSession[str] = PromptSession(
        history=kept,
        completer=NestedCompleter.from_nested_dict({each: paths.get(each) for each in commands}),
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
