"""`crosslmm demo`: the built-in model on a sample clip."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from crosslmm_cli import options
from crosslmm_cli.answering import write_answer
from crosslmm_cli.loading import load_assistant
from crosslmm_cli.output import Output


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Keep the clip as this .mp4 file, or as sample.mp4 in this folder.",
            show_default="a temporary folder, deleted at the end",
        ),
    ] = None,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Write a sample clip and ask the built-in model about it. Works offline."""
    import tempfile

    from crosslmm.synthetic.sample import SAMPLE_QUESTIONS, write_sample

    output = Output(quiet=quiet, progress=not no_progress)
    with tempfile.TemporaryDirectory(prefix="crosslmm-demo-") as scratch:
        path = write_sample(out or Path(scratch))
        assistant = load_assistant(output, model="demo", device=None, dtype="auto", quantize="none")
        session = assistant.open_video(path, on_progress=output.progress)
        output.finish_progress()
        output.notice(f"{path.name}: {session.summary}")
        for question in SAMPLE_QUESTIONS:
            output.text(f"> {question}")
            write_answer(output, session.stream(question))
    if out is None:
        output.notice("the clip is deleted; `crosslmm demo --out sample.mp4` keeps it")
    else:
        output.notice(f"wrote {path}")
        output.notice(f'next: crosslmm ask {shlex.quote(str(path))} "what happens?"')
    output.notice("for real footage: `crosslmm setup` downloads a model that can describe it")
