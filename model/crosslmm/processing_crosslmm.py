"""From frames and messages to what the model takes: pixels normalised, placeholders expanded.

Frames come already decoded, so there is no video processor here: a frame is an image, resized as the
checkpoint's image processor would (PIL), and normalised by torch on the device where the frames are.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from crosslmm.auto import register_processor
from crosslmm.merging import check_tokens_per_frame

TimeLine = Literal["llava_video", "none"]


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
        **kwargs: Any,
    ) -> None:
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

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        tokens_per_frame: int | None = None,
        padding: bool = True,
        padding_side: Literal["left", "right"] = "left",
        return_tensors: Literal["pt"] = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prompts and their videos as one batch for `generate`.

        text: prompts, each with one video placeholder where a video belongs. videos: for each prompt
        with a placeholder its frames, as `crosslmm.Frames`, an array (T, H, W, 3) uint8, or images.
        Returns input_ids and attention_mask (B, L), pixel_values_videos (B, T, 3, S, S) and, where
        videos differ in length, video_frame_mask (B, T). Raises ValueError.
        """
        if text is None:
            raise ValueError("text is needed: a prompt, or a list of prompts")
        prompts = [text] if isinstance(text, str) else list(text)
        clips = [] if videos is None else [self._frame_array(clip) for clip in _listed(videos)]
        wanted = sum(prompt.count(self.video_token) for prompt in prompts)
        if clips and (len(clips) != len(prompts) or wanted != len(prompts)):
            raise ValueError(
                f"{len(clips)} videos for {len(prompts)} prompts with {wanted} placeholders "
                f"{self.video_token}: each prompt needs exactly one of each"
            )
        if wanted and not clips:
            raise ValueError(f"the prompt has {self.video_token} but no video was given")
        frames = [len(clip) for clip in clips] or [0] * len(prompts)
        data: dict[str, Any] = self.encode_prompts(
            prompts,
            frames,
            tokens_per_frame=tokens_per_frame,
            padding=padding,
            padding_side=padding_side,
            return_tensors=return_tensors,
            **kwargs,
        )
        if clips:
            data.update(self._padded_videos(clips))
        return BatchFeature(data)

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
            text = self.escape(message["content"])
            if index == first:
                text = self.time_line_of(times, duration) + text
            shows = index == first and not text_only
            conversation.append(chat_turn(message["role"], text, shows=shows))
        rendered = self.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=False
        )
        assert isinstance(rendered, str)
        return rendered

    def escape(self, text: str) -> str:
        """The text without video placeholders, which only the chat template may write."""
        return text.replace(self.video_token, self.video_token.strip("<>"))

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
        return dict(self.tokenizer(expanded, **defaults | kwargs))

    def expand(self, prompt: str, frames: int, *, tokens_per_frame: int | None = None) -> str:
        """The prompt with its one placeholder repeated for every merged token of so many frames."""
        tokens = check_tokens_per_frame(tokens_per_frame or self.tokens_per_frame)
        count = frames * tokens + int(self.video_newline)
        return prompt.replace(self.video_token, self.video_token * count)

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

    def _frame_array(self, clip: Any) -> np.ndarray:
        frames = getattr(clip, "pixels", clip)
        resized = [self.resize(_checked(frame)) for frame in frames]
        if not resized:
            raise ValueError("a video of no frames was given")
        return np.stack(resized)

    def _padded_videos(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        longest = max(len(clip) for clip in clips)
        mask = torch.tensor([[frame < len(clip) for frame in range(longest)] for clip in clips])
        pixels = torch.zeros(len(clips), longest, 3, *self.frame_size)
        for row, clip in enumerate(clips):
            pixels[row, : len(clip)] = self.normalise(torch.from_numpy(clip))
        data = {"pixel_values_videos": pixels}
        if not mask.all():
            data["video_frame_mask"] = mask
        return data


def _checked(frame: Any) -> Any:
    if not isinstance(frame, Image.Image) and (
        getattr(frame, "shape", ())[2:] != (3,) or frame.dtype != np.uint8
    ):
        raise ValueError("a video is images, or arrays (H, W, 3) of uint8, one per frame")
    return frame


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


def _listed(videos: Any) -> list[Any]:
    """A batch of videos, whether one was given or several."""
    if hasattr(videos, "pixels") or isinstance(videos, np.ndarray):
        return [videos]
    videos = list(videos)
    if videos and isinstance(videos[0], Image.Image):
        return [videos]
    return videos


register_processor(CrossLMMProcessor)
