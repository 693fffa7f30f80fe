"""What the shell completes besides options: names of models and of recipes."""

from collections.abc import Iterable
from contextlib import suppress

from crosslmm.errors import CrossLMMError

# Of the built-in model; they need no training data.
DEMO_RECIPES = ("demo", "demo-teacher")


def model_names(incomplete: str) -> list[str]:
    """Models on disk, by the name that `--model` takes."""
    from crosslmm.checkpoints import catalog

    found: list[str] = []
    with suppress(CrossLMMError, OSError):
        found = [model.name for model in catalog.stored_models() if not model.problem]
    return _matching(found, incomplete)


def shapes(incomplete: str) -> list[str]:
    """What `profile` can estimate: recipes too, which need no weights."""
    from crosslmm.cost.shape import RECIPES

    return list(dict.fromkeys([*model_names(incomplete), *_matching(RECIPES, incomplete)]))


def published_models(incomplete: str) -> list[str]:
    """Models to download that are known to work."""
    from crosslmm.checkpoints.published import LICENSES

    return _matching(LICENSES, incomplete)


def assembly_recipes(incomplete: str) -> list[str]:
    """What `models init` takes."""
    from crosslmm.checkpoints import catalog

    return _matching(catalog.RECIPES, incomplete)


def tasks(incomplete: str) -> list[str]:
    """What `eval` takes."""
    from crosslmm.evaluation.tasks import TASKS

    return _matching(TASKS, incomplete)


def mergers(incomplete: str) -> list[str]:
    """What `--merge` takes."""
    from crosslmm.merging import MERGERS

    return _matching(MERGERS, incomplete)


def training_recipes(incomplete: str) -> list[str]:
    """What `train` takes, besides files."""
    with suppress(ImportError):  # the train extra
        from crosslmm.training.recipe import shipped_recipes

        return _matching([*DEMO_RECIPES, *shipped_recipes()], incomplete)
    return _matching(DEMO_RECIPES, incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
