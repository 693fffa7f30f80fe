"""`crosslmm models list`: what is on disk, what can be downloaded and fits, what can be assembled."""

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.published import RECIPES
from crosslmm.cost.fitting import Fit
from crosslmm.files import gigabytes
from crosslmm.limits import DEFAULT_FRAMES
from crosslmm_cli.amounts import size_text
from crosslmm_cli.merging import describe, merging_of
from crosslmm_cli.output import Output
from crosslmm_cli.setup import look_at_machine

_ORIGINS: dict[catalog.Origin, str] = {
    "option": "set by --model",
    "environment": f"set by {catalog.ENVIRONMENT}",
    "setting": "set by `crosslmm models use`",
    "built-in": "built in; choose another with `crosslmm models use`",
}


def write_list(output: Output) -> None:
    """All models, as tables or as records whose `status` says which table they belong to."""
    stored = catalog.stored_models()
    if not output.as_json:
        _write_stored(output, stored)
    machine, fits = look_at_machine(output)
    absent = [found for found in fits if not found.installed]
    if output.as_json:
        for model in stored:
            chosen = merging_of(model.name)
            merging = None if chosen is None else vars(chosen)
            output.record(
                {"status": "on disk", **vars(model), "path": str(model.path), "merging": merging}
            )
        for found in absent:
            output.record({"status": "published", **vars(found)})
        for name, recipe in RECIPES.items():
            output.record({"status": "recipe", "name": name, **vars(recipe)})
        return
    if absent:
        _write_published(output, absent, f"{machine.device}, {gigabytes(machine.memory)} free")
    output.text("")
    rows = [("", "TO ASSEMBLE AND TRAIN", "VISION ENCODER", "LANGUAGE MODEL")]
    rows += [
        ("", name, _without_owner(recipe.vision), _without_owner(recipe.language))
        for name, recipe in RECIPES.items()
    ]
    output.table(rows)
    output.notice("`crosslmm models init RECIPE --out DIR --pull` assembles one, untrained")


def _write_stored(output: Output, models: list[catalog.StoredModel]) -> None:
    rows = [("", "ON DISK", "KIND", "SIZE")]
    rows += [
        (
            "*" if model.default else "",
            model.name,
            "unusable" if model.problem else str(model.kind),
            size_text(model.size),
        )
        for model in models
    ]
    output.table(rows, right=(3,))
    choice = catalog.default_model()
    if any(model.default for model in models):
        output.notice(f"* default model, {_ORIGINS[choice.origin]}")
    else:
        output.notice(
            f"the default model {choice.name} ({_ORIGINS[choice.origin]}) is not on disk; pull it, "
            "or choose another with `crosslmm models use`"
        )
    for model in models:
        if (chosen := merging_of(model.name)) is not None:
            output.notice(f"{model.name}: {describe(chosen)}, as set by `crosslmm models use`")
    for model in models:
        if model.problem:
            reason = model.problem.removeprefix(f"{model.path}: ")
            output.notice(f"unusable: {model.name}: {reason}")


def _write_published(output: Output, fits: list[Fit], machine: str) -> None:
    output.text("")
    rows = [("", "TO DOWNLOAD", "SIZE", "LICENCE", "MEMORY", "FITS")]
    rows += [
        (
            "",
            found.name,
            gigabytes(found.download),
            found.license,
            gigabytes(found.memory),
            "no" if found.problem else "yes",
        )
        for found in fits
    ]
    output.table(rows, right=(2, 4))
    for found in fits:
        if found.problem:
            output.notice(f"{found.name} {found.problem}")
    output.notice(
        f"MEMORY is for {DEFAULT_FRAMES} frames or as many as fit; here: {machine}; "
        "`crosslmm setup` downloads what fits best, `crosslmm models pull NAME` any of them"
    )


def _without_owner(name: str) -> str:
    return name.partition("/")[2]
