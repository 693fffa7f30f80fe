"""What words and visual tokens of the demo point at."""

import numpy as np
import torch

from crosslmm.demo.attention_supervision import AttentionSupervision, frame_targets
from crosslmm.demo.packing import find_spans, pack_turns, turn_mask
from crosslmm.demo.targets import IGNORED, dense_targets
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.asker import Asker
from crosslmm.synthetic.phrasing import (
    check_options,
    describe_clip,
    describe_event,
    describe_frames,
)
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import SyntheticClip, make_clip
from crosslmm.synthetic.spans import Phrase, SpanKind
from crosslmm.synthetic.vocabulary import SHAPES
from tests.demo.conftest import shown_prompt


def _words_by_index(processor: CrossLMMProcessor, phrase: Phrase, kind: SpanKind) -> dict[int, str]:
    """The text of the tokens in spans of a kind, by the index of the span."""
    encoded = processor.tokenizer(phrase.text, return_offsets_mapping=True)
    found = find_spans(phrase, kind, encoded["offset_mapping"])
    words = dict.fromkeys(found, "")
    for index, token in zip(found, encoded["input_ids"], strict=True):
        words[index] += processor.tokenizer.decode([token])
    return words


def _clip_with(kind: str) -> SyntheticClip:
    """A clip whose only event is of this kind."""
    drawn = (make_clip("train", 0, index, duration=6.0) for index in range(1000))
    return next(clip for clip in drawn if [event.kind for event in clip.events] == [kind])


def test_a_word_on_a_frame_points_at_it(processor: CrossLMMProcessor) -> None:
    clip = _clip_with("appears")
    moment = clip.events[0].time * clip.duration
    event = describe_event(clip, clip.events[0]).text
    phrase = describe_frames(clip, [moment - 0.5, moment + 0.5]) + ", so 7: A. at 12.75 seconds"
    words = _words_by_index(processor, phrase, "frame")
    assert (words[0], words[1]) == (": nothing", f": {event}")
    assert set(words) == {0, 1, IGNORED}


def test_what_is_said_at_the_wrong_frame_is_not_learned(processor: CrossLMMProcessor) -> None:
    clip = _clip_with("appears")
    moment = clip.events[0].time * clip.duration
    times = [moment - 1.0, moment, moment + 1.0]
    event = describe_event(clip, clip.events[0]).text
    for said_at, left_out in ((1, set[int]()), (2, {1}), (0, {0})):
        phrase = describe_frames(clip, times, [said_at])
        question = Question("events", "Q?", "", phrase.text, phrase.spans)
        row = pack_turns(processor.tokenizer, shown_prompt(processor), [question])
        ids = row["input_ids"].where(row["labels"] != IGNORED, 0)
        learned = processor.tokenizer.decode(ids[ids > 0])
        words = [event if index == said_at else "nothing" for index in range(3)]
        parts = [
            f"{index + 1}{'' if index in left_out else f': {words[index]}'} at {time:.2f}s"
            for index, time in enumerate(times)
        ]
        assert learned == ", ".join(parts) + "<|im_end|>"


def test_a_word_on_a_thing_points_at_it(processor: CrossLMMProcessor) -> None:
    clip = _clip_with("meets")
    phrase = describe_clip(clip, clip.things) + check_options(("the red circle", "x"), "x")
    parts = phrase.text.split(": A. ")[0].split("; ")
    words = _words_by_index(processor, phrase, "thing")
    assert {index: said.strip() for index, said in words.items() if index != IGNORED} == dict(
        enumerate(parts)
    )
    event = clip.events[0]
    phrase = describe_event(clip, event)
    words = _words_by_index(processor, phrase, "thing")
    subject, other = phrase.text.split(" meets ")
    assert words == {event.subject: f"{subject} meets", event.other: f" {other}"}


def test_a_motion_in_a_circle_is_no_circle(processor: CrossLMMProcessor) -> None:
    drawn = (make_clip("train", 0, index, duration=6.0) for index in range(1000))
    clip = next(
        clip
        for clip in drawn
        if [thing.shape for thing in clip.things].count("circle") == 1
        and any(t.motion == "in a circle" and t.shape != "circle" for t in clip.things)
    )
    words = _words_by_index(processor, describe_clip(clip, clip.things), "thing")
    for index, thing in enumerate(clip.things):
        assert words[index].endswith(" circle") == (thing.motion == "in a circle")


def test_an_answer_that_reads_frames_points_at_nothing_else(processor: CrossLMMProcessor) -> None:
    clip = _clip_with("appears")
    asker = Asker(clip, np.random.default_rng(0), frame_times=[1.0, 3.0, 5.0], frame_period=0.1)
    read, plain = asker.ask("events"), asker.ask("shape")
    assert read is not None
    assert plain is not None
    for question, on_frames, on_things in ((read, True, False), (plain, False, True)):
        row = pack_turns(processor.tokenizer, shown_prompt(processor), [question])
        assert bool((row["frames"] != IGNORED).any()) == on_frames
        assert bool((row["things"] != IGNORED).any()) == on_things
    pointing = row["input_ids"][row["things"] != IGNORED]
    assert processor.tokenizer.decode(pointing) == plain.taught


def test_where_a_frame_has_an_event_only_that_is_pointed_at() -> None:
    events = torch.tensor([[0, 0, 0, 5]])  # two frames of two tokens
    assert frame_targets(events, 2).tolist() == [[0, 0, IGNORED, 1]]


def test_attention_learns_to_point(model: CrossLMMForConditionalGeneration) -> None:
    """Tokens of frame 0 and 1, then one that points at frame 1 and at a thing that is nowhere."""
    model.set_attn_implementation("eager")  # which tells its weights
    layer = model.model.language_model.layers[0]
    pointing = AttentionSupervision([layer])
    states, positions = torch.randn(1, 5, 256), torch.arange(5)[None]
    rotary = model.model.language_model.rotary_emb(states, positions)
    frames = torch.tensor([[0, 0, 1, 1, IGNORED]])
    points, hidden = (torch.tensor([[IGNORED] * 4 + [point]]) for point in (1, 2))
    mask = turn_mask(torch.zeros(1, 5, dtype=torch.long), torch.float32)
    optimizer = torch.optim.AdamW(layer.self_attn.parameters(), lr=0.01)
    shares = []
    for _ in range(30):
        _, weights = layer.self_attn(
            hidden_states=states, position_embeddings=rotary, attention_mask=mask
        )
        loss, (share, nowhere) = pointing.loss([(points, frames), (hidden, frames)], mask)
        assert nowhere == 0
        shares.append(share.item())
        torch.testing.assert_close(share, weights[0, 0, 4, 2:4].sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shares[0] < 0.9 < shares[-1]


def test_visual_tokens_are_told_what_is_in_their_cells() -> None:
    clip = make_clip("train", 0, 6, duration=10.0)
    moments = (np.arange(8) + 0.5) / 8
    truth = dense_targets(clip, moments, side=3)
    visible, centres = clip.visible(moments), clip.centres(moments)
    for index, thing in enumerate(clip.things):
        for frame in np.flatnonzero(visible[:, index]):
            x, y = (centres[frame, index] * 3).astype(int)
            assert truth["shape"][frame, y * 3 + x] == SHAPES.index(thing.shape)
    assert int((truth["shape"] != IGNORED).sum()) == int(visible.sum())
    assert int((truth["event"] > 0).sum()) == len(clip.events)


def test_visual_tokens_are_told_of_a_frame_ago_and_of_what_is_near() -> None:
    moments, still, pairs = (np.arange(8) + 0.5) / 8, 0, 0
    for number in range(60):
        clip = make_clip("train", 0, number, duration=10.0)
        truth, visible = dense_targets(clip, moments, side=3), clip.visible(moments)
        assert bool((truth["before"][0] == IGNORED).all())
        cells = (clip.centres(moments) * 3).astype(int) @ np.array([1, 3])  # (T, O)
        for index, thing in enumerate(clip.things):
            shared = (cells == cells[:, [index]]).sum(axis=1) > 1
            for frame in np.flatnonzero(visible[1:, index] & ~shared[1:]) + 1:
                before = int(truth["before"][frame, cells[frame, index]])
                assert (before == 0) == (not visible[frame - 1, index])
                if thing.motion == "still" and before:
                    still += 1
                    assert before == 5  # the middle of nine
        for frame in np.flatnonzero(visible.sum(axis=1) == 2):
            one, other = (cells[frame, index] for index in np.flatnonzero(visible[frame]))
            if one != other:
                pairs += 1
                sides = {int(truth["near_left"][frame, cell]) for cell in (one, other)}
                assert sides == {0, 1}
                assert truth["near_shape"][frame, one] == truth["shape"][frame, other]
    assert still > 20
    assert pairs > 20
