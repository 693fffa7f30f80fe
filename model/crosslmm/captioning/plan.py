"""What of a run is to be done, decided from the files and the manifest before anything is read."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from crosslmm.captioning.manifest import Entry, Manifest, by_content
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.outputs import Output
from crosslmm.captioning.results import Record
from crosslmm.captioning.worklist import Source
from crosslmm.fingerprint import content_identity

_HASHING_THREADS = 8


@dataclass(frozen=True)
class Item:
    """A video to caption and what identifies its content, None where that cannot be read."""

    source: Source
    content: str | None

    @property
    def path(self) -> str:
        return self.source.path


@dataclass
class Plan:
    """- todo: videos to caption, each with its copies behind it;
    - copies: videos whose content was captioned before, with the record of it;
    - conflicts: videos whose caption must not be written, with the reason;
    - unwritten: videos that are done, whose lost file could not be written again, with the reason;
    - kept, kept_failures: how many an earlier run was done with.
    """

    todo: list[list[Item]] = field(default_factory=list)
    copies: list[tuple[Item, Record]] = field(default_factory=list)
    conflicts: list[tuple[Item, str]] = field(default_factory=list)
    unwritten: list[tuple[Item, str]] = field(default_factory=list)
    kept: int = 0
    kept_failures: int = 0

    @property
    def paths(self) -> set[str]:
        """All that this run will say something new about."""
        settled = [item for item, _ in (*self.copies, *self.conflicts)]
        return {item.path for group in (*self.todo, settled) for item in group}


def identify(sources: Sequence[Source]) -> list[Item]:
    """The sources with their contents' identities."""
    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        contents = threads.map(content_identity, [source.path for source in sources])
        return [Item(*pair) for pair in zip(sources, contents, strict=True)]


def make_plan(
    items: Sequence[Item],
    manifest: Manifest | None,
    output: Output | None,
    *,
    options: CaptionOptions,
    run_options: RunOptions,
    settings_hash: str,
) -> Plan:
    """What is to be done; files of videos that are done are written again where they were lost."""
    plan = Plan()
    if manifest is None or output is None:
        plan.todo = _grouped(items, options)
        return plan
    known = by_content(manifest.entries.items())
    overwrite, retry_failed = run_options.overwrite, run_options.retry_failed
    missing: list[Item] = []
    for item in items:
        entry = manifest.entries.get(item.path)
        if not overwrite and _is_current(entry, item, settings_hash, retry_failed=retry_failed):
            if manifest.entries[item.path].failed:
                plan.kept_failures += 1
                continue
            try:
                output.restore(item.source, manifest)
                plan.kept += 1
            except OSError as error:
                plan.unwritten.append((item, unwritten(item, error)))
        elif (reason := output.conflict(item.source, overwrite=overwrite)) is not None:
            plan.conflicts.append((item, reason))
        elif overwrite:
            missing.append(item)
        else:
            twin = known.get((item.content or "", settings_hash))
            if twin is not None and options.same_for(twin, item.path):
                plan.copies.append((item, manifest.read(twin)))
            else:
                missing.append(item)
    plan.todo = _grouped(missing, options)
    return plan


def unwritten(item: Item, error: OSError) -> str:
    """Why a video that has a caption fails all the same."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{item.path}: its caption could not be written: {where}{error.strerror or error}"


def _is_current(entry: Entry | None, item: Item, settings_hash: str, *, retry_failed: bool) -> bool:
    if entry is None or (entry.failed and retry_failed):
        return False
    return (entry.content, entry.settings_hash) == (item.content, settings_hash)


def _grouped(items: Sequence[Item], options: CaptionOptions) -> list[list[Item]]:
    """Files of the same content together, unless the prompt tells them apart."""
    groups: list[list[Item]] = []
    by_content: dict[str, list[Item]] = {}
    for item in items:
        group = by_content.get(item.content or "")
        if group and options.same_for(group[0].path, item.path):
            group.append(item)
            continue
        groups.append([item])
        if item.content is not None:
            by_content.setdefault(item.content, groups[-1])
    return groups
