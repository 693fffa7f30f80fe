"""Where models are: the built-in one, folders, and the Hugging Face cache.

A model is named by a folder, by a folder's name under `home()/models`, or by a Hub id
(`org/name`, optionally `@revision`), and an adapter by the same. Nothing here touches the network: what
is not on disk is an error that says how to get it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from crosslmm.checkpoints.adapters import is_adapter, read_adapter
from crosslmm.checkpoints.cache import (
    find_snapshot,
    hub_cache,
    is_hub_id,
    list_revisions,
    remove_repository,
    repository_folder,
    repository_id,
    split_revision,
)
from crosslmm.checkpoints.headers import IncompleteCheckpoint, read_headers
from crosslmm.checkpoints.published import LICENSES, RECIPES
from crosslmm.checkpoints.screening import check_config, check_files
from crosslmm.checkpoints.settings import home, read_settings, write_merging, write_settings
from crosslmm.checkpoints.support import LLAVA_ONEVISION, MODEL_TYPES, unsupported, wrong_kind
from crosslmm.errors import CheckpointError, CrossLMMError, UsageError, first_line
from crosslmm.files import read_json, remove_folder

DEMO = "demo"
ADAPTER = "adapter"  # the kind of a folder that holds one
ENVIRONMENT = "CROSSLMM_MODEL"


Location = Literal["built-in", "hub", "folder"]
Origin = Literal["option", "environment", "setting", "built-in"]


@dataclass(frozen=True)
class Choice:
    """A model's name and who chose it."""

    name: str
    origin: Origin


@dataclass(frozen=True)
class StoredModel:
    """A model on disk. `name` is what `find` takes; `size` is in bytes; `problem` says why it
    cannot be loaded, None where no problem is known."""

    name: str
    path: Path
    kind: str | None
    size: int
    source: Location
    default: bool
    problem: str | None


def demo_folder() -> Path:
    return Path(__file__).parents[1] / DEMO / "weights"


def default_model(explicit: str | None = None) -> Choice:
    """The model to use: given, else `CROSSLMM_MODEL`, else the one set by `use`, else `demo`."""
    if explicit is not None:
        return Choice(explicit, "option")
    if named := os.environ.get(ENVIRONMENT):
        return Choice(named, "environment")
    if isinstance(chosen := read_settings().get("default"), str):
        return Choice(chosen, "setting")
    return Choice(DEMO, "built-in")


def use(name: str | None) -> Path | None:
    """Make `name` the default model, or forget the default with None. Returns its folder."""
    if name is None:
        write_settings({key: value for key, value in read_settings().items() if key != "default"})
        return None
    resolved = resolve_model(name)
    folder = resolved.adapter or resolved.folder
    write_settings({**read_settings(), "default": lasting_name(name)})
    return folder


def lasting_name(name: str) -> str:
    """What names the same model from any folder."""
    folder = _as_folder(name)
    return name if folder is None else str(folder.absolute())


def resolve(name: str | Path, *, kinds: tuple[str, ...] | None = MODEL_TYPES) -> Path:
    """The folder of the checkpoint called `name`, validated without loading it.

    `kinds` are the `model_type`s accepted, None for any. Raises CheckpointError where there is no
    such checkpoint on disk, or one that is incomplete, pickled or of another kind.
    """
    folder = find(name)
    if is_adapter(folder):
        raise CheckpointError(f"{folder}: an adapter, and what is needed here is a complete model")
    result = validate(folder, kinds=kinds)
    if result.problem is not None:
        remedy = _remedy(folder) if result.is_incomplete else ""
        raise CheckpointError(result.problem + remedy)
    return folder


@dataclass(frozen=True)
class ResolvedModel:
    """`folder` holds the configuration and weights; `adapter`, if the name is one's, the adapter to
    apply to them."""

    folder: Path
    adapter: Path | None = None


def resolve_model(name: str | Path) -> ResolvedModel:
    """The model called `name`, or the adapter with its base; as `resolve`, on disk and validated."""
    folder = find(name)
    if not is_adapter(folder):
        return ResolvedModel(resolve(name))
    base = read_adapter(folder).base
    try:
        return ResolvedModel(resolve(base), folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: an adapter whose base is not usable: {error}") from error


def find(name: str | Path) -> Path:
    """The folder that `name` means, whatever is in it."""
    text = str(name)
    if not text:
        raise UsageError("the model's name is empty")
    if text == DEMO:
        return _found_demo()
    if (folder := _as_folder(name)) is not None:
        return folder
    if os.path.isfile(os.path.expanduser(text)):
        raise CheckpointError(f"{text}: a file; give the checkpoint's folder")
    repository, revision = split_revision(text)
    if snapshot := find_snapshot(repository, revision):
        return snapshot
    if os.path.isdir(os.path.expanduser(text)):
        inside = Path(text, "model")  # of a run of `crosslmm train`
        hint = f"; {inside} holds one" if _as_folder(inside) else ""
        raise CheckpointError(f"{text}: no checkpoint (the folder has no config.json){hint}")
    if isinstance(name, Path) or not is_hub_id(repository):
        raise CheckpointError(f"{text}: {_what_instead(text)}")
    raise CheckpointError(
        f"{text}: not on this machine, neither as a folder nor downloaded\n"
        f"`crosslmm models pull {text}` gets it from the Hugging Face Hub"
    )


def _what_instead(name: str) -> str:
    """What is wrong with the name of no model, and what was probably meant."""
    if name in RECIPES:
        return (
            "a recipe for a model that is still to be trained\n"
            f"`crosslmm models init {name}` assembles it; see its help"
        )
    known = [DEMO, *RECIPES, *(folder for folder, _ in _named_folders()), *LICENSES]
    if close := get_close_matches(name, known, n=1):
        return f"no such model; did you mean {close[0]}?"
    return (
        "no such model; give a checkpoint's folder, a Hub id (org/name), "
        "or a name from `crosslmm models list`"
    )


@dataclass(frozen=True)
class ValidationResult:
    """`problem` says why a checkpoint cannot be loaded; `is_incomplete`: files of it are missing."""

    kind: str | None
    problem: str | None
    is_incomplete: bool = False


def validate(folder: Path, *, kinds: tuple[str, ...] | None = MODEL_TYPES) -> ValidationResult:
    """The `model_type` of a folder and, in a line, why it cannot be loaded."""
    try:
        if is_adapter(folder):
            resolve_model(folder)
            return ValidationResult(ADAPTER, None)
        config = read_config(folder)
        check_config(folder, config)
        check_files(folder)
    except CheckpointError as error:
        return ValidationResult(None, str(error), isinstance(error, IncompleteCheckpoint))
    kind = config.get("model_type")
    if kinds is not None and kind not in kinds:
        return ValidationResult(kind, f"{folder}: {wrong_kind(kind, kinds)}")
    if kind in MODEL_TYPES and (problem := unsupported(config)):
        return ValidationResult(kind, f"{folder}: {problem}")
    try:
        read_headers(folder)
    except CheckpointError as error:
        return ValidationResult(kind, str(error), isinstance(error, IncompleteCheckpoint))
    return ValidationResult(kind, None)


def is_llava_onevision(folder: Path) -> bool:
    """Whether a checkpoint is of LLaVA-OneVision, by its configuration. Raises CheckpointError."""
    return read_config(folder).get("model_type") == LLAVA_ONEVISION


def read_config(folder: Path, *, name: str | None = None) -> dict[str, Any]:
    """What the config.json of a folder holds; errors call the folder `name`, its path by default."""
    path = f"{name or folder}/config.json"
    try:
        config = read_json(folder / "config.json")
    except FileNotFoundError:
        raise IncompleteCheckpoint(f"{folder}: no checkpoint (it has no config.json)") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"{path}: not readable as JSON ({reason})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a model configuration")
    return config


def default_tokens(folder: Path) -> int | None:
    """The tokens per frame that a model in a folder is asked with unless another number is given: its
    processor's; None where no file says it. Its configuration's are those that it was trained with."""
    processor = None
    with suppress(OSError, ValueError):
        processor = read_json(folder / "processor_config.json")
    found = processor.get("tokens_per_frame") if isinstance(processor, dict) else None
    return found if isinstance(found, int) else None


def stored_models() -> list[StoredModel]:
    """What is on disk that crosslmm could load, or could if it were complete."""
    chosen = default_model().name
    default = None
    with suppress(CrossLMMError):
        default = find(chosen)
    found = [_stored(DEMO, demo_folder(), "built-in")] if _holds_model(demo_folder()) else []
    found += [_stored(name, path, "folder") for name, path in _named_folders()]
    found += _hub_models()
    if (folder := _as_folder(chosen)) is not None and folder not in {item.path for item in found}:
        found.append(_stored(chosen, folder, "folder"))
    return [replace(item, default=item.path == default) for item in found]


@dataclass(frozen=True)
class Removal:
    """What `remove` would delete: shown to the user first."""

    name: str
    path: Path
    size: int
    source: Location


def plan_removal(name: str) -> Removal:
    """What removing `name` deletes. UsageError outside the folder of named models and the Hub cache."""
    if name == DEMO:
        raise UsageError(f"{DEMO}: the built-in model is part of the package and stays")
    given = Path(os.path.expanduser(name)).absolute()
    for folder, path in _named_folders():
        if name == folder or given == path.absolute():
            return Removal(folder, path, 0 if path.is_symlink() else _size(path), "folder")
    repository = split_revision(name)[0]
    path = repository_folder(repository)
    if is_hub_id(repository) and path.is_dir():
        if name != repository:
            raise UsageError(f"{name}: all revisions go together; give {repository}")
        return Removal(repository, path, _size(path), "hub")
    if os.path.lexists(given):
        raise UsageError(
            f"{name}: outside {home() / 'models'} and {hub_cache()}, where models are kept; "
            "remove it yourself"
        )
    raise CheckpointError(f"{name}: no such model on disk; see `crosslmm models list`")


def remove(removal: Removal) -> None:
    """Delete what was planned; what was chosen for it is forgotten."""
    removed = {removal.name, str(removal.path.absolute())}
    if removal.source == "hub":
        remove_repository(removal.path)
    else:
        remove_folder(removal.path)
    settings = read_settings()
    chosen = settings.get("default")
    if isinstance(chosen, str) and (chosen in removed or split_revision(chosen)[0] in removed):
        use(None)
    for name in settings.get("merging", {}):
        if name in removed or split_revision(name)[0] in removed:
            write_merging(name, None)


def _found_demo() -> Path:
    folder = demo_folder()
    if not _holds_model(folder):
        raise CheckpointError(
            "no model is chosen, and this installation has no built-in one\n"
            "`crosslmm setup` downloads one"
        )
    return folder


def _as_folder(name: str | Path) -> Path | None:
    """The folder that `name` is, or names under `home()/models`: one of a model or an adapter."""
    if str(name) == DEMO:
        return None
    path = Path(os.path.expanduser(name))
    if _holds_model(path):
        return path
    named = home() / "models" / path
    return named if path.name == str(name) and _holds_model(named) else None


def _holds_model(folder: Path) -> bool:
    # False too where the name is too long for a path.
    return os.path.isfile(folder / "config.json") or is_adapter(folder)


def _remedy(folder: Path) -> str:
    """How to complete a snapshot in the Hub cache; nothing for other folders."""
    if hub_cache() not in folder.parents:
        return ""
    repository = repository_id(folder.parents[1])
    revisions = list_revisions(folder.parents[1])
    revision = next((name for name, commit in revisions.items() if commit == folder.name), "main")
    name = repository if revision == "main" else f"{repository}@{revision}"
    return f"\n`crosslmm models pull {name}` resumes the download"


def _named_folders() -> Iterator[tuple[str, Path]]:
    folder = home() / "models"
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield path.name, path


def _hub_models() -> list[StoredModel]:
    found = []
    for folder in sorted(hub_cache().glob("models--*--*")):
        name = repository_id(folder)
        try:
            for revision in list_revisions(folder):
                snapshot = find_snapshot(name, revision)
                if snapshot is None:
                    continue
                full = name if revision == "main" else f"{name}@{revision}"
                item = _stored(full, snapshot, "hub")
                if item.kind in (*MODEL_TYPES, ADAPTER):
                    found.append(item)
        except OSError as error:
            problem = f"{error.filename or folder}: cannot be read ({error.strerror})"
            found.append(StoredModel(name, folder, None, _size(folder), "hub", False, problem))
    return found


def _stored(name: str, path: Path, source: Location) -> StoredModel:
    result = validate(path)
    remedy = _remedy(path) if result.is_incomplete else ""
    return StoredModel(
        name=name,
        path=path,
        kind=result.kind,
        size=size_on_disk(path),
        source=source,
        default=False,
        problem=result.problem and result.problem + remedy,
    )


def size_on_disk(folder: Path) -> int:
    """Bytes of the checkpoint in a folder; for a snapshot in the Hub cache, of its repository."""
    repository = folder.absolute().parent.parent
    in_cache = repository.parent == hub_cache().absolute() and folder.parent.name == "snapshots"
    return _size(repository if in_cache else folder)


def _size(folder: Path) -> int:
    """Bytes of the files under a folder, links not counted."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(parent, file)
            if not os.path.islink(path):
                with suppress(OSError):
                    total += os.path.getsize(path)
    return total
