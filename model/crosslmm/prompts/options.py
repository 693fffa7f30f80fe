"""The keyword arguments of a processor's call, each where it belongs; an unknown one raises."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.processing_utils import TextKwargs

from crosslmm.merging import MERGERS, TokenBudget, choose_budget
from crosslmm.options import Sampling
from crosslmm.prompts.frame_pixels import FramePixels

_SAMPLING = {"num_frames", "fps", "do_sample_frames"}
_TOKENS = {"tokens_per_frame", "merge", "keep"}
_OUTPUTS = {"return_tensors", "return_mm_token_type_ids", "return_text_replacement_offsets"}
_KNOWN = {
    "text_kwargs": set(TextKwargs.__annotations__),
    "images_kwargs": FramePixels.names() | {"return_tensors"},
    "videos_kwargs": FramePixels.names() | _SAMPLING | _TOKENS | {"return_tensors"},
    "common_kwargs": {"return_tensors"},
    "audio_kwargs": set[str](),
}
# Of `apply_chat_template`, where it renders and where it tokenizes.
_RENDERING = {"tools", "documents", "add_generation_prompt", "continue_final_message"}
_TOKENIZING = {"return_dict", "return_assistant_tokens_mask", "load_audio_from_video"}
KINDS = frozenset(_KNOWN)
FRAME_OPTIONS = FramePixels.names() | _SAMPLING


@dataclass(frozen=True)
class CallOptions:
    """- text: of the tokenizer; images, videos: how their frames become pixels.
    - sampling: which frames of a video.
    """

    text: dict[str, Any]
    images: FramePixels
    videos: FramePixels
    sampling: Sampling
    return_tensors: Any
    return_mm_token_type_ids: bool
    return_text_replacement_offsets: bool

    @classmethod
    def of(cls, merged: Mapping[str, Any], image_processor: Any) -> "CallOptions":
        """merged: the arguments by kind, as transformers merges them with the tokenizer's defaults."""
        text, videos = dict(merged["text_kwargs"]), dict(merged["videos_kwargs"])
        outputs = {
            name: bool(text.pop(name, merged.get(name)))
            for name in ("return_mm_token_type_ids", "return_text_replacement_offsets")
        }
        return cls(
            return_tensors=text.pop("return_tensors", "pt"),
            text=text,
            images=FramePixels.of(image_processor, merged["images_kwargs"]),
            videos=FramePixels.of(image_processor, videos),
            sampling=_sampling_of(videos),
            **outputs,
        )


def check_names(kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError for an argument that nothing would read."""
    flat = _TOKENS | _OUTPUTS | set.union(*map(set, _KNOWN.values()))
    unknown = set(kwargs) - flat - set(_KNOWN)
    for kind, known in _KNOWN.items():
        unknown |= set(kwargs.get(kind) or {}) - known
    if unknown:
        raise TypeError(f"{min(unknown)!r} is not an argument of CrossLMMProcessor")


def take_budget(kwargs: dict[str, Any], own: int) -> TokenBudget:
    """How many tokens the videos of a call take, out of its arguments; `own` of each frame unless they
    say otherwise. Raises ValueError."""
    of_videos = kwargs.get("videos_kwargs", {})
    asked = {name: of_videos.pop(name, kwargs.pop(name, None)) for name in _TOKENS}
    return choose_budget(TokenBudget(own), trained=own, patches=None, methods=MERGERS, **asked)


def template_arguments(
    kwargs: Mapping[str, Any], template: str, *, tokenize: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the keyword arguments of `apply_chat_template`, those that the template is rendered with, and
    those for what follows. Raises ValueError, and TypeError for an argument that nothing would read."""
    rest = dict(kwargs)
    # Special tokens in a conversation are text in any case.
    rest.pop("sanitize_control_tokens", None)
    taken = {name: rest.pop(name) for name in _RENDERING & set(rest)}
    if marked := rest.get("return_assistant_tokens_mask"):
        taken["return_assistant_tokens_mask"] = True
    if taken.get("continue_final_message") and (marked or taken.get("add_generation_prompt")):
        raise ValueError("continue_final_message excludes what adds or marks an answer")
    for name in set(rest) - _TOKENIZING - set(KINDS).union(*_KNOWN.values()):
        if re.search(rf"\b{re.escape(name)}\b", template):
            taken[name] = rest.pop(name)
    if not tokenize:
        check_names({name: value for name, value in rest.items() if name not in _TOKENIZING})
    return taken, rest


def without_sampling(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those that choose the frames of files."""
    kept = {name: value for name, value in kwargs.items() if name not in _SAMPLING}
    if kept.get("videos_kwargs"):
        kept["videos_kwargs"] = without_sampling(kept["videos_kwargs"])
    return kept


def _sampling_of(options: Mapping[str, Any]) -> Sampling:
    if options.get("do_sample_frames") is False:
        return Sampling()
    return Sampling(frames=options.get("num_frames"), fps=options.get("fps"))
