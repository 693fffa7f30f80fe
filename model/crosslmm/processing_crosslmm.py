"""From frames and messages to what the model takes: pixels normalised, placeholders expanded.

Frames come already decoded, so there is no video processor here: a frame is an image, resized as the
checkpoint's image processor would (PIL), and normalised by torch on the device where the frames are.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData

from crosslmm.auto import register_processor
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.limits import DEFAULT_FRAMES
from crosslmm.merging import TokenBudget, check_tokens_per_frame
from crosslmm.prompts.frame_pixels import FramePixels, height_and_width
from crosslmm.prompts.inert_text import make_inert, tokenize
from crosslmm.prompts.inputs import ClipInput, read_clip, visual_part
from crosslmm.prompts.options import (
    FRAME_OPTIONS,
    KINDS,
    CallOptions,
    check_names,
    take_budget,
    template_arguments,
    without_sampling,
)
from crosslmm.prompts.places import fill_places
from crosslmm.prompts.several import SLOT, PromptVideo, introduce, without_slots
from crosslmm.prompts.templates import RENDERED_TEMPLATE, chat_turn, render
from crosslmm.prompts.time_line import llava_video_time_line
from crosslmm.prompts.visuals import PromptVisuals

TimeLine = Literal["llava_video", "none"]
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class Message(TypedDict):
    """One turn of a conversation; the video belongs to the first of the user's."""

    role: Literal["system", "user", "assistant"]
    content: str


class CrossLMMProcessor(ProcessorMixin):
    """Tokenizer and frame processor of a checkpoint, and how many tokens a frame takes.

    - `tokens_per_frame`: merged tokens per frame, any perfect square up to the patches of a frame.
    - `video_newline`: the model puts a learned token after the video; it needs a placeholder too.
    - `time_line`: `llava_video` puts the frames' times before the question, in LLaVA-Video's words;
      only for models trained with it.
    - `default_frames`: of a video file when no number is given; None is 64.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        video_token: str = "<video>",  # noqa: S107  a token of text
        tokens_per_frame: int = 9,
        video_newline: bool = False,
        time_line: TimeLine = "none",
        default_frames: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token = getattr(tokenizer, "image_token", None) or "<image>"
        self.default_frames = default_frames
        self.video_token = getattr(tokenizer, "video_token", None) or video_token
        self.tokens_per_frame = tokens_per_frame
        self.video_newline = video_newline
        self.time_line = time_line
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __repr__(self) -> str:
        height, width = self.frame_size
        return f"<CrossLMMProcessor {width}x{height}, {self.tokens_per_frame} tokens per frame>"

    @property
    def video_token_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.video_token))

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels of the frames that the encoder takes."""
        return height_and_width(self.image_processor.size)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values_videos", "video_frame_mask"]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Any:
        """As of any processor; the number of frames is the model's where the folder has its config."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        given = processor[0] if isinstance(processor, tuple) else processor
        if given.default_frames is None:
            with suppress(OSError, ValueError):
                hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
                config, _ = CrossLMMConfig.get_config_dict(pretrained_model_name_or_path, **hub)
                given.default_frames = config.get("default_frames")
        return processor

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        images: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prompts and their videos as one batch for `generate`.

        - text: prompts, each with a placeholder where a video or an image belongs, or none.
        - videos: one, one for each placeholder in order, or a list for each prompt. A video is a
          path, `crosslmm.Frames`, an array or tensor (T, H, W, 3) uint8, or images. The frames of
          several videos in one prompt make one video.
        - images: likewise; an image is a video of one frame, also for checkpoints of LLaVA-OneVision,
          which transformers gives high-resolution tiles.
        - kwargs: `tokens_per_frame`, or `merge` and `keep` as `Assistant.open_video` takes them, for one
          video in a prompt; `num_frames` or `fps` of files (the model's number by default);
          `return_tensors` (`pt`, `np` or None for lists), `padding` and others of the tokenizer;
          `do_resize`, `size`, `do_rescale`, `do_normalize` and others of the image processor. In
          `text_kwargs`, `images_kwargs` and `videos_kwargs` they concern one kind of input.

        Returns input_ids and attention_mask (B, L); with videos, pixel_values_videos (B, T, 3, S, S)
        and video_frame_mask (B, T), True at real frames. Raises ValueError, and TypeError for unknown
        arguments. Nothing is fetched from the network: download a URL first.
        """
        if text is None:
            raise ValueError("text is needed: a prompt, or a list of prompts")
        options, budget = self._options(kwargs)
        prompts = [text] if isinstance(text, str) else list(text)
        if images is not None and videos is None and self.image_token not in "\n".join(prompts):
            prompts = [prompt.replace(self.video_token, self.image_token) for prompt in prompts]
        visuals = PromptVisuals.read(
            prompts,
            {"image": images, "video": videos},
            {"image": self.image_token, "video": self.video_token},
            partial(self._read, options=options),
        )
        places = partial(self._places, budget=budget)
        fill = [
            [self.video_token * places(frames) for frames in visuals.frames(kind)]
            for kind in ("image", "video")
        ]
        expanded, offsets = self.get_text_with_replacements(list(prompts), *fill)
        defaults = {"padding": True, "return_tensors": options.return_tensors}
        data = self._tokenize(expanded, prompts[0], defaults | options.text)
        kinds = visuals.kinds_of_tokens(data["input_ids"], self.video_token_id, places)
        extra: dict[str, Any] = {}
        if options.return_mm_token_type_ids:
            extra["mm_token_type_ids"] = torch.tensor(kinds)
        if any(visuals.rows):
            self._check_apart(prompts)
            extra |= visuals.pixels({"image": options.images, "video": options.videos})
        data |= {name: _converted(tensor, options.return_tensors) for name, tensor in extra.items()}
        if budget.merge is not None:
            data["merge"] = budget.merge
        if options.return_text_replacement_offsets:
            data["text_replacement_offsets"] = offsets
        return BatchFeature(data)

    def _options(self, kwargs: dict[str, Any]) -> tuple[CallOptions, TokenBudget]:
        """What a call asks for, and the tokens of its videos."""
        kwargs = {name: value for name, value in kwargs.items() if name != "audio" or value}
        check_names(kwargs)
        for kind in KINDS & set(kwargs):
            kwargs[kind] = dict(kwargs[kind] or {})
        budget = take_budget(kwargs, self.tokens_per_frame)
        # Prompts are padded on the left, whatever the tokenizer was saved with.
        saved = dict(self.tokenizer.init_kwargs)
        saved.pop("padding_side", None)
        merged = self._merge_kwargs(tokenizer_init_kwargs=saved, **kwargs)
        return CallOptions.of(merged, self.image_processor), budget

    def _check_apart(self, prompts: Sequence[str]) -> None:
        """Where a token of its own ends each video, the model finds it by the text that follows."""
        places = f"(?:{re.escape(self.image_token)}|{re.escape(self.video_token)})"
        if self.video_newline and any(re.search(places * 2, prompt) for prompt in prompts):
            raise ValueError("this model needs text between two videos or images of one prompt")

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """An image is a video of one frame."""
        return self.video_token * self._places(1)

    def replace_video_token(self, video_inputs: Any, video_idx: int, **kwargs: Any) -> str:
        """video_inputs: what this processor makes of prompts with one video each."""
        frames = int(np.asarray(video_inputs["video_frame_mask"][video_idx]).sum())
        return self.video_token * self._places(frames)

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> MultiModalData:
        """Placeholders of images (height, width) and videos (frames, height, width), for servers that
        plan ahead. Their heights and widths do not matter."""
        data = MultiModalData()
        if image_sizes is not None:
            data.num_image_tokens = [self._places(1)] * len(image_sizes)
            data.num_image_patches = [1] * len(image_sizes)
        if video_sizes is not None:
            data.num_video_tokens = [self._places(int(frames)) for frames, *_ in video_sizes]
        return data

    def _read(self, source: Any, kind: str, options: CallOptions) -> ClipInput:
        pixels = options.images if kind == "image" else options.videos
        return read_clip(
            source,
            kind,
            options.sampling,
            default_frames=self.default_frames or DEFAULT_FRAMES,
            size=pixels.size if pixels.do_resize else None,
            resample=pixels.resample,
        )

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As of any processor. `{"type": "video", "video" | "path" | "url": …}` is read when tokenized,
        and its times go before the text where the model was trained with a time line;
        `{"type": "image", …}` is a video of one frame."""
        given = dict(processor_kwargs or {})
        for name in FRAME_OPTIONS & set(kwargs):
            given[name] = kwargs.pop(name)
        options = self._options(given)[0] if tokenize else None
        if tokenize:  # what chooses frames is done with when they are read
            given = without_sampling(given)
        template = self._resolve_chat_template(chat_template)
        # A template that does not know images shows them as videos.
        images_as = "image" if "image" in template else "video"
        batched = bool(conversation) and not isinstance(conversation[0], dict)
        talks = [
            [self._turn(message, options, images_as) for message in talk]
            for talk in (conversation if batched else [conversation])
        ]
        written, rest = template_arguments(kwargs, template, tokenize=tokenize)
        rendered = render(talks, template, self.tokenizer.special_tokens_map | written)
        if not tokenize:
            return [prompt for prompt, _ in rendered] if batched else rendered[0][0]
        for talk, (_, pieces) in zip(talks, rendered, strict=True):
            talk[0]["rendered"] = pieces
        return super().apply_chat_template(
            talks if batched else talks[0],
            RENDERED_TEMPLATE,
            tokenize=True,
            processor_kwargs=given,
            **{"return_tensors": "pt"} | rest,
        )

    def _turn(
        self, message: dict[str, Any], options: CallOptions | None, images_as: str
    ) -> dict[str, Any]:
        """A message with its videos and images read, where the options of a call are given."""
        message = {key: value for key, value in message.items() if value is not None}
        content = message.get("content")
        if content is None or isinstance(content, str):
            return message | ({} if content is None else {"content": self.escape(content)})
        parts: list[dict[str, Any]] = []
        line = ""
        for part in content:
            kind, source = visual_part(part)
            if kind is None:
                parts.append({k: self.escape(v) if k == "text" else v for k, v in part.items()})
                continue
            shown = images_as if kind == "image" else kind
            if options is None or source is None:
                parts.append({"type": shown})
            else:
                clip = self._read(source, kind, options)
                line += self.time_line_of(clip.times, clip.duration)
                parts.append({"type": shown, shown: clip})
        if line:
            text = next((part for part in parts if part["type"] == "text"), None)
            if text is None:
                parts.append({"type": "text", "text": line})
            else:
                text["text"] = line + text["text"]
        return message | {"content": parts}

    def prompt(
        self,
        messages: str | Sequence[Message],
        *,
        times: Sequence[float] | None = None,
        duration: float | None = None,
        text_only: bool = False,
        videos: Sequence[PromptVideo] = (),
    ) -> str:
        """The checkpoint's chat template around one question about one video, or around a
        conversation that ends with one; its placeholder not yet expanded.

        times: of the frames, in seconds; with `duration` they make the time line of models trained with
        one. videos: of a question about several, each with a placeholder of its own."""
        introduction = introduce(videos, with_times=self.time_line != "none")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        roles = [message["role"] for message in messages]
        first = roles.index("user") if "user" in roles else None
        conversation: list[Any] = []
        for index, message in enumerate(messages):
            line = introduction or self.time_line_of(times, duration) if index == first else ""
            shows = index == first and not text_only and not videos
            text = line + without_slots(message["content"])
            conversation.append(chat_turn(message["role"], text, shows=shows))
        prompt = self.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return str(prompt).replace(SLOT, self.video_token)

    def escape(self, text: str) -> str:
        """The text with its special tokens and placeholders as text: only the chat template's count."""
        return make_inert(text, self.tokenizer, self.video_token, self.image_token)

    def time_line_of(self, times: Sequence[float] | None, duration: float | None) -> str:
        """What goes before the question; empty for models that were not trained with a time line."""
        if self.time_line == "none" or times is None or duration is None:
            return ""
        return llava_video_time_line(times, duration)

    def encode_prompts(
        self,
        prompts: Sequence[str],
        frames: Sequence[int],
        *,
        merged: Sequence[int | Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (B, L) of prompts, padded on the left.

        frames: of each prompt's video; its placeholder is repeated for all of their merged tokens, or
        for `merged` of them in all: a number for each of several videos. kwargs: of the tokenizer.
        """
        counts = merged or [count * self.tokens_per_frame for count in frames]
        expanded = [
            self._fill(prompt, count) if count else prompt
            for prompt, count in zip(prompts, counts, strict=True)
        ]
        defaults = {"padding": len(expanded) > 1, "return_tensors": "pt"}
        return self._tokenize(expanded, expanded[0], defaults | kwargs)

    def _tokenize(self, expanded: list[str], first: str, options: dict[str, Any]) -> dict[str, Any]:
        """first: a prompt as the chat template wrote it."""
        defaults = {
            "padding_side": "left",
            "return_token_type_ids": False,
            "add_special_tokens": self.wants_special_tokens(first),
        }
        return tokenize(self.tokenizer, expanded, **defaults | options)

    def expand(self, prompt: str, frames: int, *, tokens_per_frame: int | None = None) -> str:
        """The prompt with its one placeholder repeated for every merged token of so many frames."""
        check_tokens_per_frame(tokens := tokens_per_frame or self.tokens_per_frame)
        return self._fill(prompt, frames * tokens)

    def _fill(self, prompt: str, counts: int | Sequence[int]) -> str:
        """Each of a prompt's placeholders repeated for so many merged tokens."""
        counts = [counts] if isinstance(counts, int) else counts
        filled = [count + self.video_newline for count in counts]
        return fill_places(prompt, self.video_token, filled)

    def _places(self, frames: int, budget: TokenBudget | None = None) -> int:
        budget = budget or TokenBudget(self.tokens_per_frame)
        check_tokens_per_frame(budget.pooled)
        return budget.count(frames) + int(self.video_newline)

    def wants_special_tokens(self, prompt: str) -> bool:
        """False where the chat template has written the beginning-of-text token already."""
        return not (self.tokenizer.bos_token and prompt.startswith(self.tokenizer.bos_token))

    def normalise(
        self, frames: torch.Tensor, *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """uint8 frames (F, H, W, 3) of `frame_size`, on any device, → (F, 3, H, W) as trained on."""
        return FramePixels.of(self.image_processor).normalise(frames, dtype=dtype)

    def resize(self, frame: np.ndarray | Image.Image) -> np.ndarray:
        """One frame to `frame_size`, (H, W, 3) uint8."""
        return FramePixels.of(self.image_processor).resize(frame)


def _converted(tensor: torch.Tensor, kind: Any) -> Any:
    if kind is None:
        return tensor.tolist()
    return tensor.numpy() if str(getattr(kind, "value", kind)) == "np" else tensor


register_processor(CrossLMMConfig, CrossLMMProcessor)
