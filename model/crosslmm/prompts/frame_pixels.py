"""How a frame becomes what the vision tower reads: resized by PIL, normalised by torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class FramePixels:
    """The settings of an image processor that concern frames, by the names they have there.

    `size` is (height, width) in pixels; an encoder takes only its own.
    """

    size: tuple[int, int]
    resample: int
    do_resize: bool = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, image_processor: Any, changes: Mapping[str, Any] | None = None) -> "FramePixels":
        """The image processor's settings, except for `changes` that are not None."""
        given: dict[str, Any] = {}
        for name in cls.names():
            value = (changes or {}).get(name)
            value = getattr(image_processor, name, None) if value is None else value
            if value is not None:
                given[name] = value
        for name in ("image_mean", "image_std"):
            if name in given:
                values = np.broadcast_to(np.asarray(given[name], dtype=float), 3)
                given[name] = tuple(values.tolist())
        given["resample"] = int(given["resample"])
        return cls(**given | {"size": height_and_width(given["size"])})

    @classmethod
    def names(cls) -> frozenset[str]:
        return frozenset(cls.__dataclass_fields__)

    def resize(self, frame: np.ndarray | Image.Image) -> np.ndarray:
        """One frame to `size`, (H, W, 3) uint8. Raises ValueError for another size with `do_resize`
        off."""
        image = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        height, width = self.size
        if image.size != (width, height) and not self.do_resize:
            raise ValueError(
                f"a frame of {image.size[0]}x{image.size[1]} with do_resize=False: the model takes "
                f"{width}x{height}"
            )
        if image.size != (width, height) or image.mode != "RGB":
            resample = Image.Resampling(self.resample)
            image = image.convert("RGB").resize((width, height), resample)
        return np.asarray(image)

    def normalise(
        self, frames: torch.Tensor, *, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """uint8 frames (F, H, W, 3), on any device, → (F, 3, H, W)"""
        pixels = frames.permute(0, 3, 1, 2).float()
        if self.do_rescale:
            pixels = pixels * self.rescale_factor
        if self.do_normalize:
            mean = _per_channel(self.image_mean, frames.device)
            std = _per_channel(self.image_std, frames.device)
            pixels = (pixels - mean) / std
        return pixels.to(dtype)


@lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(3, 1, 1), made once: from a list it waits for the device, in every chunk of frames."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)[:, None, None]


def height_and_width(size: Any) -> tuple[int, int]:
    """Of a size in any form that image processors take. Raises ValueError for a size that leaves the
    shape of frames open, as by their shortest edge."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) in (1, 2):
        return int(size[0]), int(size[-1])
    try:
        return int(size["height"]), int(size["width"])
    except (KeyError, TypeError):
        raise ValueError(f"size is a height and a width in pixels, not {size!r}") from None
