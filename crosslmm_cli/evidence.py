"""`--evidence` and `/evidence`: what an answer was read from, as a file."""

from pathlib import Path
from typing import Any

from crosslmm_cli.output import Output, one_line


def save_evidence(
    output: Output, session: Any, answer: Any, path: Path, *, always: bool = False
) -> None:
    """Write it, and say where its peak is."""
    evidence = session.evidence(answer)
    evidence.save(path)
    found = evidence.moments
    peak = f"; read most from {found[0].start:.1f} to {found[0].end:.1f} s" if found else ""
    if found and found[0].video:
        peak += f" of {one_line(found[0].video)}"
    output.notice(f"wrote {one_line(str(path))} in {evidence.seconds:.1f} s{peak}", always=always)
