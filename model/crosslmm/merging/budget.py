"""How many tokens of a video the language model reads, known from the number of its frames.

Neither this nor checking it needs torch.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from crosslmm.merging.grid import check_tokens_per_frame

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class TokenBudget:
    """- pooled: tokens that a frame is pooled to, a square number.
    - merge: the merging method that makes fewer of those of all frames; None leaves them as they are.
    - keep: how many there will be: a share of all, as "10%", or a number for the complete video.
    - tokens_per_frame: or so many for each frame, in all.
    """

    pooled: int
    merge: str | None = None
    keep: str | int | None = None
    tokens_per_frame: int | None = None

    def count(self, frames: int) -> int:
        """K, the tokens of a video of so many frames: at least 1, and never more than there are."""
        every = frames * self.pooled
        if self.merge is None:
            return every
        kept = self.keep
        if kept is None:
            wanted = frames * (self.tokens_per_frame or self.pooled)
        elif isinstance(kept, str):
            wanted = int(parse_share(kept) * every)
        else:
            wanted = kept
        return min(max(wanted, 1), every)

    @property
    def grows(self) -> bool:
        """Whether more frames make more tokens."""
        return self.merge is None or not isinstance(self.keep, int)

    @property
    def short(self) -> str:
        """`9 tokens per frame`, `folder 10%`, `folder 9 per frame`, `folder 5,000 in all`"""
        return str(self) if self.merge is None else f"{self.merge} {self._wanted}"

    def __str__(self) -> str:
        """`9 tokens per frame`, `196 tokens per frame merged by folder to 10%`"""
        plain = f"{self.pooled:,} token{'s' if self.pooled != 1 else ''} per frame"
        return plain if self.merge is None else f"{plain} merged by {self.merge} to {self._wanted}"

    @property
    def _wanted(self) -> str:
        if self.keep is None:
            return f"{self.tokens_per_frame or self.pooled:,} per frame"
        return self.keep if isinstance(self.keep, str) else f"{self.keep:,} in all"

    @property
    def settings(self) -> dict[str, str | int | None]:
        """The arguments that ask for it."""
        if self.merge is None:
            return {"tokens_per_frame": self.pooled, "merge": None, "keep": None}
        return {"tokens_per_frame": self.tokens_per_frame, "merge": self.merge, "keep": self.keep}


def choose_budget(
    default: TokenBudget,
    *,
    trained: int,
    patches: int | None,
    methods: Collection[str],
    tokens_per_frame: int | None = None,
    merge: str | None = None,
    keep: str | int | None = None,
    error: type[Exception] = ValueError,
) -> TokenBudget:
    """What was asked for, over `default`. A merger works on the `trained` tokens of a frame.

    methods: names of mergers. Raises `error` for what means nothing.
    """
    if tokens_per_frame is None and merge is None and keep is None:
        return default
    merge = default.merge if merge is None else merge
    check_merging(
        merge=merge,
        keep=keep,
        tokens_per_frame=tokens_per_frame,
        methods=methods,
        patches=patches,
        trained=trained,
        error=error,
    )
    if merge is None:
        assert tokens_per_frame is not None
        return TokenBudget(tokens_per_frame)
    if keep is not None:
        return TokenBudget(trained, merge, _plain(keep))
    if tokens_per_frame is None:
        if default.merge is not None:
            keep, tokens_per_frame = default.keep, default.tokens_per_frame
        elif default.pooled < trained:
            tokens_per_frame = default.pooled
        else:
            raise error("`merge` needs `keep`, such as 10%, or `tokens_per_frame`")
    elif tokens_per_frame > trained:
        raise error(
            f"`tokens_per_frame` {tokens_per_frame} with `merge` is more than the {trained} of a "
            "frame before merging"
        )
    return TokenBudget(trained, merge, keep, tokens_per_frame)


def check_merging(
    *,
    methods: Collection[str],
    merge: str | None = None,
    keep: Any = None,
    tokens_per_frame: int | None = None,
    patches: int | None = None,
    trained: int | None = None,
    error: type[Exception] = ValueError,
) -> None:
    """Raises `error` for a merging that no checkpoint could have; if given, of so many patches and
    trained with so many tokens."""
    if merge is not None and merge not in methods:
        close = get_close_matches(merge, methods, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise error(f"`merge` must be one of {', '.join(methods)}, not {merge!r}{meant}")
    if keep is None:
        if merge is None and tokens_per_frame is not None:
            check_tokens_per_frame(tokens_per_frame, patches, trained=trained, error=error)
        return
    if merge is None:
        raise error(f"`keep` needs `merge`, one of {', '.join(methods)}")
    if tokens_per_frame is not None:
        raise error("`keep` and `tokens_per_frame` exclude each other: give one of them")
    try:
        kept = _plain(keep)
        fits = 0 < parse_share(kept) <= 1 if isinstance(kept, str) else kept >= 1
    except ValueError:
        fits = False
    if not fits:
        raise error(
            f"`keep` must be a share above 0 and up to 100%, such as 10%, or a number of tokens for "
            f"the complete video, not {keep!r}"
        )


def parse_share(text: str) -> Fraction:
    """ "10%" → 1/10. Raises ValueError."""
    match = _SHARE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a share")
    return Fraction(match[1]) / 100


def _plain(keep: Any) -> str | int:
    """A share as it was written, or a number of tokens, which may be written too."""
    if isinstance(keep, bool) or not isinstance(keep, str | int):
        raise ValueError(f"{keep!r} is neither a share nor a number")
    if isinstance(keep, str) and re.fullmatch(r"\s*\d+\s*", keep):
        return int(keep)
    return keep.replace(" ", "") if isinstance(keep, str) else keep
