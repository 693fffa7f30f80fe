"""The files that transformers' suites name by address, made here instead of fetched."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from crosslmm.video.writing import write_frames


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="crosslmm-media-")  # removed when Python ends


def url_to_local_path(url: str) -> str:
    """A file of the same kind: a picture, or a second of video at ten frames per second. Sound is left
    as it is: no test reads it."""
    path = Path(_folder().name) / url.rsplit("/", 1)[-1]
    pixels = np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8)
    if path.suffix in (".png", ".jpg"):
        Image.fromarray(pixels[0]).save(path)
    elif path.suffix == ".mp4":
        write_frames(path, pixels, fps=10)
    else:
        return url
    return str(path)
