"""Which tokens a model reads: what was asked for, else what `crosslmm models use` remembers."""

from typing import Any, TypedDict

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.settings import MergingChoice, read_merging
from crosslmm.errors import UsageError
from crosslmm.merging import MERGERS, check_merging, parse_share
from crosslmm_cli.output import Output

NONE = "none"
BEST = "salient"  # of the methods in docs/merging.md
RECOMMENDED = "10%"
_NONE_AND_KEEP = "--merge none takes all tokens: it excludes --keep"
_MANY_TOKENS = 4096  # of a video; below that merging saves little


class Merging(TypedDict):
    """As `crosslmm.load` takes them."""

    tokens_per_frame: int | None
    merge: str | None
    keep: str | int | None


def choose_merging(
    output: Output,
    model: str | None,
    *,
    tokens_per_frame: int | None = None,
    merge: str | None = None,
    keep: str | int | None = None,
) -> Merging:
    """What was asked for, completed by what is remembered of the model. Raises UsageError."""
    if merge == NONE:
        if keep is not None:
            raise UsageError(_NONE_AND_KEEP)
        return Merging(tokens_per_frame=tokens_per_frame, merge=None, keep=None)
    remembered = None
    if tokens_per_frame is None and (merge is None or keep is None):
        remembered = merging_of(catalog.default_model(model).name)
    if remembered is not None and remembered.merge is not None:
        if merge is None and keep is None:
            output.notice(
                f"{describe(remembered)}, as set by `crosslmm models use`; --merge none takes all"
            )
        merge = merge or remembered.merge
        keep = keep or remembered.keep
    check_merging(
        merge=merge, keep=keep, tokens_per_frame=tokens_per_frame, methods=MERGERS, error=UsageError
    )
    return Merging(tokens_per_frame=tokens_per_frame, merge=merge, keep=keep)


def new_choice(merge: str | None, keep: str | None) -> MergingChoice | None:
    """What `models use` is to remember; None where nothing was said. Raises UsageError."""
    if merge is None and keep is None:
        return None
    if merge == NONE:
        if keep is not None:
            raise UsageError(_NONE_AND_KEEP)
        return MergingChoice()
    if keep is None:
        raise UsageError(f"--merge needs --keep, such as {RECOMMENDED}")
    merge = merge or BEST
    check_merging(merge=merge, keep=keep, methods=MERGERS, error=UsageError)
    all_tokens = keep.strip().endswith("%") and parse_share(keep) == 1
    return MergingChoice() if all_tokens else MergingChoice(merge, keep.strip())


def merging_of(model: str) -> MergingChoice | None:
    """What is remembered of a model."""
    return read_merging(catalog.lasting_name(model))


def describe(choice: MergingChoice) -> str:
    """`salient keeps 10% of the tokens`"""
    if choice.merge is None:
        return "all tokens are kept"
    return f"{choice.merge} keeps {choice.keep} of the tokens"


def recommend(output: Output, model: str) -> None:
    """Tell of a setting for a checkpoint of LLaVA-OneVision that nobody chose one for."""
    folder = catalog.resolve_model(model).folder
    if catalog.is_llava_onevision(folder) and merging_of(model) is None:
        output.notice(
            f"`crosslmm models use {model} --keep {RECOMMENDED}` fits ten times the frames into its "
            "context, at some loss of accuracy"
        )


def recommend_for(output: Output, model: str, session: Any) -> None:
    """As `recommend`, for a video whose tokens are many."""
    if not session.merged and session.visual_tokens > _MANY_TOKENS:
        recommend(output, model)
