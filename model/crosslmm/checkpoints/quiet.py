"""What transformers writes to the terminal, off: its progress bars, and reports of what was loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bar of transformers, such as that of weights being written; callers draw their own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def quiet_library() -> Iterator[None]:
    """Neither bars nor load reports; what they say is checked by who calls this."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)
