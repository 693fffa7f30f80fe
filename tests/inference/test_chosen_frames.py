"""Frames that somebody names, in an answer."""

from pathlib import Path

import numpy as np
import pytest

from crosslmm.errors import VideoError
from crosslmm.inference.assistant import Assistant
from tests.support.clips import picture


def test_of_frames_in_memory_too(assistant: Assistant) -> None:
    frames = np.stack([picture(number) for number in range(6)])
    times = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    answer = assistant.ask(frames, "what?", times=times, at=[1.2, "#4"], max_new_tokens=2)
    assert [frame.index for frame in answer.frames] == [2, 4]
    with pytest.raises(VideoError, match="#6 is beyond the last frame, #5"):
        assistant.ask(frames, "what?", times=times, at=["#6"])


def test_an_answer_says_which_were_named(assistant: Assistant, clip: Path) -> None:
    settings = assistant.ask(clip, "what?", at=[1, "#20"], max_new_tokens=2).as_dict()["settings"]
    assert settings["at"] == [1, "#20"]
    assert settings["frames"] is None
