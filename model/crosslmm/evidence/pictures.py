"""The frames that evidence points at, read again from the videos, with heat maps and boxes for them."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from PIL import Image, ImageOps

from crosslmm.errors import VideoError
from crosslmm.evidence.maps import EvidenceMaps
from crosslmm.options import Sampling
from crosslmm.video import open_stream
from crosslmm.video.frame_folder import frame_files, is_frame_folder, read_frame

_HEAT = (255, 96, 0)
_OPAQUE = 190  # of 255, where there is the most evidence


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame by its place among those used, and its heat map (side, side), RGBA."""

    frame: int
    image: Image.Image
    heat: Image.Image

    def blended(self) -> Image.Image:
        """The frame under its heat map."""
        heat = self.heat.resize(self.image.size, Image.Resampling.BICUBIC)
        return Image.alpha_composite(self.image.convert("RGBA"), heat).convert("RGB")


def best_frames(evidence: EvidenceMaps, most: int) -> list[int]:
    """The frames of moments first, then others by their evidence; in the order that they have."""
    peaks = [moment.frame for moment in evidence.moments]
    others = sorted(range(len(evidence.times)), key=lambda frame: -evidence.scores[frame])
    return sorted(list(dict.fromkeys([*peaks, *others]))[:most])


def read_pictures(
    evidence: EvidenceMaps, frames: Sequence[int], *, width: int
) -> Iterator[Picture]:
    """Read frames of the videos again, ascending, one at a time, fitted into a square. Raises
    VideoError."""
    highest = float(evidence.heat.max(initial=0.0)) or 1.0
    for number, group in groupby(frames, evidence.video_of):
        video, wanted = evidence.videos[number], list(group)
        indices = [evidence.indices[frame] for frame in wanted]
        try:
            again = _read_again(video.file or video.name, indices, evidence.sampling)
            for frame, pixels in zip(wanted, again, strict=True):
                image = ImageOps.contain(Image.fromarray(pixels), (width, width))
                yield Picture(frame, image, _heat_map(evidence.heat[frame] / highest))
        except (IndexError, ValueError):
            raise VideoError(
                f"{video.name}: has fewer frames than when it was read first"
            ) from None


def _read_again(path: str, indices: Sequence[int], sampling: Sampling) -> Iterator[np.ndarray]:
    """(H, W, 3) of each. Raises VideoError, IndexError."""
    if is_frame_folder(path):
        files = frame_files(path)
        for index in indices:
            yield read_frame(files[index], sampling)
        return
    wanted = replace(sampling.limits, at=[f"#{index}" for index in indices])
    with open_stream(path, wanted) as stream:
        for frame in stream:
            yield frame.pixels


def encode(image: Image.Image, kind: str) -> bytes:
    """kind: of Pillow's, JPEG or PNG."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return buffer.getvalue()


def _heat_map(shares: np.ndarray) -> Image.Image:
    """shares: (side, side), 0 to 1."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _HEAT
    pixels[..., 3] = np.round(_OPAQUE * np.sqrt(shares.clip(0, 1)))
    return Image.fromarray(pixels, "RGBA")
