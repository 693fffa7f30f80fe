"""The frames that somebody names, by time or by index."""

from collections.abc import Sequence

import numpy as np

from crosslmm.errors import VideoError

# A time that falls on a frame's first instant means that frame, whatever the rounding.
ROUNDING = 1e-6
_SHOWN = 5  # names in a message


def pick_frames(
    at: Sequence[float | str],
    times: np.ndarray,
    duration: float,
    *,
    path: str,
    most: int | None = None,
) -> tuple[list[int], list[str]]:
    """The rows of `times` that `at` names, ascending, each once; and what to warn of.

    - at, most: as `at` and `max_frames` in `Sampling`.
    - times: (N,) float64 seconds, ascending; the last frame is shown until `duration`.

    Raises `VideoError` for a time or an index that the video does not have.
    """
    first_named: dict[int, float | str] = {}
    repeated: list[str] = []
    for each in at:
        row = _row(each, times, duration, path=path)
        if row in first_named:
            repeated.append(f"{_name(each)} (as {_name(first_named[row])})")
        else:
            first_named[row] = each
    warnings = []
    if repeated:
        more = f", and {len(repeated) - _SHOWN:,} more" if len(repeated) > _SHOWN else ""
        warnings.append(
            f"`at` names the same frame more than once, which is used once: "
            f"{', '.join(repeated[:_SHOWN])}{more}"
        )
    rows = sorted(first_named)
    if most is not None and len(rows) > most:
        warnings.append(
            f"{most:,} of the {len(rows):,} frames that `at` names are used: `max_frames`"
        )
        rows = [rows[int((slot + 0.5) * len(rows) / most)] for slot in range(most)]
    return rows, warnings


def _row(each: float | str, times: np.ndarray, duration: float, *, path: str) -> int:
    if isinstance(each, str):
        row = int(each[1:])
        if row >= len(times):
            raise VideoError(f"{path}: `at`: {each} is beyond the last frame, #{len(times) - 1}")
        return row
    if each >= duration > 0 or each > duration:
        lasts = f"lasts {duration:.6g} s" if duration > 0 else "is a single image"
        raise VideoError(
            f"{path}: `at`: {_name(each)} is beyond the end of the video, which {lasts}"
        )
    return max(0, int(np.searchsorted(times, each + ROUNDING, side="right")) - 1)


def _name(each: float | str) -> str:
    return each if isinstance(each, str) else f"{each:.6g} s"
