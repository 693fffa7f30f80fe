"""The commands as data, each imported only when it is called or its own help is asked for.

A command whose module is absent from the installation is not listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from crosslmm_cli.errors import BROKEN_PIPE, ParsingError
from crosslmm_cli.flags import flags_of, set_flags
from crosslmm_cli.help import HumanHelp


@dataclass(frozen=True)
class CommandInfo:
    """A command's module and one-line help; `function` where its name is not the module's."""

    module: str
    help: str
    function: str | None = None
    examples: tuple[str, ...] = ()


COMMANDS: Mapping[str, CommandInfo] = {
    "ask": CommandInfo(
        "ask",
        "Ask questions about a video or an image.",
        examples=(
            'crosslmm ask movie.mp4 "what happens?"',
            'crosslmm ask movie.mp4 "who comes in?" "and then?" --start 1:30 --end 2:00',
            'crosslmm ask movie.mp4 "what happens?" --frames 128 --json | jq -r .answer',
            "crosslmm ask image.jpg - < question.txt",
            'crosslmm ask --continue "and after that?"',
            'crosslmm ask a.mp4 b.mp4 --question "which one shows a dog?"',
        ),
    ),
    "chat": CommandInfo(
        "chat",
        "Talk about a video or an image.",
        examples=(
            "crosslmm chat movie.mp4",
            "crosslmm chat movie.mp4 --frames 128 < questions.txt",
            "crosslmm chat --continue",
        ),
    ),
    "caption": CommandInfo(
        "caption",
        "Caption many videos: files, folders or lists.",
        examples=(
            "crosslmm caption clips/ --out captions.jsonl",
            "crosslmm caption film.mkv --scenes --format srt",
            "crosslmm caption clips/ --format txt --prompt 'Describe {filename}.'",
            "find . -name '*.mp4' -print0 | crosslmm caption - --format parquet",
        ),
    ),
    "demo": CommandInfo("demo", "Write a sample clip and ask the built-in model about it."),
    "setup": CommandInfo(
        "setup", "Download the model that fits this machine and make it the default."
    ),
    "models": CommandInfo("models", "List, download, assemble, choose and delete models."),
    "cache": CommandInfo("cache", "Show or delete what is kept of videos that were encoded."),
    "profile": CommandInfo(
        "profile",
        "Estimate tokens, compute and memory per stage, or measure them.",
        examples=(
            "crosslmm profile --frames 64,256 --compare unmerged",
            "crosslmm profile --model crosslmm-7b --quantize 4bit --fits 24GB",
            "crosslmm profile --model crosslmm-7b --compare paper",
            "crosslmm profile --measure --plot cost.png",
        ),
    ),
    "train": CommandInfo(
        "train",
        "Train a model.",
        examples=(
            "crosslmm train align-2b --model start --data mix.yaml --out runs/align",
            "crosslmm train recipe.yaml --model start --data mix.yaml --out run --set epochs=2",
            "crosslmm train distill --teacher org/llava --videos clips --out runs/distill",
            "crosslmm train demo --out runs/demo",
        ),
    ),
    "eval": CommandInfo(
        "evaluate",
        "Measure a model's accuracy on a file of questions.",
        function="evaluate",
        examples=(
            "crosslmm synth shapes --clips 200 --seed 7",
            "crosslmm eval shapes/questions.jsonl --model demo",
        ),
    ),
    "synth": CommandInfo("synth", "Write synthetic clips with questions and answers."),
    "doctor": CommandInfo("doctor", "Check what is installed, what works and what would fail."),
}


class Command(HumanHelp, TyperCommand):
    """A command whose own flags are named in what is printed while it runs, and when it fails."""

    def invoke(self, ctx: Any) -> Any:
        set_flags(flags_of(self))
        return super().invoke(ctx)


# What other programs call a command of `models` or `cache`, too unlike its name to be a misspelling.
SYNONYMS = {
    **dict.fromkeys(("remove", "delete", "del", "uninstall"), "rm"),
    **dict.fromkeys(("ls", "search"), "list"),
    **dict.fromkeys(("download", "get", "install", "add"), "pull"),
    **dict.fromkeys(("info", "inspect"), "show"),
    **dict.fromkeys(("set", "default", "select"), "use"),
    **dict.fromkeys(("create", "new", "assemble"), "init"),
    **dict.fromkeys(("clean", "prune", "purge", "empty"), "clear"),
}
# What `cache` has in the place of a command of `models`.
_OF_CACHE = {"rm": "clear", "list": "info", "show": "info"}


class Group(HumanHelp, TyperGroup):
    """A group of commands. Typer suggests what a name is like; `suggest` what else it may stand for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except ParsingError as error:
            suggestion = self.suggest(args[0]) if args else None
            if suggestion is not None and "Did you mean" not in str(error):
                error.message += f" Did you mean {suggestion!r}?"  # type: ignore[attr-defined]
            raise

    def suggest(self, name: str) -> str | None:
        """The command of this group that another name stands for."""
        close = get_close_matches(name, SYNONYMS, n=1)  # itself, where it is one
        command = SYNONYMS[close[0]] if close else name
        candidates = (command, _OF_CACHE.get(command))
        return next((each for each in candidates if each in self.commands), None)


class LazyGroup(Group):
    """A group that lists its commands from data and imports one when it is resolved."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, info in COMMANDS.items():
            if find_spec(f"crosslmm_cli.{info.module}"):
                self.commands[name] = TyperCommand(name, help=info.help)

    def suggest(self, name: str) -> str | None:
        command = name if name in SYNONYMS.values() else SYNONYMS.get(name)
        return command and f"{'cache' if command == 'clear' else 'models'} {command}"

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of stdout has gone, as `| head` does
            raise typer.Exit(BROKEN_PIPE) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.commands:
            self.commands[args[0]] = load(args[0], rich=self.rich_markup_mode is not None)
        return super().resolve_command(ctx, args)


def load(name: str, *, rich: bool) -> Any:
    """The real command: its module's `app` where there is one, else its function."""
    info = COMMANDS[name]
    module = import_module(f"crosslmm_cli.{info.module}")
    app = getattr(module, "app", None)
    single = app is None
    if app is None:
        app = typer.Typer(add_completion=False)
        function = getattr(module, info.function or info.module)
        kind = getattr(module, "COMMAND", Command)
        app.command(name, cls=kind, epilog=_epilog(info.examples, rich=rich))(function)
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
