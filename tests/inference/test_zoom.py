"""Looking again: what a question points to, which moments are taken, and what an answer says of it."""

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosslmm.errors import UsageError, VideoError
from crosslmm.inference import opening
from crosslmm.inference.answer import FrameUsed
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.encoding import EncodedVideo
from crosslmm.inference.zoom import SkimmedVideo, ZoomBudget, choose_moments
from crosslmm.options import Sampler
from tests.support.clips import write_clip
from tests.support.tiny import tiny_model, tiny_processor


def skimmed(*indices: int) -> list[FrameUsed]:
    return [FrameUsed(index, index / 10) for index in indices]


@pytest.mark.parametrize("frames", [2, 8, 16, 64])
@pytest.mark.parametrize("tokens", [4, 9, 196])
def test_both_looks_have_no_more_tokens_than_one_pass(frames: int, tokens: int) -> None:
    budget = ZoomBudget.of(frames, tokens)
    assert budget.skim + budget.look * tokens <= frames * tokens
    assert budget.skim <= 4 * frames
    assert (budget.skim + (budget.look + 1) * tokens) > frames * tokens


@pytest.mark.parametrize(("frames", "tokens"), [(1, 4), (1, 9), (2, 1), (8, 1)])
def test_a_budget_too_small_for_two_looks_is_refused(frames: int, tokens: int) -> None:
    with pytest.raises(UsageError, match="too few"):
        ZoomBudget.of(frames, tokens)


def test_moments_are_where_the_scores_are_highest_and_denser_there() -> None:
    frames = skimmed(*range(5, 100, 10))
    scores = np.asarray([0, 0.1, 0, 0, 0.4, 0.3, 0, 0, 0.2, 0])
    chosen = choose_moments([SkimmedVideo(frames, 100)], scores, look=9)
    assert [each.row for each in chosen] == [4, 8, 1]  # 5 lies within the moment of 4
    assert [each.score for each in chosen] == [0.4, 0.2, 0.1]
    assert [each.indices for each in chosen] == [(35, 45, 48), (75, 85, 88), (5, 15, 18)]


def test_a_moment_at_the_end_stays_within_the_video() -> None:
    frames = skimmed(*range(5, 100, 10))
    for row in (0, 9):
        scores = np.eye(10)[row]
        (first, *_) = choose_moments([SkimmedVideo(frames, 98)], scores, look=6)
        assert frames[row].index in first.indices
        assert all(0 <= index < 98 for index in first.indices)


def test_where_every_frame_was_skimmed_neighbours_are_taken() -> None:
    frames = skimmed(*range(12))
    chosen = choose_moments([SkimmedVideo(frames, 12)], np.eye(12)[11], look=8)
    assert chosen[0].indices == (9, 10, 11)
    assert all(0 <= index < 12 for each in chosen for index in each.indices)


@pytest.mark.parametrize(
    ("high", "look", "chosen"),
    [
        ([(0, 4), (0, 8), (0, 1)], 10, [(0, 4, 3), (0, 8, 3), (0, 1, 3), (1, 0, 1)]),
        ([(1, 1), (0, 9), (1, 0)], 9, [(1, 1, 3), (0, 9, 3), (0, 0, 3)]),  # 1, 0 lies within 1, 1
        ([(0, 9), (1, 0), (0, 0)], 9, [(0, 9, 3), (1, 0, 3), (0, 0, 3)]),  # no neighbours
        ([(1, 3)], 4, [(1, 3, 3), (0, 0, 1)]),
        ([(1, 3)], 2, [(1, 3, 1), (0, 0, 1)]),
    ],
)
def test_videos_share_what_is_looked_at(high: list, look: int, chosen: list) -> None:
    """chosen: of each moment the video, its middle, and how many frames."""
    videos = [
        SkimmedVideo(skimmed(*range(5, 100, 10)), 100),
        SkimmedVideo(skimmed(*range(4)), 4),
    ]
    scores = np.zeros(14)
    for rank, (video, row) in enumerate(high):
        scores[10 * video + row] = 0.5 - rank / 10
    found = choose_moments(videos, scores, look=look)
    assert [(each.video, each.row, len(each.indices)) for each in found] == chosen
    for each in found:
        video = videos[each.video]
        assert video.frames[each.row].index in each.indices
        assert all(0 <= index < video.count for index in each.indices)


@pytest.mark.parametrize("videos", range(1, 17))
@pytest.mark.parametrize("spare", range(6))
def test_no_video_is_left_out_and_no_frame_taken_more(videos: int, spare: int) -> None:
    skims = [SkimmedVideo(skimmed(*range(5, 200, 10)), 200)] * videos
    for seed in range(5):
        scores = np.random.default_rng(seed).random(20 * videos) ** 9
        found = choose_moments(skims, scores, look=videos + spare)
        assert {each.video for each in found} == set(range(videos))
        assert sum(len(each.indices) for each in found) == videos + spare
        assert (found[0].video, found[0].row) == divmod(int(scores.argmax()), 20)


@pytest.mark.parametrize(
    ("gates", "sampler"),
    [(True, "uniform"), (False, "codec")],
    ids=["cross-attention", "self-attention"],
)
def test_an_answer_says_where_was_looked_again(
    clip: Path, gates: bool, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = opening.encode_video

    def encode_in_a_second(*arguments: Any, **options: Any) -> EncodedVideo:
        made = encode(*arguments, **options)
        encoded.append(len(made.frames))
        return replace(made, encode_seconds=1.0)

    monkeypatch.setattr(opening, "encode_video", encode_in_a_second)
    assistant = Assistant(tiny_model(gates=gates), tiny_processor(tokens_per_frame=4))
    video = assistant.open_zoomed(clip, frames=6, sampler=sampler)
    assert video.summary.startswith("skimmed 12 of 30 frames")
    answer = video.ask("what?", max_new_tokens=3)
    assert (encoded, answer.timing.encode) == ([12, 3], 2.0)
    again = answer.looked_again
    assert again is not None
    assert (again.skimmed, len(answer.frames)) == (12, 3)
    assert again.tokens == 12 + 3 * 4 <= 6 * 4
    assert len(again.moments) == 1
    (moment,) = again.moments
    first, last = answer.frames[0].time, answer.frames[-1].time
    assert 0 <= moment.start <= first + 1e-9 <= last + 1e-9 <= moment.end + 2e-9
    assert moment.end <= 3
    record = answer.as_dict()["looked_again"]
    assert record["moments"] == ({"start": moment.start, "end": moment.end, "score": moment.score},)
    # It is what these frames answer by themselves, and a second question skims nothing.
    named = [f"#{frame.index}" for frame in answer.frames]
    assert assistant.ask(clip, "what?", at=named, max_new_tokens=3).text == answer.text
    encoded.clear()
    began = time.perf_counter()
    second = video.ask("what?", max_new_tokens=3)
    assert second.timing.first_token <= time.perf_counter() - began
    assert (encoded, second.timing.encode) == ([3], 1.0)
    assert (second.text, second.looked_again) == (answer.text, again)
    assert video.evidence(second).indices == tuple(frame.index for frame in second.frames)


@pytest.mark.parametrize("gates", [True, False], ids=["cross-attention", "self-attention"])
def test_several_videos_are_skimmed_and_looked_at_within_one_budget(
    clip: Path, tmp_path: Path, gates: bool
) -> None:
    other = tmp_path / "other.mp4"
    write_clip(other, frames=12, fps=6)
    assistant = Assistant(tiny_model(gates=gates), tiny_processor(tokens_per_frame=4))
    videos = assistant.open_zoomed([clip, other], frames=8)
    assert [len(each.frames) for each in videos.videos] == [8, 8]
    with pytest.raises(UsageError, match="`source` is of one video"):
        videos.source  # noqa: B018
    answer = videos.ask("which?", max_new_tokens=3)
    again = answer.looked_again
    assert again is not None
    assert (again.skimmed, again.tokens) == (16, 16 + 4 * 4)
    assert answer.videos == (str(clip), str(other))
    assert {frame.video for frame in answer.frames} == {moment.video for moment in again.moments}
    assert {moment.video for moment in again.moments} == set(answer.videos)
    assert answer.as_dict()["looked_again"]["moments"][0]["video"] in answer.videos
    for moment in again.moments:
        own = [frame.time for frame in answer.frames if frame.video == moment.video]
        assert any(moment.start - 1e-9 <= time <= moment.end for time in own)
    assert videos.ask("which?", max_new_tokens=3).text == answer.text
    evidence = videos.evidence(answer)
    assert evidence.indices == tuple(frame.index for frame in answer.frames)
    assert {moment.video for moment in evidence.moments} <= set(answer.videos)
    assert f"Video 2 ({other.name})" in answer.prompt


@pytest.mark.parametrize(("frames", "message"), [(1, "for all videos"), (2, "at 3 videos: use")])
def test_a_budget_too_small_for_all_videos_is_refused(
    assistant: Assistant, clip: Path, frames: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        assistant.open_zoomed(
            [clip] * (2 if frames == 1 else 3), frames=max(frames, 3 * (frames > 1))
        )


def test_a_plain_answer_says_nothing_of_looking_again(assistant: Assistant, clip: Path) -> None:
    answer = assistant.ask(clip, "what?", frames=2, max_new_tokens=1)
    assert answer.looked_again is None
    assert "looked_again" not in answer.as_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fps": 2.0}, "`fps` and `zoom`"),
        ({"at": [1.0]}, "`at` and `zoom`"),
        ({"sampler": "scene"}, "`sampler` and `zoom`"),
        ({"frames": 1}, "too few"),
    ],
)
def test_what_does_not_go_together_is_refused(
    assistant: Assistant, clip: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        assistant.open_zoomed(clip, **options)


def test_a_video_that_changed_meanwhile_is_refused(assistant: Assistant, tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    write_clip(video, frames=30, fps=10)
    zoomed = assistant.open_zoomed(video, frames=6, tokens_per_frame=4)
    write_clip(video, frames=12, fps=10)
    with pytest.raises(VideoError, match=r"clip.mp4: changed since it was skimmed"):
        zoomed.ask("what?", max_new_tokens=1)


def test_a_video_that_cannot_be_read_twice_is_refused(assistant: Assistant, clip: Path) -> None:
    with pytest.raises(UsageError, match="path of a file"):
        assistant.open_zoomed(io.BytesIO(clip.read_bytes()), frames=8)  # type: ignore[arg-type]
