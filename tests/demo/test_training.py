"""The demo's training: the same prompts as at inference, resumable, repeatable, and it learns."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionModel

from crosslmm.demo.attention_supervision import AttentionSupervision, frame_targets
from crosslmm.demo.batches import ClipBatches, ClipOptions
from crosslmm.demo.encoder import ImageBatches, PatchClassifier, init_position_embeddings
from crosslmm.demo.exercises import draw_verdicts, take_notes
from crosslmm.demo.loss import AnswerLoss
from crosslmm.demo.model import demo_config, demo_processor
from crosslmm.demo.optimizer import MuonAdamW, Rates, make_optimizer
from crosslmm.demo.packing import MARK, find_spans, pack_turns, pad_rows, turn_mask
from crosslmm.demo.plain_attention import PLAIN
from crosslmm.demo.run import SHORT, demo_recipe, train_demo
from crosslmm.demo.stage import StageOptions, run_stage
from crosslmm.demo.targets import IGNORED, dense_targets
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.asker import Asker, ask_about
from crosslmm.synthetic.phrasing import (
    check_options,
    describe_clip,
    describe_event,
    describe_frames,
)
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import SyntheticClip, make_clip
from crosslmm.synthetic.spans import Phrase, SpanKind
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, SHAPES
from crosslmm.training.checkpoints import latest_checkpoint
from tests.support.tiny import open_gates

TIMES = [0.25, 0.75, 1.25]


@pytest.fixture(scope="module")
def processor() -> CrossLMMProcessor:
    return demo_processor()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    clip = make_clip("train", 0, 1, duration=1.5)
    rng = np.random.default_rng(0)
    return ask_about(clip, rng, count=12, frame_times=TIMES, frame_period=0.1)


@pytest.fixture
def model(processor: CrossLMMProcessor) -> CrossLMMForConditionalGeneration:
    """The demo's parts at a fraction of its size."""
    torch.manual_seed(0)
    config = demo_config(processor)
    config.vision_config.num_hidden_layers = 1
    config.text_config.num_hidden_layers = 4
    config.text_config.layer_types = config.text_config.layer_types[:4]
    config.text_config.initializer_range = 0.1
    model = CrossLMMForConditionalGeneration(config).eval()
    open_gates(model)
    return model


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


def _shown(processor: CrossLMMProcessor) -> str:
    prompt = processor.prompt(MARK, times=TIMES, duration=1.5)
    return processor.expand(prompt, len(TIMES))


def test_packed_turns_are_the_processors_own_prompts(
    processor: CrossLMMProcessor, questions: list[Question]
) -> None:
    row = pack_turns(processor.tokenizer, _shown(processor), questions)
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
    together = pad_rows([pack_turns(processor.tokenizer, _shown(processor), questions)])

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
        alone = pad_rows([pack_turns(processor.tokenizer, _shown(processor), [question])])
        expected = states(alone, None)[alone["turns"][0] == 1]
        torch.testing.assert_close(
            packed[together["turns"][0] == turn], expected, atol=1e-4, rtol=0
        )


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
        row = pack_turns(processor.tokenizer, _shown(processor), [question])
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


def test_a_matrix_step_moves_all_singular_values_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((32, 64), (64, 32)):
        matrix, bias = torch.nn.Parameter(torch.zeros(shape)), torch.nn.Parameter(torch.zeros(1))
        optimizer = MuonAdamW(
            [{"params": [matrix], "lr": 0.1, "weight_decay": 0.0}], [{"params": [bias]}]
        )
        matrix.grad = torch.randn(shape, generator=generator)
        optimizer.step()
        values = torch.linalg.svdvals(matrix.detach()) / 0.1 / max(1, shape[0] / shape[1]) ** 0.5
        assert float(values.min()) > 0.3
        assert float(values.max()) < 1.5


@pytest.mark.parametrize("shape", [(32, 64), (64, 32)])
def test_matrix_steps_are_those_of_torch_s_muon(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    matrix, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    muon = torch.optim.Muon([other], lr=0.1, weight_decay=0.1, momentum=0.95)
    group = {"params": [matrix], "lr": 0.1, "weight_decay": 0.1}
    ours = MuonAdamW([group], [{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    for _ in range(3):
        matrix.grad = other.grad = torch.randn(shape)
        ours.step()
        muon.step()
    moved = float((other.detach() - start).abs().mean())
    assert float((matrix - other).detach().abs().max()) < 0.1 * moved, "theirs rounds to bfloat16"


def _regression() -> tuple[MuonAdamW, Callable[[], float], torch.nn.Parameter]:
    """An optimizer of a matrix and a bias, and a step of it that returns the loss."""
    torch.manual_seed(0)
    target, inputs = torch.randn(8, 8), torch.randn(64, 8)
    matrix, bias = torch.nn.Parameter(torch.zeros(8, 8)), torch.nn.Parameter(torch.ones(8))
    optimizer = MuonAdamW(
        [{"params": [matrix], "lr": 0.05, "weight_decay": 0.0}],
        [{"params": [bias], "lr": 0.02, "weight_decay": 0.0}],
    )

    def step() -> float:
        loss = (inputs @ matrix + bias - inputs @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return optimizer, step, bias


def test_both_kinds_of_step_lower_a_loss() -> None:
    _, step, bias = _regression()
    losses = [step() for _ in range(120)]
    assert losses[-1] < losses[0] / 20
    assert float(bias.detach().abs().max()) < 0.5


def test_both_parts_of_the_optimizer_resume() -> None:
    optimizer, step, _ = _regression()
    for _ in range(3):
        step()
    parameters = [group["params"][0].detach().clone() for group in optimizer.param_groups]
    state = copy.deepcopy(optimizer.state_dict())
    expected = [step() for _ in range(3)]
    resumed, step, _ = _regression()
    resumed.load_state_dict(state)
    with torch.no_grad():
        for group, value in zip(resumed.param_groups, parameters, strict=True):
            group["params"][0].copy_(value)
    assert [step() for _ in range(3)] == expected


def test_a_schedule_reaches_both_parts_of_the_optimizer() -> None:
    optimizer, step, bias = _regression()
    optimizer.load_state_dict(optimizer.state_dict())  # as resuming does
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    matrix = optimizer.param_groups[0]["params"][0]
    step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    assert not matrix.detach().any()
    assert bool((bias == 1).all())


def test_parameters_are_grouped_by_what_they_are(model: CrossLMMForConditionalGeneration) -> None:
    rates = Rates(learning_rate=1.0, matrix_rate=0.5, embedding_factor=2.0, gate_factor=3.0)
    matrix, embedding, gate = (0.5, 0.05), (2.0, 0.0), (3.0, 0.0)
    head, vector = (1.0, 0.05), (1.0, 0.0)

    def found(module: torch.nn.Module) -> dict[str, tuple[float, float]]:
        names = {parameter: name for name, parameter in module.named_parameters()}
        optimizer = make_optimizer(module, rates)
        return {
            names[parameter]: (group["lr"], group["weight_decay"])
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    encoder = "encoder.encoder.layers.0."
    linears = ("mlp.fc1", "mlp.fc2", *(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")))
    heads = ("heads.colour", "heads.shape", "heads.glyph", "position")
    norms = (f"{encoder}layer_norm1", f"{encoder}layer_norm2", "encoder.post_layernorm", "norm")
    vectors = [*norms, *(encoder + linear for linear in linears), *heads]
    assert found(PatchClassifier(model.model.vision_tower)) == {
        **{f"encoder.embeddings.patch_embedding.{x}": embedding for x in ("weight", "bias")},
        "encoder.embeddings.position_embedding.weight": embedding,
        **{f"{encoder}{linear}.weight": matrix for linear in linears},
        **{f"{name}.weight": head for name in heads},
        **{f"{name}.bias": vector for name in vectors},
        **{f"{name}.weight": vector for name in norms},
    }
    model.model.vision_tower.requires_grad_(False)
    answer_loss = AnswerLoss(model)
    groups = found(answer_loss)
    assert groups["model.model.language_model.embed_tokens.weight"] == embedding
    assert sum(rate == embedding for rate in groups.values()) == 1
    gates = {name for name, rate in groups.items() if rate == gate}
    assert gates == {
        f"model.model.cross_attention_layers.{index}.{branch}.gate"
        for index in (1, 3)
        for branch in ("v2v", "t2v")
    }
    weights = {name for name, rate in groups.items() if rate == head}
    assert weights == {f"dense_heads.heads.{name}.weight" for name in answer_loss.dense_heads.heads}
    for name, parameter in answer_loss.named_parameters():
        if not parameter.requires_grad:
            assert name not in groups
        elif groups[name] not in (embedding, gate, head):
            assert groups[name] == (matrix if parameter.ndim == 2 else vector)


def test_the_encoder_learns_what_covers_a_patch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = demo_config(demo_processor()).vision_config
    config.num_hidden_layers = 1
    encoder = SiglipVisionModel(config)
    init_position_embeddings(encoder)
    log = run_stage(
        PatchClassifier(encoder),
        ImageBatches(batch=4, image_size=96, patch_size=8, seed=0),
        StageOptions(steps=30, warmup_steps=5, log_steps=5, save_steps=100),
        folder=tmp_path,
    )
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < 0.85 * losses[0]
    position = [record["position"] for record in log if "position" in record]
    assert position[-1] < 0.5 * position[0]


def _losses(out: Path, stage: str) -> list[float]:
    last = latest_checkpoint(out / stage)
    assert last is not None
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [record["loss"] for record in history if "loss" in record]


def test_killed_and_started_again_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_demo(whole, short=True)

    class Killed(BaseException):
        pass

    def kill(line: str) -> None:
        if line.startswith("2-clips: step 3 "):
            raise Killed

    with pytest.raises(Killed):
        train_demo(parts, short=True, report=kill)
    assert not (parts / "demo").exists()
    told: list[str] = []
    finished = train_demo(parts, short=True, report=told.append)
    assert finished is not None
    assert not any(line.startswith("1-encoder") for line in told)
    assert sum(" loss " in f" {line} " for line in told) <= 3  # it went on, not from the beginning
    for stage in ("1-encoder", "2-clips"):
        assert _losses(parts, stage) == pytest.approx(_losses(whole, stage), abs=2e-3)
    assert (finished / "model.safetensors").stat().st_size < 15_000_000
    restored = CrossLMMForConditionalGeneration.from_pretrained(finished)
    assert restored.dtype == torch.bfloat16
    assert restored.config.default_frames == 8


def test_what_is_not_a_run_of_the_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    mine = tmp_path / "demo" / "holidays.mp4"
    mine.touch()
    with pytest.raises(UsageError, match="holds no run"):
        train_demo(tmp_path, short=True)
    with pytest.raises(UsageError, match="is a file"):
        train_demo(mine, short=True)
    assert {*tmp_path.rglob("*")} == {mine.parent, mine}


def test_the_command_takes_its_own_settings_and_no_others(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    refused = run("train", "demo", "--out", tmp_path / "run", "--model", "demo")
    assert refused.code == 2
    assert "takes only --set" in refused.err
    unknown = run("train", "demo", "--out", tmp_path / "run", "--set", "sed=1")
    assert unknown.code == 2
    assert "unknown option 'sed'; did you mean seed?" in unknown.err
    assert not (tmp_path / "run").exists()
    done = run("train", "demo", "--out", tmp_path / "run", "--set", "short=true", "--set", "seed=3")
    assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'demo'}\n"), done.err
    assert "2-clips 4/4" in done.err
    assert (tmp_path / "run" / "demo" / "model.safetensors").is_file()


def test_another_seed_is_another_model(tmp_path: Path) -> None:
    recipe = replace(SHORT, encoder=replace(SHORT.encoder, steps=2), stages=())
    losses = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(losses))
        train_demo(out, seed=seed, recipe=recipe)
        losses.append(_losses(out, "1-encoder"))
    assert losses[0] == losses[1] != losses[2]
    last = latest_checkpoint(tmp_path / "0" / "1-encoder")
    assert last is not None
    weights = load_file(last / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "bias" not in k}, last / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit its model"):
        train_demo(tmp_path / "0", seed=0, recipe=recipe)
    for other in ({"seed": 1, "recipe": recipe}, {"seed": 0, "short": True}):
        with pytest.raises(UsageError, match="a different recipe, `seed`"):
            train_demo(tmp_path / "0", **other)


def test_the_full_recipe_ends_on_the_frames_it_is_used_with() -> None:
    last = demo_recipe().stages[-1]
    assert last.clips.frames == (8, 8)
    assert last.options.final_rate < 0.1
