"""`crosslmm setup`: the model that fits this machine, downloaded and made the default."""

import sys
from typing import Annotated

import typer

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.cache import hub_cache
from crosslmm.cost.fitting import Fit, Machine, fit_all, inspect_machine, propose
from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.files import gigabytes
from crosslmm_cli import options
from crosslmm_cli.download import download
from crosslmm_cli.merging import describe, merging_of, recommend
from crosslmm_cli.output import Output

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Download what is proposed without asking.")
]


def setup(
    yes: YesOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Propose a model that fits this machine, download it and make it the default.

    Looks at the device, its memory and the disk; shows sizes and licence; asks
    first. An interrupted download is resumed.
    """
    set_up(Output(quiet=quiet, progress=not no_progress), yes=yes)


def set_up(output: Output, *, yes: bool) -> None:
    """Propose, ask and do it. Raises UsageError where there is nobody to ask."""
    machine, fits = look_at_machine(output)
    chosen = propose(fits, machine)
    if chosen is None:
        reasons = "; ".join(f"{found.name} {found.problem}" for found in fits)
        raise OutOfMemory(f"no published model fits this machine: {reasons}")
    output.table(_proposal(machine, chosen), header=False)
    for found in fits[fits.index(chosen) + 1 :]:
        reason = found.problem or "it fits, but without a GPU the smaller one is proposed"
        output.notice(f"not {found.name}: {reason}")
    if chosen.installed and catalog.default_model().name == chosen.name:
        output.notice("it is downloaded and already the default model")
    elif yes or _agrees(output, chosen):
        if not chosen.installed:
            download(output, chosen.name)
        catalog.use(chosen.name)
        report_default(output)
    else:
        output.notice("nothing was changed; `crosslmm models list` shows what else there is")
        return
    output.notice('next: crosslmm ask VIDEO "what happens?"')


def look_at_machine(output: Output) -> tuple[Machine, list[Fit]]:
    """The machine, and the published models on it."""
    output.progress("machine", 0, 0)
    machine = inspect_machine()
    output.finish_progress()
    return machine, fit_all(machine)


def report_default(output: Output) -> None:
    """Say which model is the default now."""
    choice = catalog.default_model()
    output.notice(f"the default model is now {choice.name}")
    chosen = merging_of(choice.name)
    if chosen is not None:
        output.notice(f"{describe(chosen)}, unless a command says otherwise")
    else:
        recommend(output, choice.name)
    if choice.origin == "environment":
        output.notice(f"{catalog.ENVIRONMENT} is set and takes precedence")


def _proposal(machine: Machine, chosen: Fit) -> list[tuple[str, str]]:
    tokens = chosen.tokens_per_frame
    precision = machine.dtype
    if chosen.quantization != "none":
        precision = f"{chosen.quantization} language model, the rest {machine.dtype}"
    size = f"{gigabytes(chosen.download)}, to {hub_cache()}"
    return [
        ("device", f"{machine.device} ({machine.device_name})"),
        ("free", f"{gigabytes(machine.memory)} of memory, {gigabytes(machine.disk)} of disk"),
        ("model", chosen.name),
        ("licence", chosen.license),
        ("download", "none, it is on disk" if chosen.installed else size),
        ("precision", precision),
        ("memory", f"{gigabytes(chosen.memory)} for {chosen.frames} frames of {tokens} tokens"),
        (
            "frames",
            f"up to {chosen.most_frames}, {tokens} tokens each: the checkpoint's own number",
        ),
    ]


def _agrees(output: Output, chosen: Fit) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("there is no terminal to ask on, and nothing was downloaded; give --yes")
    what = "Make it the default model?"
    if not chosen.installed:
        what = f"Download it ({gigabytes(chosen.download)}) and make it the default model?"
    return output.confirm(what, default=True)
