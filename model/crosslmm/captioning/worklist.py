"""What a run has to do, decided from the files and the manifest before anything is decoded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from crosslmm.captioning.manifest import Manifest, ManifestEntry, index_by_content
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.outputs import CaptionOutput
from crosslmm.captioning.results import Record
from crosslmm.captioning.sources import Source


@dataclass
class Worklist:
    """- todo: videos to caption, each followed by its copies;
    - copies: videos whose content was captioned before, with the record of it;
    - conflicts: videos whose caption must not be written, with the reason;
    - unwritten: videos that are done, whose lost file could not be written again, with the reason;
    - kept, kept_failures: how many videos an earlier run has done.
    """

    todo: list[list[Source]] = field(default_factory=list)
    copies: list[tuple[Source, Record]] = field(default_factory=list)
    conflicts: list[tuple[Source, str]] = field(default_factory=list)
    unwritten: list[tuple[Source, str]] = field(default_factory=list)
    kept: int = 0
    kept_failures: int = 0

    @property
    def replaced(self) -> set[str]:
        """Paths of which this run writes a new record."""
        settled = [source for source, _ in (*self.copies, *self.conflicts)]
        return {source.path for group in (*self.todo, settled) for source in group}


def make_worklist(
    sources: Sequence[Source],
    manifest: Manifest | None,
    output: CaptionOutput | None,
    *,
    options: CaptionOptions,
    run_options: RunOptions,
    settings_hash: str,
) -> Worklist:
    """What has to be done with `sources`, which are identified; lost files of videos that are done
    are written again on the way."""
    work = Worklist()
    if manifest is None or output is None:
        work.todo = _group_copies(sources, options)
        return work
    known = index_by_content(manifest.entries)
    overwrite, retry_failed = run_options.overwrite, run_options.retry_failed
    missing: list[Source] = []
    for source in sources:
        entry = manifest.entries.get(source.path)
        if (
            not overwrite
            and entry is not None
            and _is_current(entry, source, settings_hash, retry_failed=retry_failed)
        ):
            if entry.failed:
                work.kept_failures += 1
                continue
            try:
                output.restore(source.path, manifest)
                work.kept += 1
            except OSError as error:
                work.unwritten.append((source, explain_unwritten(source.path, error)))
        elif (reason := output.conflict(source.path, overwrite=overwrite)) is not None:
            work.conflicts.append((source, reason))
        elif overwrite:
            missing.append(source)
        else:
            twin = known.get((source.content or "", settings_hash))
            if twin is not None and options.same_for(twin, source.path):
                work.copies.append((source, manifest.read_captioned(twin)))
            else:
                missing.append(source)
    work.todo = _group_copies(missing, options)
    return work


def explain_unwritten(path: str, error: OSError) -> str:
    """Why a video that has a caption fails all the same."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{path}: its caption could not be written: {where}{error.strerror or error}"


def _is_current(
    entry: ManifestEntry, source: Source, settings_hash: str, *, retry_failed: bool
) -> bool:
    if entry.failed and retry_failed:
        return False
    return (entry.content, entry.settings_hash) == (source.content, settings_hash)


def _group_copies(sources: Sequence[Source], options: CaptionOptions) -> list[list[Source]]:
    """Files of the same content together, unless their prompts differ."""
    groups: list[list[Source]] = []
    by_content: dict[str, list[Source]] = {}
    for source in sources:
        group = by_content.get(source.content or "")
        if group and options.same_for(group[0].path, source.path):
            group.append(source)
            continue
        groups.append([source])
        if source.content is not None:
            by_content.setdefault(source.content, groups[-1])
    return groups
