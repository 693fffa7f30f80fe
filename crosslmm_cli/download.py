"""A model from the Hub, with its progress; interrupted, it says how to go on."""

from collections.abc import Callable
from pathlib import Path

from crosslmm_cli import interrupt
from crosslmm_cli.output import Output

_RESUMES = "what was downloaded is kept; the same command resumes the download"


def download(output: Output, model: str, *, on_notice: Callable[[str], None] | None = None) -> Path:
    """Download `org/name[@revision]` and return its folder."""
    from crosslmm.checkpoints.hub import pull

    output.notice(f"downloading {model}")
    with interrupt.remark(_RESUMES):
        folder = pull(
            model,
            on_progress=lambda done, total: output.progress("download", done, total),
            on_notice=on_notice,
        )
    output.finish_progress()
    return folder
