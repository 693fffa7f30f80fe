"""Videos that are handed over in memory, several questions at once, and how results show themselves."""

import io
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import crosslmm
from crosslmm.errors import UsageError, VideoError
from crosslmm.inference import named_file
from crosslmm.inference.assistant import Assistant
from crosslmm.prompts import inputs
from tests.checkpoints.test_llava_onevision import write_checkpoint


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda clip: clip,
        lambda clip: torch.from_numpy(clip),
        lambda clip: torch.from_numpy(clip).permute(0, 3, 1, 2),
        lambda clip: [Image.fromarray(frame) for frame in clip],
        lambda clip: list(clip),
    ],
    ids=["array", "tensor", "channels first", "images", "arrays"],
)
def test_frames_in_memory_with_their_rate(assistant: Assistant, make: Any) -> None:
    expected = assistant.ask(frames(4), "what?", fps=2, max_new_tokens=6)
    answer = assistant.ask(make(frames(4)), "what?", fps=2, max_new_tokens=6)
    assert answer.text == expected.text
    assert [frame.time for frame in answer.frames] == [0.0, 0.5, 1.0, 1.5]
    assert assistant.open_video(make(frames(4)), times=[1, 2, 4, 7]).source.duration == 9
    assert answer.video == "(4 frames)"
    json.dumps(answer.as_dict())


def test_sampled_frames_answer_as_their_file(assistant: Assistant, clip: Path) -> None:
    expected = assistant.ask(clip, "what?", frames=4, max_new_tokens=8)
    answer = assistant.ask(crosslmm.sample(clip, frames=4), "what?", max_new_tokens=8)
    assert (answer.text, answer.frames) == (expected.text, expected.frames)
    assert answer.video == str(clip)


def test_a_file_object_answers_as_its_file(assistant: Assistant, clip: Path) -> None:
    expected = assistant.ask(clip, "what?", frames=4, max_new_tokens=8)
    with clip.open("rb") as file:
        answer = assistant.ask(file, "what?", frames=4, max_new_tokens=8)
    assert (answer.text, answer.frames, answer.video) == (
        expected.text,
        expected.frames,
        expected.video,
    )
    answer = assistant.ask(io.BytesIO(clip.read_bytes()), "what?", frames=4, max_new_tokens=8)
    assert (answer.text, answer.video) == (expected.text, "(file object)")
    with pytest.raises(VideoError, match=r"^\(file object\): this is text"):
        assistant.open_video(io.BytesIO(b"only words"))
    with pytest.raises(UsageError, match="opened in binary mode"):
        assistant.open_video(io.StringIO("words"))


class Endless(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return b"\0" * size


def test_an_endless_file_object_is_not_copied_for_ever(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(named_file, "MAX_GIVEN_BYTES", 2**22)
    with pytest.raises(VideoError, match=r"^\(file object\): holds over 0.\d+ GiB, the most that"):
        assistant.open_video(Endless())
    assert not list(tmp_path.iterdir())


class Dripping(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        time.sleep(0.01)
        return b"\0"


def test_a_file_object_that_drips_has_the_time_of_a_file(assistant: Assistant) -> None:
    with pytest.raises(VideoError, match=r"\(file object\): reading took over 0.1 s"):
        assistant.open_video(Dripping(), file_timeout=0.1)


def test_an_endless_iterator_of_frames_is_not_taken_for_ever(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(assistant.open_video(iter(frames(3)), fps=1).frames) == 3
    monkeypatch.setattr(inputs, "MAX_GIVEN_BYTES", 2**20)
    image = Image.new("RGB", (64, 64))
    for endless in (itertools.repeat(frames(1)[0]), itertools.repeat(image)):
        with pytest.raises(UsageError, match=r"an iterator gave over 0.\d+ GiB of frames"):
            assistant.open_video(endless, fps=1)
    many = [f"{assistant.processor.video_token}{word}?" for word in ("what", "why")]
    for endless in (itertools.repeat(frames(1)), itertools.repeat("clip.mp4")):
        with pytest.raises(ValueError, match="an iterator gave over"):
            assistant.processor(text=many, videos=endless)


def test_frames_in_memory_are_chosen_by_time_and_number(assistant: Assistant) -> None:
    video = assistant.open_video(frames(10), fps=1, start=2, end=8, max_frames=3)
    assert [frame.index for frame in video.frames] == [3, 5, 7]
    assert len(assistant.open_video(frames(70), fps=1).frames) == 70
    image = assistant.open_video(frames(1)[0])
    assert [frame.time for frame in image.frames] == [0.0]


@pytest.mark.parametrize(
    ("video", "options", "words"),
    [
        (frames(3), {}, "give `fps`, the rate of these frames, or `times`"),
        (frames(3), {"fps": 1, "times": [0, 1, 2]}, "exclude each other"),
        (frames(3), {"times": [0, 1]}, "2 times for 3 frames"),
        (frames(3), {"times": [0, 2, 1]}, "each later than the one before"),
        (frames(3), {"fps": 1, "reader": "decord"}, "`reader` is for files"),
        (frames(3) / 255, {"fps": 1}, "arrays .* of uint8"),
        (7, {}, "arrays .* of uint8"),
        ("movie.mp4", {"times": [0]}, "a file has its own"),
    ],
)
def test_what_is_not_clear_is_asked_for(
    assistant: Assistant, video: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        assistant.open_video(video, **options)
    with pytest.raises(TypeError, match="'frame_rate' is not an option"):
        assistant.ask(frames(1), "what?", frame_rate=2)  # type: ignore[call-arg]


def test_a_list_of_questions_gives_a_list_of_answers(assistant: Assistant, clip: Path) -> None:
    questions = ["what?", "who comes in?"]
    answers = assistant.ask(clip, questions, frames=3, max_new_tokens=6)
    video = assistant.open_video(clip, frames=3)
    assert [answer.question for answer in answers] == questions
    assert [answer.timing.decode > 0 for answer in answers] == [True, False], "decoded once"
    alone = [video.ask(question, max_new_tokens=6).text for question in questions]
    assert [answer.text for answer in answers] == alone
    assert [answer.text for answer in video.ask(questions, max_new_tokens=6)] == alone
    with pytest.raises(UsageError, match="the question is empty"):
        video.ask(["what?", " "])


def test_everything_shows_itself_in_a_line(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=3)
    answer = video.ask("what?", max_new_tokens=20)
    sampled = crosslmm.sample(clip, frames=3)
    assert repr(video) == f"<VideoSession {clip}: 3 of 30 frames, one per 1 s>"
    assert repr(sampled).startswith(f"<Frames {clip}: 3 of 30 frames, one per 1 s, ")
    assert f"3 frames of {clip}, 20 tokens in" in repr(answer)
    assert repr(assistant).endswith("on cpu, float32, 4 tokens per frame>")
    assert repr(assistant.processor) == "<CrossLMMProcessor 30x30, 4 tokens per frame>"
    for shown in (video, answer, sampled, assistant, assistant.processor):
        assert "\n" not in repr(shown)


def test_a_still_image_in_llava_onevision_is_said_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    notices: list[str] = []
    model = crosslmm.load(tmp_path, device="cpu", on_notice=notices.append)
    model.open_video(frames(3), fps=1)
    assert notices == []
    Image.fromarray(frames(1)[0]).save(tmp_path / "image.png")
    model.open_video(tmp_path / "image.png")
    model.open_video(frames(1)[0])
    assert len(notices) == 1
    assert notices[0].startswith("the image is read as a video of one frame, ")
    assert "tiles at a higher resolution" in notices[0]
