"""The console script: handles Ctrl-C before anything slow is imported."""

import logging
import os
import sys
import warnings

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
        if "--debug" not in sys.argv:
            _silence_libraries()
        code = execute(sys.argv[1:])
    except KeyboardInterrupt:
        from crosslmm_cli.output import Output

        Output().error("interrupted")
        code = interrupt.EXIT_CODE
    if code:  # threads or processes may still be running
        interrupt.force_exit(code)
    return 0


def _silence_libraries() -> None:
    """Hide other libraries' warnings and logs; with --debug they are shown."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
