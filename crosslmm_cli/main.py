"""`crosslmm`: parses, calls the library, writes; every failure ends here as an exit code.

0 fine, 1 it failed, 2 wrong usage, 3 a batch finished and some items failed, 130 interrupted.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from crosslmm import __version__
from crosslmm.errors import CrossLMMError, UsageError
from crosslmm_cli import interrupt
from crosslmm_cli.commands import BROKEN_PIPE, LazyGroup
from crosslmm_cli.output import Output, supports_ansi

ParsingError: type[Exception] = typer.BadParameter.__mro__[1]  # what the parser raises, by its base


def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and warnings; may stand anywhere.")
    ] = False,
) -> None:
    """Ask questions about long videos.

    Start with `crosslmm demo`, or ask about a video of yours: crosslmm ask VIDEO "QUESTION".
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
    if "--version" in arguments[:1]:
        print(f"crosslmm {__version__}")
        return 0
    try:
        command = typer.main.get_command(build())
        code = command.main(list(arguments), prog_name="crosslmm", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        if interrupt.requested():
            return _explain(KeyboardInterrupt())
        if debug and not isinstance(error, (SystemExit, ParsingError, BrokenPipeError)):
            traceback.print_exception(error)
        return _explain(error)
    if code == interrupt.EXIT_CODE:
        return _explain(KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> int:
    """The one error table: what is said on stderr, and the exit code."""
    output = Output()
    match error:
        case UsageError():
            output.error(str(error))
            return 2
        case CrossLMMError():
            output.error(str(error))
            return 1
        case ParsingError():
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "crosslmm"
            if type(error).__name__ == "NoArgsIsHelpError":
                print(message, file=sys.stderr)
            else:
                output.error(f"{message}\nsee `{path} --help`")
            return 2
        case KeyboardInterrupt() | typer.Abort():
            output.error("interrupted")
            return interrupt.EXIT_CODE
        case BrokenPipeError():
            return BROKEN_PIPE
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case OSError():
            what = error.filename if error.filename is not None else "writing failed"
            output.error(f"{what}: {error.strerror or error}")
            return 1
        case _:
            first = (str(error).strip().splitlines() or [""])[0]
            output.error(
                f"an error that should not happen: {type(error).__name__}: {first}\n"
                "`--debug` shows where"
            )
            return 1


def _take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before a `--`."""
    own = list(arguments)
    end = own.index("--") if "--" in own else len(own)
    kept = [argument for argument in own[:end] if argument != "--debug"]
    return kept + own[end:], len(kept) < end
