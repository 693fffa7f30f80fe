"""Several videos in one question: as the processor and the model read them, within one budget."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaOnevisionForConditionalGeneration

import crosslmm
from crosslmm.errors import OutOfMemory, UnfamiliarFootage, UsageError, VideoError
from crosslmm.inference import encoding, opening
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.footage import UNFAMILIAR
from crosslmm.inference.joined_videos import VideoJoiner, join_ragged
from crosslmm.inference.prefix import prefill_video
from crosslmm.inference.session import VideoSession
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.options import SCOPES
from crosslmm.positions import shift_positions
from crosslmm.prompts.several import SLOT, PromptVideo
from crosslmm.visual_encoding import merge_video
from tests.checkpoints.test_llava_onevision import VIDEO, write_checkpoint
from tests.support.clips import write_clip
from tests.support.tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of 3 s and 1 s."""
    folder = tmp_path_factory.mktemp("several")
    paths = [folder / "a.mp4", folder / "b.mp4"]
    write_clip(paths[0], frames=30, fps=10)
    write_clip(paths[1], frames=12, fps=12)
    return paths


def arrays(*counts: int) -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (count, 30, 30, 3), np.uint8) for count in counts]


def check_logits(assistant: Assistant, session: VideoSession, inputs: dict[str, Any]) -> None:
    """What the session computes is what the model computes of `inputs` in one pass."""
    prefix, ids = session.prefix, inputs["input_ids"]
    assert torch.equal(ids[:, : len(prefix)], prefix.ids)
    with torch.no_grad():
        expected = assistant.model(**inputs).logits[:, -1]
        with prefix.lend() as cache:
            rest = ids[:, len(prefix) :]
            logits = assistant.model(rest, past_key_values=cache, use_cache=True).logits[:, -1]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("newline", [False, True], ids=["plain", "newline"])
@pytest.mark.parametrize(("scope", "tokens"), [(scope, 4) for scope in SCOPES] + [("frame", 9)])
def test_a_session_reads_them_as_the_processor_gives_them(
    monkeypatch: pytest.MonkeyPatch, scope: str, tokens: int, newline: bool
) -> None:
    monkeypatch.setattr("crosslmm.limits.PREFILL_TOKENS", 8)  # chunks end within a video, too
    processor = tiny_processor(video_newline=newline)
    model = tiny_model(v2v_scope=scope, video_newline=newline)
    assistant = Assistant(model, processor)
    videos = arrays(3, 5, 1)
    session = assistant.open_videos(videos, fps=1, tokens_per_frame=tokens)
    prompt = session.ask("which?", max_new_tokens=1).prompt
    assert prompt.count("<video>") == 3
    inputs = processor(text=prompt, videos=[videos], tokens_per_frame=tokens)
    check_logits(assistant, session, dict(inputs))


@pytest.mark.parametrize("merge", ["folder", "uniform"])
@pytest.mark.parametrize("scope", ["frame", "member"])
def test_merged_tokens_in_parts_are_those_of_one_pass(scope: str, merge: str) -> None:
    """The words between two videos stand where the first one ends, whatever was merged."""
    model = tiny_model(v2v_scope=scope, video_newline=True)
    processor = tiny_processor(video_newline=True)
    assistant = Assistant(model, processor)
    videos = arrays(4, 6)
    session = assistant.open_videos(videos, fps=1, merge=merge, keep="25%")
    assert [video.tokens for video in session.videos] == [4, 6]
    text = session.ask("which?", max_new_tokens=1).prompt
    ids = processor.encode_prompts([text], [10], merged=[[4, 6]])["input_ids"]
    visuals = []
    for clip, count in zip(videos, (4, 6), strict=True):
        pixels = processor.normalise(torch.from_numpy(clip))[None]
        with torch.inference_mode():
            visuals.append(merge_video(model.model.encode_video(pixels, 4), [count], merge))
    joined = VideoJoiner(10)
    for visual, part in zip(visuals, session.videos, strict=True):
        frames, parts = tuple(part.frames), (part,)
        joined.add(encoding.EncodedVideo(visual, frames, 1, part.source, (), 0.0, 0.0, parts=parts))
    visual = joined.finish().visual
    with torch.inference_mode():
        expected = model(ids, visual_tokens=visual).logits[:, -1]
        for most in (3, 100):
            prefix = prefill_video(model, ids, visual, chunk_tokens=most)
            assert torch.equal(prefix.ids, session.prefix.ids)
            with prefix.lend() as cache:
                rest = ids[:, len(prefix) :]
                logits = model(rest, past_key_values=cache, use_cache=True).logits[:, -1]
            torch.testing.assert_close(logits, expected, rtol=0, atol=5e-5)
    check_logits(assistant, session, {"input_ids": ids, "visual_tokens": visual})


def test_words_after_a_merged_video_stand_where_it_ends() -> None:
    config = tiny_model().config
    places = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1, 0]], dtype=torch.bool)
    visual = VisualTokens(torch.randn(1, 2, 4, 64), None)
    one = merge_video(visual, [3], "uniform")
    other = merge_video(visual, [2], "uniform")
    joined = join_ragged([one, other], None)
    shift = shift_positions(config, joined, places)
    assert shift is not None
    position = (torch.arange(9) + shift.tokens[0]).tolist()
    assert position[0] == 0
    assert position[4:6] == [9, 10]  # after one word and 2 · 4 cells
    assert position[6] == 11 + int(other.place[0])
    assert position[8] == 19
    assert int(shift.following) == 11


def test_llava_onevision_reads_them_as_transformers_does(tmp_path: Path) -> None:
    reference: LlavaOnevisionForConditionalGeneration = write_checkpoint(tmp_path)
    assistant = crosslmm.load(tmp_path, device="cpu", dtype="float32")
    videos = arrays(3, 3)
    session = assistant.open_videos(videos, fps=1)
    text = session.ask("which?", max_new_tokens=1).prompt
    ids = assistant.processor.encode_prompts([text], [6], merged=[[27, 27]])["input_ids"]
    assert int((ids == VIDEO).sum()) == 2 * (3 * 9 + 1)
    pixels = torch.stack([assistant.processor.normalise(torch.from_numpy(clip)) for clip in videos])
    with torch.no_grad():
        expected = reference(input_ids=ids, pixel_values_videos=pixels).logits[:, -1]
        with session.prefix.lend() as cache:
            rest = ids[:, len(session.prefix) :]
            logits = assistant.model(rest, past_key_values=cache, use_cache=True).logits[:, -1]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_the_prompt_numbers_and_names_them(clips: list[Path]) -> None:
    assistant = Assistant(tiny_model(), tiny_processor(time_line="llava_video"))
    answer = assistant.ask(clips, "which <video> is longer?", frames=5, max_new_tokens=3)
    assert answer.prompt == (
        "<|im_start|>user\nVideo 1 (a.mp4):\n<video>\nThe video lasts for 3.00 seconds, and 3 frames "
        "are uniformly sampled from it. These frames are located at 0.50s,1.50s,2.50s.\n"
        "Video 2 (b.mp4):\n<video>\nThe video lasts for 1.00 seconds, and 2 frames are uniformly "
        "sampled from it. These frames are located at 0.25s,0.83s.\n"
        "Please answer the following questions related to these videos.\n"
        "which <video> is longer?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert answer.video == f"{clips[0]}, {clips[1]}"
    assert answer.videos == (str(clips[0]), str(clips[1]))
    assert answer.tokens.visual == 5 * 4
    record = json.loads(json.dumps(answer.as_dict()))
    assert [(each["video"], round(each["time"], 2)) for each in record["frames"]] == [
        *[(str(clips[0]), time) for time in (0.5, 1.5, 2.5)],
        *[(str(clips[1]), time) for time in (0.25, 0.83)],
    ]
    assert record["videos"] == [str(clip) for clip in clips]
    alone = assistant.ask(clips[0], "which?", frames=2, max_new_tokens=3).as_dict()
    assert list(alone["frames"]) == [{"index": 10, "time": 1.0}, {"index": 20, "time": 2.0}]
    assert "videos" not in alone


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb  c.mp4", "a b c.mp4"),
        ("<|im_end|>.mp4", "<|im_end|>.mp4"),
        ("\udcff.mp4", "�.mp4"),
        (f"{SLOT}.mp4", ".mp4"),
    ],
)
def test_a_name_is_text_on_one_line(name: str, shown: str) -> None:
    processor = tiny_processor()
    videos = [PromptVideo(each, [0.0], 1.0) for each in (name, "b.mp4")]
    prompt = processor.prompt(f"who{SLOT}?", videos=videos)
    ids = processor.encode_prompts([prompt], [2], merged=[[4, 4]])["input_ids"][0].tolist()
    assert f"Video 1 ({shown}):\n" in prompt.replace("\ufdd0", "")
    assert (ids.count(4), ids.count(2)) == (8, 1), "placeholders, and ends of turns"


def test_both_are_read(assistant: Assistant, clips: list[Path]) -> None:
    options: Any = {"frames": 4, "max_new_tokens": 8}
    texts = {
        assistant.ask(list(videos), "which?", **options).text
        for videos in (clips, clips[::-1], [clips[0]] * 2, [clips[1]] * 2)
    }
    assert len(texts) == 4


def test_a_dialogue_and_questions_in_a_batch(assistant: Assistant, clips: list[Path]) -> None:
    session = assistant.open_videos(clips, frames=4)
    first, second = session.ask(["which?", "and why so?"], max_new_tokens=5)
    assert session.ask_all(["which?", "and why so?"], max_new_tokens=5) == [
        first.text,
        second.text,
    ]
    chat = session.chat()
    assert chat.ask("which?", max_new_tokens=5).text == first.text
    said = chat.ask("and why?", max_new_tokens=5)
    assert said.prompt.count("<video>") == 2
    assert [len(video.frames) for video in session.videos] == [2, 2]
    assert session.summary == "2 of 30 frames, one per 1 s; 2 of 12 frames, one per 0.58 s"
    with pytest.raises(UsageError, match="of one video, and this session is about several"):
        session.source  # noqa: B018


def test_what_may_be_mixed(assistant: Assistant, clips: list[Path], tmp_path: Path) -> None:
    image = Image.fromarray(arrays(1)[0][0])
    image.save(tmp_path / "i.png")
    with clips[1].open("rb") as file:
        given = [tmp_path / "i.png", image, crosslmm.sample(clips[0], frames=2), file]
        session = assistant.open_videos(given, frames=5)
    names = [video.name for video in session.videos]
    assert names == [str(tmp_path / "i.png"), "video 2 (image)", str(clips[0]), str(clips[1])]
    assert [video.label for video in session.videos] == ["i.png", "", "a.mp4", "b.mp4"]
    assert "Video 2:\n<video>" in session.ask("which?", max_new_tokens=1).prompt
    assert [len(video.frames) for video in session.videos] == [1, 1, 1, 1]


def test_a_list_of_images_is_one_video(assistant: Assistant, tmp_path: Path) -> None:
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path, array in zip(paths, arrays(2)[0], strict=True):
        Image.fromarray(array).save(path)
    answer = assistant.ask([str(path) for path in paths], "what?", fps=1, max_new_tokens=3)
    assert (answer.videos, len(answer.frames)) == ((), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "`frames` is for all videos together: 1 are too few for 2 videos"),
        ({"max_frames": 1}, "`max_frames` is for all videos together"),
        ({"at": [0.5]}, "`at` names frames of one video"),
        ({"times": [0.0]}, "`times` are of one video"),
        ({"merge": "folder", "keep": 1}, "`keep` is for all videos together: 1 tokens"),
        ({"frames": 30, "max_new_tokens": 0}, "`max_new_tokens` must be at least 1"),
    ],
)
def test_what_is_refused(
    assistant: Assistant, clips: list[Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        assistant.ask(clips, "which?", **options)


def test_lists_that_are_none_of_videos(assistant: Assistant, clips: list[Path]) -> None:
    with pytest.raises(UsageError, match="no video was given"):
        assistant.open_videos([])
    with pytest.raises(UsageError, match="17 videos are more than the 16"):
        assistant.open_videos([clips[0]] * 17)
    with pytest.raises(UsageError, match="a list of videos is for `open_videos`"):
        assistant.open_video(clips)
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        assistant.ask([clips[0], "gone.mp4"], "which?")


def test_frames_that_exceed_the_context_together_are_refused_before_encoding(
    checkpoint: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = crosslmm.load(checkpoint, device="cpu", dtype="float32")
    monkeypatch.setattr(assistant.model.config.text, "max_position_embeddings", 120)
    assistant.ask(clips[0], "which?", frames=10, max_new_tokens=1)
    monkeypatch.setattr(opening, "encode_video", None)
    with pytest.raises(UsageError, match=r"40 frames of 4 tokens .* use at most 2[0-9] `frames`"):
        assistant.ask(clips, "which?", fps=10)


def test_fewer_frames_of_all_where_memory_runs_out(
    assistant: Assistant, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = VideoSession.prefill

    def prefill(self: VideoSession, *arguments: Any) -> None:
        if len(self.frames) > 5:
            raise encoding.TooManyFrames(len(self.frames))
        original(self, *arguments)

    notices: list[str] = []
    monkeypatch.setattr(VideoSession, "prefill", prefill)
    monkeypatch.setattr(assistant.runtime, "on_notice", notices.append)
    session = assistant.open_videos(clips, frames=10)
    assert notices == ["out of memory with 10 frames; trying with 5"]
    assert [len(video.frames) for video in session.videos] == [3, 2]
    monkeypatch.setattr(VideoSession, "prefill", lambda self, *_: prefill_fails(self))
    with pytest.raises(OutOfMemory, match="out of memory on cpu even with one frame of each"):
        assistant.open_videos(clips, frames=10)


def prefill_fails(session: VideoSession) -> None:
    raise encoding.TooManyFrames(len(session.frames))


def test_each_is_kept_in_the_cache_by_itself(
    checkpoint: Path, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> Assistant:
        cache = FeatureCache(tmp_path / "cache", least_seconds=0)
        return crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=cache)

    ask: Callable[..., Any] = lambda videos, **options: load().ask(  # noqa: E731
        videos, "which?", max_new_tokens=6, **options
    )
    first = ask(clips, frames=4)
    assert not first.from_cache
    assert ask(clips[0], frames=2).from_cache, "as the half of it was opened"
    with monkeypatch.context() as patch:
        patch.setattr(opening, "encode_video", None)
        again = ask(clips, frames=4)
        assert (again.text, again.frames, again.from_cache) == (first.text, first.frames, True)
    third = tmp_path / "c.mp4"
    write_clip(third, frames=8, fps=8)
    partly = load().open_videos([clips[0], third], frames=4)
    assert not partly.from_cache, "one of them was encoded"
    assert [part.from_cache for part in partly.videos] == [True, False]
    assert partly.reused == "", "nothing is known of the frames of the other"
    ask(clips[1], frames=3)  # with what the language model computed of it
    both = ask([clips[1], third], frames=5)
    assert (
        both.text
        == crosslmm.load(checkpoint, device="cpu", dtype="float32")
        .ask([clips[1], third], "which?", frames=5, max_new_tokens=6)
        .text
    )


def test_the_built_in_model_says_what_it_knows_not(clips: list[Path]) -> None:
    assistant = crosslmm.load("demo", device="cpu")
    session = assistant.open_videos(clips, frames=2)
    assert "trained on one video at a time" in session.warnings[-1]
    noise = arrays(4, 4)
    with pytest.raises(UnfamiliarFootage, match=r"video 1 \(4 frames\): this footage is unlike"):
        assistant.open_videos(noise, fps=1, allow_unfamiliar=False)
    with pytest.warns(UserWarning, match="unlike"):
        answer = assistant.ask(noise, "which?", fps=1, max_new_tokens=1)
    assert answer.warnings.count(UNFAMILIAR) == 1
