"""What is said of a file that is refused."""

from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.errors import VideoError


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(VideoError) as caught:
        crosslmm.sample(path, size=(32, 32), **options)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)
