"""Help as a person reads it: metavars instead of Python's types, and options in panels by theme."""

from typing import Any

# The panels of commands with many options, on a terminal; what is in none of them is an "Option".
PANELS = {
    "Input": ("from_file", "include", "exclude", "shard", "video_folder", "task"),
    "Video": (
        "continued",
        *("frames", "fps", "max_frames", "start", "end", "seek", "reader", "deadline"),
        *("frames_at", "sampler", "static_threshold", "fit", "zoom", "segments", "scenes"),
        *("file_timeout", "max_pixels"),
        *("no_cache", "cache_size", "allow_network"),
    ),
    "Model": (
        *("model", "tokens_per_frame", "merge", "keep"),
        *("quantize", "feature_bits", "device", "dtype"),
    ),
    "Answer": (
        *("question", "prompt", "prompt_file"),
        *("max_new_tokens", "temperature", "top_p", "seed", "stop", "system", "schema"),
    ),
    "Run": ("batch_size", "readers", "retry_failed", "overwrite", "engine", "workers"),
    "Output": (
        *("out", "kind", "answers", "evidence", "when", "plot", "as_csv"),
        *("as_json", "quiet", "no_progress"),
        "help",
    ),
}
_PLAIN = ("synth",)  # whose frames per second and seed are neither a video's nor an answer's
_MANY = 10
_LONG = 26  # columns that a choice may take

_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


def humanize(command: Any) -> None:
    """Rewrite how a command and its parameters are shown."""
    if command.help:  # a terminal has another width than the source
        command.help = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            _show_argument(parameter)
        else:
            _show_option(parameter)
    if len(command.params) > _MANY and command.name not in _PLAIN:
        for parameter in command.params:
            if parameter.param_type_name == "option":
                parameter.rich_help_panel = _PANEL_OF.get(parameter.name)


def _show_argument(argument: Any) -> None:
    name = argument.metavar or argument.name.upper()
    several = "..." if argument.nargs != 1 else ""
    piece = f"{name}{several}" if argument.required else f"[{name}{several}]"
    argument.get_usage_pieces = lambda ctx: [piece]
    argument.display_type_rich = lambda ctx: ""


def _show_option(option: Any) -> None:
    """A flag takes no value; a choice is its values, or in its help where they are long."""
    shown = "" if option.is_flag else (option.display_type_rich(None) or "")
    shown = shown.removeprefix("<").removesuffix(">")
    if len(shown) > _LONG and "|" in shown:
        choices = ", ".join(shown.split("|"))
        option.help = f"{(option.help or '').removesuffix('.')} ({choices})."
        shown = max(option.opts, key=len).lstrip("-").upper()
    if option.is_flag or shown:
        option.display_type_rich = lambda ctx: shown or None
    typers = option._get_default_string

    def default(*, default_value: Any, **about: Any) -> str:
        if isinstance(option.show_default, str):  # Typer puts it into brackets
            return str(option.show_default)
        if isinstance(default_value, float):  # and writes 0.0
            default_value = f"{default_value:.15g}"
        return str(typers(default_value=default_value, **about))

    option._get_default_string = default
    low, high = getattr(option, "min", None), getattr(option, "max", None)
    option._get_number_range_help_str = lambda: _range(low, high)  # Typer's own says x>=1


def _range(low: float | None, high: float | None) -> str | None:
    """The numbers that an option takes, in words."""
    match low, high:
        case None, None:
            return None
        case _, None:
            return f"at least {low:g}"
        case None, _:
            return f"at most {high:g}"
    return f"{low:g} to {high:g}"


class HumanHelp:
    """Mixed into commands and groups, whose help it rewrites."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        humanize(self)

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        for parameter in ctx.command.params:  # those of completion come after the others
            if getattr(parameter, "is_flag", False):
                _show_option(parameter)
        if option is not None:
            _show_option(option)
            if len(ctx.command.params) > _MANY:
                option.rich_help_panel = _PANEL_OF["help"]
        return option
