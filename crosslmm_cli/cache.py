"""`crosslmm cache`: what is kept of videos that were encoded."""

from datetime import datetime

import typer

from crosslmm.inference.downloads import clear_downloads, downloaded
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm_cli import options
from crosslmm_cli.amounts import counted, size_text
from crosslmm_cli.commands import Command, Group
from crosslmm_cli.output import Output

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Show or delete what is kept of videos that were encoded.",
)


@app.command(cls=Command)
def info(as_json: options.JsonOption = False) -> None:
    """List the videos in the cache, the most recently used first."""
    output = Output(as_json=as_json)
    cache = FeatureCache()
    entries = cache.entries()
    size = sum(entry.size for entry in entries)
    downloads = downloaded(cache)
    if as_json:
        names = ("video", "frames", "size", "used")
        listed = [{name: getattr(entry, name) for name in names} for entry in entries]
        kept = {"videos": len(downloads), "size": sum(downloads)}
        output.record(
            {"folder": str(cache.folder), "size": size, "entries": listed, "downloads": kept}
        )
        return
    if entries:
        rows = [("video", "frames", "size", "last used")]
        for entry in entries:
            used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            rows.append(
                (entry.video or "(damaged)", str(entry.frames), size_text(entry.size), used)
            )
        output.table(rows, right=(1, 2))
    output.notice(f"{_count(len(entries))}, {size_text(size)}, in {cache.folder}")
    if downloads:
        output.notice(f"downloaded: {_videos(downloads)}")


@app.command(cls=Command)
def clear(quiet: options.QuietOption = False) -> None:
    """Delete everything in the cache."""
    output = Output(quiet=quiet)
    cache = FeatureCache()
    removed, downloads = cache.clear(), downloaded(cache)
    clear_downloads(cache)
    size = sum(entry.size for entry in removed)
    also = f", and of downloads {_videos(downloads)}" if downloads else ""
    output.notice(f"deleted {_count(len(removed))}, {size_text(size)}{also}")


def _videos(sizes: list[int]) -> str:
    return f"{counted(len(sizes), 'video')}, {size_text(sum(sizes))}"


def _count(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"
