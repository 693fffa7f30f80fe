"""The one error table: what is printed for an error, and the exit code."""

import os
import sys

import typer

from crosslmm.errors import CrossLMMError, UsageError
from crosslmm_cli import interrupt
from crosslmm_cli.output import Output

FAILED = 1
WRONG_USAGE = 2
SOME_FAILED = 3
"""A batch finished and some of its items failed."""
BROKEN_PIPE = 141  # what a shell reports for a command that wrote to a closed pipe

ParsingError: type[Exception] = typer.BadParameter.__mro__[1]  # what the parser raises, by its base

# Of the parser's checks, which are pydantic's.
_WORDS = {
    ": Value error, ": ": ",
    "Input should be greater than or equal to": "must be at least",
    "Input should be less than or equal to": "must be at most",
}


def _is_dashed_file(argument: str) -> bool:
    return argument.startswith("-") and os.path.lexists(argument)


def explain(error: BaseException) -> int:
    """Print one or two lines about an error, on stderr, and return the exit code."""
    output = Output()
    match error:
        case UsageError():
            output.error(str(error))
            return WRONG_USAGE
        case CrossLMMError():
            output.error(str(error))
            return FAILED
        case ParsingError():
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            for pydantic, ours in _WORDS.items():
                message = message.replace(pydantic, ours)
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "crosslmm"
            if type(error).__name__ == "NoArgsIsHelpError":
                output.notice(message)
            else:
                dashed = next(filter(_is_dashed_file, sys.argv[1:]), None)
                hint = f"see `{path} --help`" if dashed is None else f"for the file: ./{dashed}"
                output.error(f"{message}\n{hint}")
            return WRONG_USAGE
        case KeyboardInterrupt() | typer.Abort():
            output.error(interrupt.message())
            return interrupt.EXIT_CODE
        case BrokenPipeError():
            return BROKEN_PIPE
        case SystemExit():
            return error.code if isinstance(error.code, int) else FAILED
        case OSError():
            what = error.filename if error.filename is not None else "writing failed"
            output.error(f"{what}: {error.strerror or error}")
            return FAILED
        case _:
            first = (str(error).strip().splitlines() or [""])[0]
            output.error(
                f"internal error; please report it: {type(error).__name__}: {first}\n"
                "run again with --debug for the traceback"
            )
            return FAILED
