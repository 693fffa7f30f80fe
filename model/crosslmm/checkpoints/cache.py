"""The Hugging Face Hub's cache on this machine: repositories by id, their revisions and snapshots."""

import errno
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from crosslmm.files import read_text, remove_folder
from crosslmm.limits import MAX_REF_BYTES

DISK_MARGIN = 200_000_000  # bytes that a download leaves free


def hub_cache() -> Path:
    """The folder of the cache, as `huggingface_hub` has it from the environment."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def free_disk() -> int:
    """Bytes free on the disk of the cache, which need not exist yet."""
    folder = hub_cache()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def begun(repository: str) -> int:
    """Bytes of an interrupted download of `org/name`."""
    blobs = repository_folder(repository) / "blobs"
    return sum(path.stat().st_size for path in blobs.glob("*.incomplete"))


def has_begun(repository: str) -> bool:
    """Whether anything of `org/name` was downloaded, complete or not."""
    return any(path.stat().st_size for path in (repository_folder(repository) / "blobs").glob("*"))


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `org/name`."""
    organisation, _, rest = name.partition("/")
    allowed = name.replace("/", "").replace("-", "").replace("_", "").replace(".", "")
    plain = allowed.isascii() and allowed.isalnum() and "--" not in name and ".." not in name
    return bool(organisation and rest) and "/" not in rest and name[0] not in ".~" and plain


def split_revision(name: str) -> tuple[str, str]:
    """A Hub id and its revision: `org/name@rev`, or `main`."""
    repository, _, revision = name.partition("@")
    return repository, revision or "main"


def repository_folder(repository: str) -> Path:
    """Where the cache keeps `org/name`."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def repository_id(folder: Path) -> str:
    """`org/name` of a repository's folder in the cache."""
    return folder.name.removeprefix("models--").replace("--", "/")


def find_snapshot(repository: str, revision: str) -> Path | None:
    """The snapshot folder of a Hub repository in the cache, None where there is none."""
    if not is_hub_id(repository) or ".." in revision:
        return None
    folder = repository_folder(repository)
    commit = revision
    with suppress(OSError):
        commit = _read_ref(folder / "refs", revision)
    snapshot = folder / "snapshots" / commit
    return snapshot if commit.isalnum() and snapshot.is_dir() else None


def remove_repository(folder: Path) -> None:
    """Remove a repository from the cache, and what it alone uses of a store shared by several."""
    from huggingface_hub import scan_cache_dir

    scan = scan_cache_dir(hub_cache())
    # Only this one: a copy of a repository has the same commits.
    path = hub_cache().resolve() / folder.name
    scan = replace(scan, repos=frozenset(item for item in scan.repos if item.repo_path == path))
    commits = [revision.commit_hash for item in scan.repos for revision in item.revisions]
    scan.delete_revisions(*commits).execute()
    if folder.exists():  # an interrupted download, which the scan leaves out
        remove_folder(folder)


def list_revisions(repository: Path) -> dict[str, str]:
    """Revisions of a repository's folder in the cache, with their commits; `main` first.

    A commit without a name, pulled by its hash, goes by that. Raises OSError.
    """
    refs = repository / "refs"
    paths = sorted(path for path in refs.rglob("*") if path.is_file())
    found = [path.relative_to(refs).as_posix() for path in paths]
    names = {name: _read_ref(refs, name) for name in found}
    commits = sorted(path.name for path in (repository / "snapshots").glob("*"))
    names |= {commit: commit for commit in commits if commit not in names.values()}
    return dict(sorted(names.items(), key=lambda item: item[0] != "main"))


def _read_ref(refs: Path, revision: str) -> str:
    """The commit of a revision. Raises OSError, also where the file is not one of the Hub's."""
    path = refs / revision
    if refs not in path.parents:
        raise OSError(errno.EINVAL, "not a revision", revision)
    try:
        return read_text(path, longest=MAX_REF_BYTES).strip()
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from None
