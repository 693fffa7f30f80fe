"""The console script: ready for Ctrl-C before anything slow is imported."""

import logging
import os
import sys
import warnings

from crosslmm_cli import interrupt


def main() -> int:
    """Run the command line of this process and return its exit code."""
    interrupt.install()
    try:
        from crosslmm_cli.main import execute

        if "--debug" not in sys.argv:
            _silence_libraries()
        code = execute(sys.argv[1:])
    except KeyboardInterrupt:
        print("crosslmm: interrupted", file=sys.stderr)
        code = interrupt.EXIT_CODE
    if code:  # something may still be running
        interrupt.force_exit(code)
    return 0


def _silence_libraries() -> None:
    """Libraries' own talk is for --debug; what users need to know, crosslmm says itself."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
