"""The memory of a step of distillation against the allocator's own record."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from crosslmm.cost.distillation import DistillMemory, distill_memory
from crosslmm.cost.shape import PUBLISHED, ModelShape
from crosslmm.training.distillation_loss import Predictions, distillation_terms
from crosslmm.training.stages import freeze
from crosslmm.training.student import Encoded, Rows, Student, encode_once, make_teacher, read_video
from tests.support.tiny import text_config, tiny_model, vision_config

SHAPES: dict[str, dict[str, Any]] = {
    "video": {"vocabulary": 261, "frames": 16, "answer": 8},
    "words": {"vocabulary": 20000, "frames": 2, "answer": 64},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_step_takes_what_is_counted(kind: str, checkpointing: bool, dtype: str) -> None:
    given = SHAPES[kind]
    frames, answer, text = given["frames"], given["answer"], 16
    model = tiny_model(
        gates=False,
        vision=vision_config(
            hidden_size=96, intermediate_size=200, num_hidden_layers=3, image_size=98, patch_size=7
        ),
        text=text_config(
            hidden_size=128, intermediate_size=384, num_hidden_layers=8,
            num_key_value_heads=1, vocab_size=given["vocabulary"],
        ),
        cross_attention_interval=4, tokens_per_frame=49, projector_order="project_first",
    )  # fmt: skip
    model.to(getattr(torch, dtype))
    teacher = make_teacher(model)
    teacher.requires_grad_(False)
    freeze(model, "distill")
    student = Student(model)
    if checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False})
    student.train()
    teacher.model.frames_per_chunk = 4
    ids = torch.cat([torch.full((1, frames * 49), 4), torch.full((1, text + answer), 20)], dim=1)
    labels = torch.full((1, answer + 1), 20)
    labels[:, 0] = -100
    pixels = torch.rand(1, frames, 3, 98, 98).to(model.dtype)

    @torch.no_grad()
    def teach(videos: Encoded, rows: Rows) -> Predictions:
        known = read_video(teacher.model, rows, videos.visual(49))
        merged = videos.means(rows.visual(known), 49, 9)
        return Predictions(teacher.lm_head, rows.answers(known), merged)

    def step() -> None:
        videos = encode_once(teacher.model, pixels, torch.ones(1, frames).bool(), (49, 9), full=49)
        merged = torch.tensor([frames])
        full = Rows.of(ids, torch.ones_like(ids), labels, video_token=4, merged=merged * 49)
        rows, target = full.keep(merged * 9), teach(videos, full)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            states = student(rows, videos.visual(9)).float()
        own = Predictions(model.lm_head, rows.answers(states), rows.visual(states))
        terms = distillation_terms(own, target, rows.answer_tokens, 1.0)
        (terms["divergence"] + terms["hidden"]).backward()

    step()  # the gradients are there from the first step on
    peak = _peak_bytes(step)
    shape = replace(ModelShape.from_config(json.loads(model.config.to_json_string())), dtype=dtype)
    counted = distill_memory(
        shape, frames=frames, student_tokens=9, answer_tokens=answer, text_tokens=text,
        checkpointing=checkpointing, frames_per_chunk=4,
    )  # fmt: skip
    above = counted.total - counted.frozen - counted.trained
    assert above == pytest.approx(peak, rel=0.2)


def _peak_bytes(function: Any) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    alive = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def _of_7b(**options: Any) -> DistillMemory:
    shape = PUBLISHED["llava-hf/llava-onevision-qwen2-7b-ov-hf"]
    return distill_memory(shape, frames=32, student_tokens=49, answer_tokens=128, **options)


def test_a_model_of_7_billion_parameters_fits() -> None:
    assert _of_7b(quantization="4bit").total < 20e9, "one GPU of 24 GB"
    assert _of_7b(batch=4).total < 60e9, "one GPU of 80 GB, unquantized"
