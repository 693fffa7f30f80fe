"""A model from the Hub, with its progress; interrupted, it says how to go on."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from crosslmm_cli import interrupt
from crosslmm_cli.output import Output

_RESUMES = "what was downloaded is kept; the same command resumes the download"


def download(output: Output, model: str, *, on_notice: Callable[[str], None] | None = None) -> Path:
    """Download `org/name[@revision]` and return its folder."""
    from crosslmm.checkpoints.hub import pull

    announced = False

    with ExitStack() as remarks:

        def report(done: int, total: int) -> None:
            nonlocal announced
            if not announced:  # the repository is one that can be used
                announced = True
                remarks.enter_context(interrupt.remark(_RESUMES))
                output.finish_progress()
                output.notice(f"downloading {model}")
            output.progress("download", done, total)

        output.progress("repository", 0, 0)
        folder = pull(model, on_progress=report, on_notice=on_notice)
    output.finish_progress()
    return folder
