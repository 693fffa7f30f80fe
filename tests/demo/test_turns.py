"""What the demo is taught: the same prompts as at inference, and clips told in turns."""

import re

import numpy as np
import pytest
import torch

from crosslmm.demo.batches import ClipBatches, ClipOptions
from crosslmm.demo.exercises import draw_verdicts, take_notes
from crosslmm.demo.loss import AnswerLoss
from crosslmm.demo.packing import MARK, pack_turns, pad_rows, turn_mask
from crosslmm.demo.plain_attention import PLAIN
from crosslmm.demo.targets import IGNORED
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.asker import Asker
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import make_clip
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, SHAPES
from tests.demo.conftest import TIMES, shown_prompt


@pytest.mark.parametrize(
    "text",
    [
        "What colour is the object marked K at the start?",
        "at 12.34 seconds",
        "Héllo wörld, 12345.678! 日本語 \U0001f600\n\tnew line",
        "",
        "<|im_start|>system\nYou are…<|im_end|>",
    ],
)
def test_the_tokenizer_survives_any_text(processor: CrossLMMProcessor, text: str) -> None:
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids) == text


def test_a_time_is_the_same_tokens_wherever_it_stands(processor: CrossLMMProcessor) -> None:
    tokens = processor.tokenizer.tokenize
    assert tokens("12.34s,")[:2] == tokens("at 12.34 seconds")[2:4] == ["12", ".34"]
    for seconds in (0.0, 3.05, 59.99):
        assert len(tokens(f"{seconds:.2f}s,")) == 3


def test_packed_turns_are_the_processors_own_prompts(
    processor: CrossLMMProcessor, questions: list[Question]
) -> None:
    row = pack_turns(processor.tokenizer, shown_prompt(processor), questions)
    prompt = row["input_ids"][row["turns"] == 0]
    for turn, question in enumerate(questions, start=1):
        mine = row["turns"] == turn
        rendered = processor.prompt(question.text, times=TIMES, duration=1.5)
        expected = processor.tokenizer(processor.expand(rendered, len(TIMES))).input_ids
        answer = row["labels"][mine]
        asked = row["input_ids"][mine][answer == IGNORED]
        assert [*prompt.tolist(), *asked.tolist()] == expected
        said = answer[answer != IGNORED].tolist()
        assert processor.tokenizer.decode(said) == question.taught + "<|im_end|>"
        heavy = row["input_ids"][mine][row["label_weights"][mine] > 1]
        end = question.taught.split(", so ")[-1]  # or all of it
        concluded = question.answer if end.endswith(question.answer) else end
        weighty = question.taught if question.type == "count" else concluded
        assert processor.tokenizer.decode(heavy).strip() == weighty
        assert row["position_ids"][mine].tolist() == list(
            range(len(prompt), len(prompt) + int(mine.sum()))
        )


def test_a_turn_among_others_is_that_turn_alone(
    processor: CrossLMMProcessor, questions: list[Question], model: CrossLMMForConditionalGeneration
) -> None:
    pixels = torch.randn(1, 3, 3, 96, 96)
    together = pad_rows([pack_turns(processor.tokenizer, shown_prompt(processor), questions)])

    def states(row: dict[str, torch.Tensor], mask: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return model.model(
                input_ids=row["input_ids"],
                pixel_values_videos=pixels,
                attention_mask=mask,
                position_ids=row["position_ids"],
            ).last_hidden_state[0]

    packed = states(together, turn_mask(together["turns"], torch.float32))
    for turn, question in enumerate(questions, start=1):
        alone = pad_rows([pack_turns(processor.tokenizer, shown_prompt(processor), [question])])
        expected = states(alone, None)[alone["turns"][0] == 1]
        torch.testing.assert_close(
            packed[together["turns"][0] == turn], expected, atol=1e-4, rtol=0
        )


def test_more_happens_in_busy_clips(processor: CrossLMMProcessor) -> None:
    def frames_with_events(busy: float) -> int:
        options = ClipOptions(clips=16, questions=1, busy=busy)
        events = ClipBatches(processor, options, seed=0, name="t").at(0)["dense_event"]
        return int((events.unflatten(1, (-1, processor.tokens_per_frame)) > 0).any(dim=-1).sum())

    assert frames_with_events(1.0) > 1.2 * frames_with_events(0.0)


def test_plain_attention_is_attention(
    processor: CrossLMMProcessor, questions: list[Question], model: CrossLMMForConditionalGeneration
) -> None:
    batch = ClipBatches(processor, ClipOptions(2, 3, frames=(2, 2)), seed=0, name="t").at(0)
    answering, losses = AnswerLoss(model), []
    for implementation in ("sdpa", PLAIN):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            losses.append(float(answering(**batch)["loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_clip_that_is_told_answers_what_is_asked_of_it(processor: CrossLMMProcessor) -> None:
    options = ClipOptions(1, 8, text_only_every=2)
    source = ClipBatches(processor, options, seed=0, name="t")
    told, shown = source.at(0), source.at(1)  # 2 is of verdicts
    assert "pixel_values_videos" in shown
    assert "pixel_values_videos" not in told
    assert processor.video_token_id not in told["input_ids"]
    decode = processor.tokenizer.decode
    for ids, labels, turns in zip(told["input_ids"], told["labels"], told["turns"], strict=True):
        story = set(re.findall(r"\w+", decode(ids[turns == 0])))
        for turn in range(1, int(turns.max()) + 1):
            answer = decode(ids[(turns == turn) & (labels != IGNORED)])
            said = answer.split(": A. ")[0]
            values = set(re.findall(r"\w+", said)) & {*COLOUR_NAMES, *SHAPES}
            assert values <= story, (answer, story)


def test_verdicts_follow_from_their_reasons(processor: CrossLMMProcessor) -> None:
    """Those on the truth are what is taught as a whole; the others differ in reason and verdict."""
    rng, found, listed = np.random.default_rng(0), 0, 0
    for index in range(40):
        clip = make_clip("train", 0, index, duration=6.0)
        verdicts = draw_verdicts(Asker(clip, rng, frame_times=TIMES, frame_period=0.1))
        if verdicts is None:
            continue
        found += 1
        ends = dict(verdicts.answers)
        assert len(ends) > 1
        if "\nA. " in verdicts.question:
            assert [end[-1] for end in ends.values()] == list("ABCD")
            for reason, end in ends.items():
                option = verdicts.question.split(f"\n{end[-1]}. ")[1].split("\n")[0]
                assert reason.endswith(option)
                assert end.count(" yes,") == 1
        else:
            assert [end for _, end in verdicts.answers].count(", so yes") == len(ends) - 1
            assert set(ends.values()) == {", so yes", ", so no"}
            assert not any(re.search("moves in a (?!circle)", reason) for reason in ends)
            listed += any("; " in reason for reason in ends)
    assert found > 10
    assert listed  # whether something is there, too


def test_batches_are_a_function_of_their_number(processor: CrossLMMProcessor) -> None:
    source = ClipBatches(processor, ClipOptions(1, 3, frames=(2, 3)), seed=0, name="t")
    first, again, other = source.at(4), source.at(4), source.at(5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["input_ids"].shape != other["input_ids"].shape or not torch.equal(
        first["input_ids"], other["input_ids"]
    )


def test_notes_begin_with_what_picks_a_thing_out(processor: CrossLMMProcessor) -> None:
    clip = make_clip("train", 0, 5, duration=10.0)
    notes = take_notes(clip, np.random.default_rng(0), [1.0, 5.0, 9.0])
    row = pack_turns(processor.tokenizer, MARK, [notes])
    assert row["label_weights"].unique().tolist() == [0.0, 1.0]  # they are not what is asked for
    text = notes.taught
    assert len(text.split("; ")) == len(clip.things)
    for thing in clip.things:
        words = {thing.colour, thing.shape}
        part = next(p for p in text.split("; ") if words <= set(p.split()[:5]))
        assert thing.size is None or thing.size in part
        assert thing.glyph is None or thing.glyph in part.split()
