"""From frames and messages to what the model takes: pixels normalised, placeholders expanded.

Frames come already decoded, so there is no video processor here: a frame is an image, resized as the
checkpoint's image processor would (PIL), and normalised by torch on the device where the frames are.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import TextKwargs

from crosslmm.auto import register_processor
from crosslmm.chat_templates import check_prompt, template_errors
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.inert_text import make_inert, tokenize
from crosslmm.limits import DEFAULT_FRAMES
from crosslmm.merging import check_tokens_per_frame
from crosslmm.options import Sampling
from crosslmm.video_inputs import ClipInput, read_clip, split_batch, visual_part

TimeLine = Literal["llava_video", "none"]
OWN_OPTIONS = {"tokens_per_frame", "num_frames", "fps", "do_sample_frames"}
KINDS_OF_OPTIONS = ("text_kwargs", "images_kwargs", "videos_kwargs", "common_kwargs")
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
        video_token: str = "<video>",
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

    @property
    def video_token_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.video_token))

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels of the frames that the encoder takes."""
        size = self.image_processor.size
        return int(size["height"]), int(size["width"])

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

        - text: prompts, each with one placeholder where a video or an image belongs, or none.
        - videos: one, one for each prompt with a placeholder, or a list for each prompt. A video is a
          path, `crosslmm.Frames`, an array or tensor (T, H, W, 3) uint8, or images.
        - images: likewise; an image is a video of one frame.
        - kwargs: `tokens_per_frame`; `num_frames` or `fps` of files (the model's number by default);
          `return_tensors` (`pt`, `np` or None for lists), `padding` and others of the tokenizer.

        Returns input_ids and attention_mask (B, L), pixel_values_videos (B, T, 3, S, S) and, where
        videos differ in length, video_frame_mask (B, T). Raises ValueError, and TypeError for unknown
        arguments.
        """
        if text is None:
            raise ValueError("text is needed: a prompt, or a list of prompts")
        options = _flat_options(kwargs)
        sampling = _pop_sampling(options)
        return_tensors = options.pop("return_tensors", "pt")
        prompts = [text] if isinstance(text, str) else list(text)
        clips = self._clips_of(prompts, videos, images, sampling)
        if images is not None:
            prompts = [prompt.replace(self.image_token, self.video_token) for prompt in prompts]
        counts = [len(clip.frames) for clip in clips]
        options = {"padding": True} | options
        data = self.encode_prompts(prompts, counts, return_tensors=return_tensors, **options)
        self._check_kept(data["input_ids"], counts, options.get("tokens_per_frame"))
        if any(counts):
            videos = self._padded_videos(clips)
            data.update({name: _converted(videos[name], return_tensors) for name in videos})
        return BatchFeature(data)

    def _clips_of(
        self, prompts: Sequence[str], videos: Any, images: Any, sampling: Sampling
    ) -> list[ClipInput]:
        """The video of each prompt, without frames for a prompt that is text only."""
        places = [prompt.count(self.video_token) for prompt in prompts]
        none = [0] * len(prompts)
        if any(places) and videos is None and images is None:
            raise ValueError(f"the prompt has {self.video_token} but no video was given")
        image_places = none
        if images is not None:
            image_places = [prompt.count(self.image_token) for prompt in prompts]
            if videos is None and not any(image_places):
                image_places, places = places, none
        clips = []
        for film, picture, wanted in zip(
            split_batch(videos, places, "video"),
            split_batch(images, image_places, "image"),
            [sum(both) for both in zip(places, image_places, strict=True)],
            strict=True,
        ):
            given = len(film) + len(picture)
            if given != wanted or given > 1:
                raise ValueError(
                    f"{given} videos and images for a prompt with {wanted} placeholders "
                    f"{self.video_token}: the model takes one video per prompt, exactly one of each"
                )
            clip = ClipInput([])
            for part, kind in [(part, "video") for part in film] + [(p, "image") for p in picture]:
                clip = self._read(part, kind, sampling)
            clips.append(clip)
        return clips

    def _read(self, source: Any, kind: str, sampling: Sampling) -> ClipInput:
        return read_clip(
            source,
            kind,
            sampling,
            default_frames=self.default_frames or DEFAULT_FRAMES,
            size=self.frame_size,
            resample=int(self.image_processor.resample),
        )

    def _check_kept(
        self, input_ids: Any, counts: Sequence[int], tokens_per_frame: int | None
    ) -> None:
        for row, count in zip(input_ids, counts, strict=True):
            ids = row.tolist() if hasattr(row, "tolist") else list(row)
            expected = self._places(count, tokens_per_frame) if count else 0
            if count and ids.count(self.video_token_id) != expected:
                raise ValueError(
                    f"the prompt was truncated to {len(ids)} tokens and its video takes {expected}: "
                    "give a larger max_length, or fewer frames"
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
        options = dict(processor_kwargs or {})
        for name in ("num_frames", "fps", "do_sample_frames"):
            if name in kwargs:
                options[name] = kwargs.pop(name)
        sampling = _pop_sampling(options) if tokenize else None
        batched = bool(conversation) and not isinstance(conversation[0], dict)
        talks = [
            [self._turn(message, sampling) for message in talk]
            for talk in (conversation if batched else [conversation])
        ]
        return super().apply_chat_template(
            talks if batched else talks[0],
            chat_template,
            tokenize=tokenize,
            processor_kwargs=options,
            **({"return_tensors": "pt"} if tokenize else {}) | kwargs,
        )

    def _turn(self, message: dict[str, Any], sampling: Sampling | None) -> dict[str, Any]:
        """A message with its videos read, where a sampling is given, and images made videos."""
        content = message.get("content")
        if content is None or isinstance(content, str):
            return dict(message) | {"content": content and self.escape(content)}
        parts: list[dict[str, Any]] = []
        line = ""
        for part in content:
            kind, source = visual_part(part)
            if kind is None:
                parts.append({k: self.escape(v) if k == "text" else v for k, v in part.items()})
            elif sampling is None or source is None:
                parts.append({"type": "video"})
            else:
                clip = self._read(source, kind, sampling)
                line += self.time_line_of(clip.times, clip.duration)
                parts.append({"type": "video", "video": clip})
        if line:
            text = next((part for part in parts if part["type"] == "text"), None)
            if text is None:
                parts.append({"type": "text", "text": line})
            else:
                text["text"] = line + text["text"]
        return dict(message) | {"content": parts}

    def prompt(
        self,
        messages: str | Sequence[Message],
        *,
        times: Sequence[float] | None = None,
        duration: float | None = None,
        text_only: bool = False,
    ) -> str:
        """The checkpoint's chat template around one question about one video, or around a
        conversation that ends with one; its placeholder not yet expanded.

        times: of the frames, in seconds; with `duration` they make the time line, where the model was
        trained with one.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        roles = [message["role"] for message in messages]
        first = roles.index("user") if "user" in roles else None
        conversation: list[Any] = []
        for index, message in enumerate(messages):
            line = self.time_line_of(times, duration) if index == first else ""
            shows = index == first and not text_only
            conversation.append(chat_turn(message["role"], line + message["content"], shows=shows))
        with template_errors():
            rendered = self.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
        return check_prompt(rendered)

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
        tokens_per_frame: int | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (B, L) of prompts, padded on the left.

        frames: of each prompt's video; its placeholder is repeated for all of their merged tokens.
        kwargs: of the tokenizer.
        """
        expanded = [
            self.expand(prompt, count, tokens_per_frame=tokens_per_frame) if count else prompt
            for prompt, count in zip(prompts, frames, strict=True)
        ]
        defaults = {
            "padding": len(expanded) > 1,
            "padding_side": "left",
            "return_tensors": "pt",
            "return_token_type_ids": False,
            "add_special_tokens": self.wants_special_tokens(expanded[0]),
        }
        return tokenize(self.tokenizer, expanded, **defaults | kwargs)

    def expand(self, prompt: str, frames: int, *, tokens_per_frame: int | None = None) -> str:
        """The prompt with its one placeholder repeated for every merged token of so many frames."""
        return prompt.replace(
            self.video_token, self.video_token * self._places(frames, tokens_per_frame)
        )

    def _places(self, frames: int, tokens_per_frame: int | None) -> int:
        tokens = check_tokens_per_frame(tokens_per_frame or self.tokens_per_frame)
        return frames * tokens + int(self.video_newline)

    def wants_special_tokens(self, prompt: str) -> bool:
        """False where the chat template has written the beginning-of-text token already."""
        bos = self.tokenizer.bos_token
        return not (bos and prompt.startswith(bos))

    def normalise(
        self, frames: torch.Tensor, *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """uint8 frames (F, H, W, 3) of `frame_size`, on any device, → (F, 3, H, W) as trained on."""
        processor = self.image_processor
        pixels = frames.permute(0, 3, 1, 2).float() * processor.rescale_factor
        mean = torch.tensor(processor.image_mean, device=frames.device)[:, None, None]
        std = torch.tensor(processor.image_std, device=frames.device)[:, None, None]
        return ((pixels - mean) / std).to(dtype)

    def resize(self, frame: np.ndarray | Image.Image) -> np.ndarray:
        """One frame to `frame_size`, (H, W, 3) uint8."""
        image = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        height, width = self.frame_size
        if image.size != (width, height) or image.mode != "RGB":
            resample = Image.Resampling(int(self.image_processor.resample))
            image = image.convert("RGB").resize((width, height), resample)
        return np.asarray(image)

    def _padded_videos(self, clips: Sequence[ClipInput]) -> dict[str, torch.Tensor]:
        counts = [len(clip.frames) for clip in clips]
        mask = torch.tensor([[frame < count for frame in range(max(counts))] for count in counts])
        pixels = torch.zeros(len(clips), max(counts), 3, *self.frame_size)
        for row, clip in enumerate(clips):
            if clip.frames:
                resized = np.stack([self.resize(frame) for frame in clip.frames])
                pixels[row, : len(clip.frames)] = self.normalise(torch.from_numpy(resized))
        data = {"pixel_values_videos": pixels}
        if not mask.all():
            data["video_frame_mask"] = mask
        return data


def chat_turn(role: str, text: str, *, shows: bool) -> dict[str, Any]:
    """A turn as chat templates take it; `shows`: with a video before its text."""
    content = [{"type": "text", "text": text}]
    return {"role": role, "content": [{"type": "video"}, *content] if shows else content}


def llava_video_time_line(times: Sequence[float], duration: float) -> str:
    """LLaVA-Video's text about the frames, to the letter (its missing space included)."""
    listed = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly sampled "
        f"from it. These frames are located at {listed}."
        "Please answer the following questions related to this video.\n"
    )


def _flat_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a call, those in transformers' dictionaries by kind among them."""
    options: dict[str, Any] = {}
    for name, value in kwargs.items():
        options.update(value if name in KINDS_OF_OPTIONS and value is not None else {name: value})
    if options.get("audio") is None:  # transformers' own calls name every modality
        options.pop("audio", None)
    known = OWN_OPTIONS | set(TextKwargs.__annotations__)
    if unknown := sorted(set(options) - known):
        raise TypeError(f"{unknown[0]!r} is not an argument of CrossLMMProcessor")
    return options


def _pop_sampling(options: dict[str, Any]) -> Sampling:
    """Takes what chooses the frames of files out of the options."""
    count, fps = options.pop("num_frames", None), options.pop("fps", None)
    if options.pop("do_sample_frames", None) is False:
        return Sampling()
    return Sampling(frames=count, fps=fps)


def _converted(tensor: torch.Tensor, kind: Any) -> Any:
    if kind is None:
        return tensor.tolist()
    return tensor.numpy() if str(getattr(kind, "value", kind)) == "np" else tensor


register_processor(CrossLMMConfig, CrossLMMProcessor)
