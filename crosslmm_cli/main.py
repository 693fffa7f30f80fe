"""`crosslmm`: runs one command line; every failure ends here as an exit code.

0 success, 1 failure, 2 wrong usage, 3 a batch finished and some items failed, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from crosslmm import __version__
from crosslmm_cli import interrupt
from crosslmm_cli.commands import LazyGroup
from crosslmm_cli.errors import ParsingError, explain
from crosslmm_cli.flags import set_flags
from crosslmm_cli.output import Output, stop_display, supports_ansi


def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show tracebacks and library warnings; accepted anywhere."),
    ] = False,
) -> None:
    """Ask questions about long videos.

    Start with `crosslmm demo`, or ask about your own video: crosslmm ask VIDEO "QUESTION".
    """


def build() -> typer.Typer:
    """The command tree; on a terminal its help is drawn with Rich."""
    app = typer.Typer(
        cls=LazyGroup,
        rich_markup_mode="rich" if supports_ansi(sys.stdout) else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    return app


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are one or two lines on stderr."""
    arguments, debug = _take_debug(arguments)
    arguments = arguments or ["--help"]
    set_flags({})
    if "--version" in arguments[:1]:
        Output().text(f"crosslmm {__version__}")
        return 0
    try:
        command = typer.main.get_command(build())
        code = command.main(list(arguments), prog_name="crosslmm", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        if interrupt.requested():
            return explain(KeyboardInterrupt())
        if debug and not isinstance(error, (SystemExit, ParsingError, BrokenPipeError)):
            Output().traceback(error)
        return explain(error)
    finally:
        stop_display()
    if code == interrupt.EXIT_CODE:
        return explain(KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before a `--`."""
    given = list(arguments)
    end = given.index("--") if "--" in given else len(given)
    kept = [argument for argument in given[:end] if argument != "--debug"]
    return kept + given[end:], len(kept) < end
