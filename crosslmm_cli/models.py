"""`crosslmm models`: the models on disk, and getting more of them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.settings import write_merging
from crosslmm.errors import CheckpointError, UsageError, first_line
from crosslmm.files import check_empty
from crosslmm.options import CrossKV, V2VScope
from crosslmm_cli import completion, options
from crosslmm_cli.amounts import size_text
from crosslmm_cli.commands import Command, Group
from crosslmm_cli.download import download
from crosslmm_cli.merging import BEST, new_choice, recommend
from crosslmm_cli.output import Output
from crosslmm_cli.setup import YesOption, report_default, set_up

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="List, download, assemble, choose and delete models."
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.model_names,
        help="A folder, a Hub id (org/name or org/name@revision) or a name.",
    ),
]


@app.command("list", cls=Command)
def list_models(as_json: options.JsonOption = False) -> None:
    """List the models on disk, those to download and whether they fit, and recipes."""
    from crosslmm_cli.model_list import write_list

    write_list(Output(as_json=as_json))


@app.command(cls=Command)
def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            autocompletion=completion.published_models,
            help="org/name or org/name@revision; none: as `crosslmm setup`.",
        ),
    ] = None,
    yes: YesOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Download a model from the Hugging Face Hub. An interrupted download is resumed."""
    output = Output(quiet=quiet, progress=not no_progress)
    if model is None:
        set_up(output, yes=yes)
        return
    if yes:
        raise UsageError("--yes answers the question of a pull without a model")
    folder = download(output, model, on_notice=output.notice)
    output.text(str(folder))
    if catalog.validate(folder).problem is None:
        output.notice(f"`crosslmm models use {model}` makes it the default model")
        recommend(output, model)


@app.command(cls=Command)
def show(model: NameArgument, as_json: options.JsonOption = False) -> None:
    """Show a model's configuration, parts, sizes and gates."""
    from crosslmm.checkpoints.inspection import inspect

    output = Output(as_json=as_json)
    found = inspect(model)
    if as_json:
        output.record(
            {
                **vars(found),
                "path": str(found.path),
                "parts": [vars(part) for part in found.parts],
                "gates": [vars(gate) for gate in found.gates],
            }
        )
        return
    facts: list[tuple[str, str]] = [
        ("name", found.name),
        ("kind", found.kind),
        ("path", str(found.path)),
        ("size", size_text(found.size)),
        ("dtype", ", ".join(found.dtypes)),
    ]
    tokens = catalog.default_tokens(found.path)
    config = {**found.config, "tokens_per_frame": tokens} if tokens else found.config
    facts += [(label, str(value)) for label, value in _settings(config)]
    output.table(facts, header=False)
    output.text("")
    rows: list[tuple[str, ...]] = [("PART", "PARAMETERS", "DTYPE")]
    rows += [(part.name, f"{part.parameters:,}", ", ".join(part.dtypes)) for part in found.parts]
    rows.append(("total", f"{found.parameters:,}", ""))
    output.table(rows, right=(1,))
    output.text("")
    if not found.gates and found.kind == catalog.ADAPTER:
        output.text("gates: none in the adapter; those of its base stay as they are")
        return
    if not found.gates:
        output.text("gates: none in the checkpoint; the cross-attention starts closed")
        return
    rows = [("GATE AFTER LAYER", "BRANCH", "TANH", "STATE")]
    rows += [
        (
            str(gate.layer + 1),
            gate.branch.upper(),
            f"{gate.value:+.4f}",
            "open" if gate.is_open else "closed",
        )
        for gate in found.gates
    ]
    output.table(rows, right=(0, 2))


def _settings(config: dict[str, Any]) -> list[tuple[str, Any]]:
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    facts = [
        ("language model", _shape(text)),
        ("vision encoder", _shape(vision)),
        ("frame size", vision.get("image_size")),
        ("tokens per frame", config.get("tokens_per_frame")),
        ("cross-attention interval", config.get("cross_attention_interval")),
        ("cross-attention keys and values", config.get("cross_kv")),
        ("V2V scope", config.get("v2v_scope")),
        ("T2V frames", config.get("t2v_frames")),
        ("base", config.get("base_model_name_or_path")),
        ("rank", config.get("r")),
        ("alpha", config.get("lora_alpha")),
    ]
    return [(label, value) for label, value in facts if value is not None]


def _shape(config: dict[str, Any]) -> str | None:
    kind, layers = config.get("model_type"), config.get("num_hidden_layers")
    return f"{kind}, {layers} layers, width {config.get('hidden_size')}" if layers else kind


@app.command(cls=Command)
def use(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", autocompletion=completion.model_names, help="The new default model."
        ),
    ] = None,
    merge: options.MergeOption = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SHARE|N",
            help=f"How many tokens of a video to keep, by --merge or else {BEST}: 10%, or a number.",
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Return to the built-in model.")] = False,
) -> None:
    """Set the default model, and how many of its tokens are kept.

    What --keep says is remembered for the model; --keep 100% takes all tokens again.
    """
    output = Output()
    if (model is None) != reset:
        raise typer.BadParameter("give a model, or --reset to return to the built-in one")
    choice = new_choice(merge, keep)
    if choice is not None and model is None:
        raise UsageError("--reset returns to the built-in model: it excludes --merge and --keep")
    catalog.use(model)
    if choice is not None and model is not None:
        write_merging(catalog.lasting_name(model), choice)
    report_default(output)


@app.command("rm", cls=Command)
def remove(
    model: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a model from disk, after confirmation."""
    output = Output()
    removal = catalog.plan_removal(model)
    what = f"{removal.path} ({size_text(removal.size)})"
    shared = (
        " from the cache shared with other Hugging Face tools" if removal.source == "hub" else ""
    )
    if not yes and not output.confirm(f"Delete {what}{shared}?"):
        output.notice("nothing was deleted")
        return
    catalog.remove(removal)
    output.notice(f"deleted {what}")


@app.command(cls=Command)
def init(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Output folder.")],
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=completion.assembly_recipes,
            help=f"{' or '.join(catalog.RECIPES)}.",
        ),
    ] = None,
    vision: Annotated[
        str | None,
        typer.Option("--vision", metavar="MODEL", help="SigLIP or SigLIP2: a Hub id or a folder."),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            metavar="MODEL",
            help="Qwen2, Qwen3, Llama or Mistral: a Hub id or a folder.",
        ),
    ] = None,
    tokens_per_frame: Annotated[
        int,
        typer.Option(
            "--tokens-per-frame",
            metavar="N",
            min=1,
            help="Merged tokens per frame, a square number.",
        ),
    ] = 9,
    interval: Annotated[
        int,
        typer.Option(
            "--interval", metavar="N", min=1, help="Cross-attention after every N decoder layers."
        ),
    ] = 4,
    cross_kv: Annotated[
        CrossKV,
        typer.Option(
            "--cross-kv",
            help="Keys and values of the features for each cross-attention layer, or shared by all.",
        ),
    ] = "per_layer",
    v2v_scope: Annotated[
        V2VScope,
        typer.Option(
            "--v2v-scope",
            help="Merged tokens attend to all frames, those up to their own, their own, or the patches "
            "they stand for.",
        ),
    ] = "video",
    fetch: Annotated[
        bool, typer.Option("--pull", help="Download parts that are not on disk.")
    ] = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Assemble an untrained CrossLMM from its parts.

    The projector is random and all gates are closed until it is trained.
    """
    output = Output(quiet=quiet, progress=not no_progress)
    vision, language = _parts(recipe, vision, language)
    check_empty(out)
    for part in (vision, language):
        try:
            catalog.resolve(part, kinds=None)
        except CheckpointError as error:
            if not catalog.is_hub_id(part):
                raise
            if not fetch:
                problem = first_line(error)
                raise CheckpointError(f"{problem}\n--pull downloads the parts") from error
            download(output, part)
    output.progress("load", 0, 0)
    from crosslmm.checkpoints.assembly import assemble

    folder = assemble(
        vision=vision,
        language=language,
        out=out,
        cross_attention_interval=interval,
        tokens_per_frame=tokens_per_frame,
        v2v_scope=v2v_scope,
        cross_kv=cross_kv,
    )
    output.text(str(folder))
    output.notice("untrained: the projector is random and all gates are closed; train it first")


def _parts(recipe: str | None, vision: str | None, language: str | None) -> tuple[str, str]:
    if recipe is not None:
        if recipe not in catalog.RECIPES:
            raise UsageError(f"{recipe}: no such recipe; use {' or '.join(catalog.RECIPES)}")
        vision = vision or catalog.RECIPES[recipe].vision
        language = language or catalog.RECIPES[recipe].language
    if vision is None or language is None:
        raise UsageError("give a recipe, or both --vision and --language")
    return vision, language
