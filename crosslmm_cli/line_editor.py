"""Lines that are typed: with editing, history and completion in a terminal, else those of stdin."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm_cli.interrupt import released_interrupt


def read_lines(commands: Mapping[str, str], *, history: Path) -> Iterator[str]:
    """Until Ctrl-D, or the end of stdin. A line that ends in a backslash goes on in the next one."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        yield from _typed(commands, history)
        return
    whole = ""
    while line := sys.stdin.readline(MAX_TEXT_BYTES):
        whole += line.rstrip("\n")
        if whole.endswith("\\"):
            whole = whole[:-1] + "\n"
            continue
        yield whole
        whole = ""
    if whole:
        yield whole


def _typed(commands: Mapping[str, str], history: Path) -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import NestedCompleter, PathCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import ColorDepth, create_output

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: object) -> None:
        event.current_buffer.insert_text("\n")  # type: ignore[attr-defined]

    history.parent.mkdir(parents=True, exist_ok=True)
    paths = {"/open": PathCompleter(expanduser=True), "/save": PathCompleter(expanduser=True)}
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
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
