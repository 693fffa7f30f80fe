"""The commands as data, each imported only when it is called or its own help is asked for.

A command whose module is absent from the installation is not listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

BROKEN_PIPE = 141  # what a shell reports for a command that wrote to a closed pipe


@dataclass(frozen=True)
class Entry:
    """A command's module and one-line help; `function` where its name is not the module's."""

    module: str
    help: str
    function: str | None = None
    examples: tuple[str, ...] = ()


COMMANDS: Mapping[str, Entry] = {
    "ask": Entry(
        "ask",
        "Ask questions about a video or a picture.",
        examples=(
            'crosslmm ask movie.mp4 "what happens?"',
            'crosslmm ask movie.mp4 "who comes in?" "and then?" --start 1:30 --end 2:00',
            'crosslmm ask movie.mp4 "what happens?" --frames 128 --json | jq -r .answer',
            "crosslmm ask picture.jpg - < question.txt",
        ),
    ),
    "caption": Entry(
        "caption",
        "Caption many videos, files or folders.",
        examples=(
            "crosslmm caption clips/ --out captions.jsonl",
            "crosslmm caption film.mkv --scenes --format srt",
            "crosslmm caption clips/ --format txt --prompt 'Describe {filename}.' --retry-failed",
            "find . -name '*.mp4' -print0 | crosslmm caption - --format parquet",
        ),
    ),
    "demo": Entry("demo", "Write a sample clip and ask the built-in model about it."),
    "models": Entry("models", "See, fetch, make and choose models."),
    "profile": Entry(
        "profile",
        "Tokens, FLOPs, memory and time, per stage and frame count.",
        examples=(
            "crosslmm profile --frames 64,256 --compare unmerged",
            "crosslmm profile --model crosslmm-7b --quantize 4bit --fits 24GB",
            "crosslmm profile --model crosslmm-7b --compare paper",
            "crosslmm profile --measure --plot cost.png",
        ),
    ),
    "train": Entry("train", "Train a model."),
    "eval": Entry("evaluate", "Measure a model on a file of questions.", function="evaluate"),
    "synth": Entry("synth", "Write synthetic clips with questions and answers."),
    "doctor": Entry("doctor", "What is installed, what works, what would fail."),
}


class LazyGroup(TyperGroup):
    """A group that lists its commands from data and imports one when it is resolved."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            if find_spec(f"crosslmm_cli.{entry.module}"):
                self.commands[name] = TyperCommand(name, help=entry.help)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our answers has gone, which is its right
            raise typer.Exit(BROKEN_PIPE) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.commands:
            self.commands[args[0]] = load(args[0], rich=self.rich_markup_mode is not None)
        return super().resolve_command(ctx, args)


def load(name: str, *, rich: bool) -> Any:
    """The real command: its module's `app` where there is one, else its function."""
    entry = COMMANDS[name]
    module = import_module(f"crosslmm_cli.{entry.module}")
    app = getattr(module, "app", None)
    single = app is None
    if app is None:
        app = typer.Typer(add_completion=False)
        function = getattr(module, entry.function or entry.module)
        app.command(name, epilog=_epilog(entry.examples, rich=rich))(function)
    app.rich_markup_mode = "rich" if rich else None
    app.pretty_exceptions_enable = False
    command = typer.main.get_command(app) if single else typer.main.get_group(app)
    command.name = name
    return command


def _epilog(examples: tuple[str, ...], *, rich: bool) -> str | None:
    if not examples:
        return None
    if rich:
        return "\n\n".join(["Examples:", *(f"  {example}" for example in examples)])
    return "\b\n" + "\n".join(["Examples:", *(f"  {example}" for example in examples)])
