"""The console script: handles Ctrl-C before anything slow is imported."""

import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

from crosslmm_cli import interrupt


def main() -> int:
    """Run the command line of this process and return its exit code."""
    if sys.stdin is None:  # closed by who started the process
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    interrupt.install()
    try:
        from crosslmm_cli.main import execute
        from crosslmm_cli.output import close_display

        interrupt.before_exit(close_display)
        if "--debug" in sys.argv:
            _clean_libraries()
        else:
            _silence_libraries()
        code = execute(sys.argv[1:])
    except KeyboardInterrupt:
        from crosslmm_cli.output import Output

        Output().error("interrupted")
        code = interrupt.EXIT_CODE
    if code:  # threads or processes may still be running
        interrupt.force_exit(code)
    return 0


def _clean_libraries() -> None:
    """Show other libraries' warnings and logs without control codes: they may quote a file."""
    from crosslmm_cli.output import CONTROL_CODES

    make_record, format_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def clean_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        with suppress(TypeError, ValueError):  # of a text that its arguments do not fit
            record.msg, record.args = record.getMessage().translate(CONTROL_CODES), None
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = trace.translate(CONTROL_CODES)
        return record

    def clean_warning(*args: Any, **kwargs: Any) -> str:
        return format_warning(*args, **kwargs).translate(CONTROL_CODES)

    logging.setLogRecordFactory(clean_record)
    warnings.formatwarning = clean_warning


def _silence_libraries() -> None:
    """Hide other libraries' warnings and logs; with --debug they are shown."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
