"""Fetching models from the Hugging Face Hub into its ordinary cache: the one place that uses the
network, and only when asked.

Weights come as safetensors or not at all, and only of models that can be loaded, which their
configuration tells. Free space is compared with what is still to come before the first byte; an
interrupted download is resumed. Weights come last: a checkpoint that has them has all its files.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crosslmm.checkpoints.cache import (
    DISK_MARGIN,
    begun,
    free_disk,
    has_begun,
    hub_cache,
    is_hub_id,
    split_revision,
)
from crosslmm.checkpoints.catalog import read_config
from crosslmm.checkpoints.headers import read_headers
from crosslmm.checkpoints.screening import check_config
from crosslmm.checkpoints.support import MODEL_TYPES, unsupported, unsupported_part
from crosslmm.errors import CheckpointError, CrossLMMError, UsageError, first_line
from crosslmm.files import gigabytes

_WEIGHTS = "*.safetensors"
_WANTED = [_WEIGHTS, "*.json", "*.txt", "*.jinja", "*.model"]
_UNWANTED = ["*/*", ".*"]  # other formats live in sub-folders


class DownloadError(CrossLMMError):
    """A download that could not start or finish."""


def pull(
    name: str,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Path:
    """Download `org/name[@revision]` and return its folder; a complete one is not fetched again.

    `on_progress` is called with the bytes downloaded and the total; `on_notice`, before
    the weights come, with a line of text where the model is only a part of one.
    Raises DownloadError, UsageError for a name of another form, CheckpointError for a repository
    that holds no safetensors weights or a model that cannot be loaded.
    """
    from huggingface_hub import snapshot_download

    repository, revision = split_revision(name)
    if not is_hub_id(repository):
        raise UsageError(f"{name}: not a Hub id; it has the form org/name or org/name@revision")
    wanted: dict[str, Any] = {
        "repo_id": repository,
        "revision": revision,
        "allow_patterns": _WANTED,
        "ignore_patterns": _UNWANTED,
    }
    with _explained(name):
        files = snapshot_download(**wanted, dry_run=True)
    _check_supported(name, {file.filename for file in files}, on_notice)
    total = sum(file.file_size or 0 for file in files)
    coming = sum(file.file_size or 0 for file in files if file.will_download)
    _check_space(name, coming - begun(repository))
    report = on_progress or (lambda done, total: None)
    report(total - coming, total)
    with _explained(name):
        snapshot_download(**{**wanted, "ignore_patterns": [*_UNWANTED, _WEIGHTS]})
        folder = Path(snapshot_download(**wanted, tqdm_class=_progress_class(report, total)))
    report(total, total)
    read_headers(folder)
    return folder


def fetch_config(name: str, *, cache: Path | None = None) -> Path:
    """Download the config.json of `org/name[@revision]` alone, and return its path.

    cache: a folder other than the Hub's cache to put it in.

    Raises DownloadError, UsageError for a name of another form.
    """
    from huggingface_hub import snapshot_download

    repository, revision = split_revision(name)
    if not is_hub_id(repository):
        raise UsageError(f"{name}: not a Hub id; it has the form org/name or org/name@revision")
    with _explained(name):
        # Without a network it fails at once, where the download of a single file tries for 20 s.
        folder = snapshot_download(
            repository, revision=revision, cache_dir=cache, allow_patterns="config.json"
        )
    if not (config := Path(folder) / "config.json").exists():
        raise DownloadError(f"{name}: the repository has no config.json")
    return config


def _check_supported(name: str, files: set[str], on_notice: Callable[[str], None] | None) -> None:
    """Raises CheckpointError, before the weights come, for a repository that is of no use."""
    if not any(file.endswith(".safetensors") for file in files):
        raise CheckpointError(
            f"{name}: the repository has no safetensors weights; pickled ones (.bin, .pt) and GGUF "
            "are not supported"
        )
    if "config.json" not in files and "adapter_config.json" in files:
        raise CheckpointError(
            f"{name}: an adapter, not a model: pull its base (base_model_name_or_path in its "
            f"adapter_config.json), and get the adapter with `hf download {name.partition('@')[0]}`; "
            "its folder is then the name of the model"
        )
    if {"config.json", "adapter_config.json"} <= files:
        raise CheckpointError(f"{name}: holds an adapter of another model beside a model")
    if "config.json" not in files:
        raise CheckpointError(
            f"{name}: no checkpoint of a model (the repository has no config.json)"
        )
    # In a cache of its own, so that nothing is left of a repository that is refused.
    with tempfile.TemporaryDirectory(prefix="crosslmm-config-") as scratch:
        config = read_config(fetch_config(name, cache=Path(scratch)).parent, name=name)
    kind = config.get("model_type")
    is_model = kind in MODEL_TYPES
    if problem := unsupported(config) if is_model else unsupported_part(config):
        raise CheckpointError(f"{name}: {problem}")
    if is_model:
        check_config(Path(name), config)
    if not is_model and on_notice is not None:
        on_notice(
            f"{name}: its model_type is {kind!r}, so it is no CrossLMM: usable only as a part for "
            "`crosslmm models init`, and not shown by `crosslmm models list`"
        )


def _check_space(name: str, coming: int) -> None:
    free = free_disk()
    if coming > 0 and coming + DISK_MARGIN > free:
        raise DownloadError(
            f"{name}: {gigabytes(coming)} to download, {gigabytes(free)} free "
            f"in {hub_cache()}\n"
            "free some space, or set HF_HOME to a folder on a larger disk"
        )


def _progress_class(report: Callable[[int, int], None], total: int) -> type[Any]:
    """A progress bar that draws nothing: the downloader's way to hand out its byte counts."""
    from tqdm.auto import tqdm

    class Reporter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def close(self) -> None:
            # tqdm's own draws once more, and where nobody closes a bar, as the interpreter ends.
            self.disable = True

        def display(self, *args: Any, **kwargs: Any) -> None:
            # Bytes received and bytes written are two bars; files finished are a third.
            if self.unit == "B":
                report(min(int(self.n), total), total)

    return Reporter


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns the downloader's exceptions into one or two lines each."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:
        causes = [error, *_causes(error)]
        if problem := _problem(causes, errors, kept=has_begun(split_revision(name)[0])):
            raise DownloadError(f"{name}: {problem}") from error
        raise


def _problem(causes: list[Exception], errors: Any, *, kept: bool) -> str | None:
    """What to say of a failed request; `kept`: something of a download is on disk."""

    def has(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(errors.OfflineModeIsEnabled):
        return "not downloaded, because HF_HUB_OFFLINE is set"
    if has(errors.GatedRepoError):
        return "its owner wants terms accepted on its page first; then `hf auth login`"
    if has(errors.RepositoryNotFoundError):
        return "no such model on the Hub (a private one needs `hf auth login`)"
    if has(errors.RevisionNotFoundError):
        return "the Hub has no such revision of it"
    if has(errors.HTTPError):
        return (
            f"the Hugging Face Hub cannot be reached ({first_line(causes[-1])[:160]})\n"
            f"{'what was downloaded is kept; ' if kept else ''}try again when the network is back"
        )
    if has(OSError):
        return f"the download failed ({first_line(causes[0])[:160]})" + (
            "\nwhat was downloaded is kept; the same command resumes the download" if kept else ""
        )
    return None


def _causes(error: BaseException) -> Iterator[Exception]:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, Exception):
        yield cause
        yield from _causes(cause)
