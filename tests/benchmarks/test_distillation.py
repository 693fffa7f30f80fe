"""The benchmark of distillation computes what the models themselves do."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import distillation_memory, distillation_tables, kept_clips, packed_clips
from benchmarks.distillation import ARMS, Bench, step_loss
from benchmarks.students import fit_ridge, pool_squares, warm_start
from crosslmm.checkpoints.loading import save_checkpoint
from crosslmm.demo.teacher import init_teacher, teacher_processor
from crosslmm.synthetic.clips import write_clips
from crosslmm.training.token_schedule import TokenDraw


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With a teacher that was not trained on: what it says is nonsense, and always the same."""
    work = tmp_path_factory.mktemp("work")
    processor = teacher_processor()
    save_checkpoint(work / "teacher", init_teacher(processor), processor)
    write_clips(work / "train", clips=2, seed=3, seconds=(2, 3), size=(64, 64), fps=4)
    bench = Bench(work, work / "teacher")
    kinds = ("generic", "questions", "own", "labels")
    kept_clips.prepare(
        work / "train", work / "cache" / "train", bench.model(), bench.processor,
        kinds=kinds, clips=2, limit=6,
    )  # fmt: skip
    return bench


@pytest.mark.parametrize(
    ("merge", "count"), [("pooled", 36), ("pooled", 4), ("folder", 4), ("area", 4), ("random", 4)]
)
def test_a_packed_question_is_read_as_if_it_were_the_only_one(
    bench: Bench, merge: str, count: int
) -> None:
    model, (clip, _) = bench.model(), kept_clips.load_clips(bench.work / "cache" / "train")
    own = [turn for turn in clip.turns if turn.kind == "own"][:3]
    visual = packed_clips.visual_tokens(model, [clip], count, merge)
    rows = packed_clips.pack([clip], [own], count, model.config)
    with torch.no_grad():
        packed = packed_clips.states_of(model, rows, visual)[rows.predicts]
        model.set_attn_implementation("sdpa")
        alone = []
        for turn in own:
            places = [model.config.video_token_id] * (8 * count + 1)  # and the newline
            ids = clip.before + places + clip.between + turn.given + turn.answer
            states = model.model(torch.tensor([ids]), visual_tokens=visual, use_cache=False)
            alone.append(states.last_hidden_state[0, len(ids) - len(turn.answer) - 1 : -1])
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_answers_are_decoded_as_far_as_the_student_departs_from_its_teacher(bench: Bench) -> None:
    model, clips = bench.model(), kept_clips.load_clips(bench.work / "cache" / "train")
    own = [[turn for turn in clip.turns if turn.kind == "own"] for clip in clips]
    said = packed_clips.respond(model, clips, 4, "folder", limit=6)
    assert said == packed_clips.answer(model, clips, own, 4, "folder", limit=6)
    assert said != [[turn.answer for turn in turns] for turns in own]


def test_a_teacher_has_nothing_to_learn_from_itself(bench: Bench) -> None:
    model, clips = bench.model(), kept_clips.load_clips(bench.work / "cache" / "train")
    arm = ARMS["cross-attention"]
    with torch.no_grad():
        loss = step_loss(model, arm, clips, TokenDraw(36, None), random.Random(0))
    assert float(loss) < 1e-3
    student = bench.student(arm, 0)
    loss = step_loss(student, arm, clips, TokenDraw(4, None), random.Random(0))
    loss.backward()
    with_gradient = {n for n, p in student.named_parameters() if p.grad is not None}
    assert {n for n in with_gradient if n.endswith(".gate")} == {
        f"model.cross_attention_layers.{layer}.{branch}.gate"
        for layer, branch in ((1, "v2v"), (1, "t2v"), (3, "v2v"), (3, "t2v"), (5, "t2v"))
    }
    assert not [n for n in with_gradient if "language_model" in n or "vision_tower" in n]


@pytest.mark.parametrize(
    "name",
    ["v2v of its members", "shared keys and values", "in bfloat16", "after every layer",
     "after every fourth layer", "one gate", "one module"],
)  # fmt: skip
def test_every_student_begins_as_its_teacher_with_merged_tokens(bench: Bench, name: str) -> None:
    clips = kept_clips.load_clips(bench.work / "cache" / "train")
    arm, model = ARMS[name], bench.student(ARMS[name], 0)
    with torch.no_grad():
        loss = step_loss(model, arm, clips, TokenDraw(4, None), random.Random(0))
        untrained = step_loss(bench.model(), arm, clips, TokenDraw(4, None), random.Random(0))
    torch.testing.assert_close(loss, untrained)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(n.startswith("model.cross_attention_kv") for n in trained) == (arm.kv == "shared")
    assert any(".t2v." in n for n in trained) == ("t2v" in arm.branches and arm.joint != "module")
    gates = {n for n in trained if n.endswith(".gate")}
    assert len(gates) == {"after every layer": 11, "after every fourth layer": 2, "one gate": 3,
                          "one module": 3, "v2v of its members": 2}.get(name, 5)  # fmt: skip


def test_t2v_waits_for_its_part_of_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clips = kept_clips.load_clips(bench.work / "cache" / "train")
    monkeypatch.setattr(bench, "clips", lambda *_: clips)
    monkeypatch.setattr(bench, "work", tmp_path)
    moved = []
    for late in (1.0, 0.5):
        arm = replace(ARMS["cross-attention"], steps=4, counts=(4,), t2v_from=late)
        before = dict(bench.student(arm, 0).named_parameters())
        after = bench.train(f"late {late}", 0, arm).named_parameters()
        moved.append({n for n, p in after if not torch.equal(p, before[n])})
    assert any(".v2v." in n for n in moved[0])
    assert not any(".t2v." in n for n in moved[0])
    assert any(".t2v." in n for n in moved[1])


def test_a_warm_start_has_keys_like_those_of_the_decoder(bench: Bench) -> None:
    clips = kept_clips.load_clips(bench.work / "cache" / "train")
    model, seen = bench.model(), []
    attention = model.model.language_model.layers[2].self_attn
    attention.k_proj.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    warm_start(model, clips, gate=0.1)
    layer = model.model.cross_attention_layers["1"]
    assert float(layer.v2v.gate) == float(layer.t2v.gate) == pytest.approx(0.1)
    assert torch.equal(layer.t2v.q_proj.weight, attention.q_proj.weight)
    rows = packed_clips.pack(clips, [[], []], 36, model.config)
    own = seen[0][rows.is_visual] - attention.k_proj.bias
    features = model.model.prepare_features(torch.stack([c.features.float() for c in clips]))
    tokens = pool_squares(features, 36)
    assert tokens.shape == (2 * 8 * 36, 160)
    square = features[0, 0].unflatten(0, (12, 12))[:2, 2:4]
    torch.testing.assert_close(tokens[1], square.mean(dim=(0, 1)))
    missed = layer.v2v.k_proj(tokens) - own
    assert float(missed.square().mean() / own.var()) < 0.5


def test_ridge_regression_is_close_to_least_squares() -> None:
    inputs, weight = torch.randn(200, 8), torch.randn(3, 8)
    torch.testing.assert_close(fit_ridge(inputs, inputs @ weight.T), weight, rtol=0.01, atol=0.01)


def test_a_student_can_teach_itself_at_more_tokens(bench: Bench) -> None:
    model, clips = bench.model(), kept_clips.load_clips(bench.work / "cache" / "train")
    arm = ARMS["9, 4 and 1 tokens, progressive"]
    with torch.no_grad():
        own = step_loss(model, arm, clips, TokenDraw(4, 36), random.Random(0))
        teachers = step_loss(model, arm, clips, TokenDraw(4, None), random.Random(0))
        itself = step_loss(model, arm, clips, TokenDraw(4, 4), random.Random(0))
    torch.testing.assert_close(own, teachers, atol=1e-3, rtol=1e-3)  # the latter's are kept in half
    assert float(itself) == pytest.approx(0, abs=1e-5)
    assert float(own) > 1e-3


def write_answers(work: Path, name: str, rights: list[list[bool]]) -> None:
    """rights: of each clip's questions"""
    rows = [
        {"id": f"7-{clip}-{index}", "type": "count", "right": right}
        for clip, part in enumerate(rights) for index, right in enumerate(part)
    ]  # fmt: skip
    (work / "answers" / f"{name}.json").write_text(json.dumps({"rows": rows}))
    (work / "agreement" / f"{name}.json").write_text(json.dumps([0.02, 0.5]))


def test_tables_give_the_share_that_is_won_back(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "agreement").mkdir()
    write_answers(tmp_path, "teacher-pooled-36", [[True, True], [True, True]])
    write_answers(tmp_path, "teacher-folder-9", [[True, False], [False, False]])
    write_answers(tmp_path, "v2v-1-folder-9", [[True, True], [False, False]])
    write_answers(tmp_path, "v2v-2-folder-9", [[True, True], [True, False]])
    write_answers(tmp_path, "v2v over the video-1-folder-9", [[True, True], [True, True]])
    found = distillation_tables.accuracy(tmp_path, {"v2v": "folder"})
    assert [row["at 9"] for row in found] == ["100.0%", "25.0%", "62.5% ± 17.7%"]
    assert found[-1]["won back at 9"] == "50.0% ± 23.6%"
    # Clips gain half a point in one question of two, and a quarter: no draw is outside of these.
    assert found[-1]["gain at 9"] == "+37.5% (+25.0% to +50.0%)"
    (row,) = distillation_tables.by_type(tmp_path, {"v2v": "folder"}, (9,))
    assert row == {
        "type": "count", "questions": 4, "all tokens": "100%", "not trained": "25%", "v2v": "62%",
    }  # fmt: skip


def test_the_record_has_the_right_answers_of_every_student(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "agreement").mkdir()
    write_answers(tmp_path, "teacher-pooled-36", [[True, True], [True, True]])
    write_answers(tmp_path, "teacher-folder-9", [[True, False], [True, False]])
    write_answers(tmp_path, "v2v-1-folder-9", [[True, True], [False, False]])
    write_answers(tmp_path, "v2v-2-folder-9", [[True, True], [True, True]])
    record = distillation_tables.record(tmp_path, {"v2v": "folder", "t2v": "folder"}, "teacher")
    assert record.benchmark == "distillation_7"
    assert record.settings == {"teacher": "teacher", "questions": 4, "seed": 7}
    full, untrained, trained = record.rows
    assert (full["student"], full["tokens_per_frame"], full["right"]) == ("all tokens", None, 1.0)
    assert (untrained["low"], untrained["right"], untrained["high"]) == (0.5, 0.5, 0.5)
    assert (trained["tokens_per_frame"], trained["seeds"], trained["right"]) == (9, 2, 0.75)
    assert (trained["low"], trained["high"]) == (0.5, 1.0)


def test_a_spread_needs_two_seeds() -> None:
    assert distillation_tables.spread([]) == ""
    assert distillation_tables.spread([0.5]) == "50.0%"
    assert distillation_tables.spread([0.4, 0.6]) == "50.0% ± 14.1%"


def test_the_memory_of_each_phase_is_kept(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", clips=2, seed=3, seconds=(2, 3), size=(64, 64), fps=4)
    distillation_memory.talking_checkpoint("tiny", tmp_path / "model")
    settings = {"frames": 2, "answer_tokens": 4, "batch": 1, "steps": 2}
    rows, notes = distillation_memory.distil(
        tmp_path / "model", tmp_path / "clips", tmp_path / "run", settings
    )
    assert [row["phase"] for row in rows] == ["imports", "loading", "answers", "steps", "saving"]
    assert all(0 < row["own_gb"] <= row["total_gb"] for row in rows)
    assert "estimated memory per device" in notes[1]
