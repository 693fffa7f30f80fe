"""The analytic cost against torch's own FLOP counter, real parameters and real allocations."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop, sdpa_flop_count
from transformers import AutoConfig, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

import crosslmm
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cost import (
    RECIPES,
    LanguageShape,
    ModelShape,
    VisionShape,
    memory_needed,
    prefill_macs,
    token_macs,
    weight_parts,
)
from crosslmm.cost.merging import COUNTED, merging_macs
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.merging import MERGERS, TokenBudget, merge_tokens
from crosslmm.options import V2VScope
from tests.support.counting import MIDDLE, shape_of
from tests.support.tiny import text_config, tiny_config, tiny_model, vision_config

TEXT = 11


VIDEO_TOKEN = tiny_config().video_token_id


def inputs(
    model: Any, *, frames: int, budget: TokenBudget, batch: int = 1
) -> dict[str, torch.Tensor]:
    """A prompt of TEXT text tokens with the video after the second."""
    places = budget.count(frames) + int(model.config.video_newline)
    ids = torch.full((batch, places + TEXT), 20)
    ids[:, 2 : 2 + places] = VIDEO_TOKEN
    side = model.config.vision.image_size
    return {"input_ids": ids, "pixel_values_videos": torch.rand(batch, frames, 3, side, side)}


def counter() -> FlopCounterMode:
    """torch's counter, told of three kinds of kernels that it does not know.

    The CPU's fused attention counts by torch's own rule for the GPU's. A quantized linear layer
    counts as the plain one that it stands for, distances as the products that they are made from.
    """

    def fused(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def four_bit(a: Any, b: Any, shape: Any, *args: Any, **kwargs: Any) -> int:
        return mm_flop((a[:-1].numel(), a[-1]), shape[::-1])

    def eight_bit(a: Any, quantized_a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return mm_flop(a, (b[1], b[0]))

    def distances(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(a) * b[-2]

    known: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused,
        torch.ops.aten._cdist_forward: distances,  # of up to 25 vectors; others are not seen
    }
    if hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
        known[torch.ops.bitsandbytes.gemm_4bit] = four_bit
        known[torch.ops.bitsandbytes.gemv_4bit] = four_bit
        known[torch.ops.bitsandbytes.int8_mixed_scaled_mm] = eight_bit
    return FlopCounterMode(display=False, custom_mapping=known)


def counted(function: Any, **arguments: Any) -> tuple[int, Any]:
    """MACs of a call by torch's counter, and its result."""
    with torch.no_grad(), counter() as count:
        result = function(**arguments)
    return count.get_total_flops() // 2, result


def check(
    model: Any, shape: ModelShape, *, frames: int, budget: int | TokenBudget, batch: int = 1
) -> None:
    """Prefill and the first decoding step within 1 %."""
    if isinstance(budget, int):
        budget = TokenBudget(budget)
    given = inputs(model, frames=frames, budget=budget, batch=batch)
    options: dict[str, Any] = {
        "frames": frames,
        "budget": budget,
        "text_tokens": TEXT,
        "batch": batch,
    }
    measured, output = counted(model, **given, merge=budget.merge, use_cache=True, logits_to_keep=1)
    assert prefill_macs(shape, **options).total == pytest.approx(measured, rel=0.01)
    step = {"input_ids": given["input_ids"][:, -1:], "past_key_values": output.past_key_values}
    measured, _ = counted(model, **step, use_cache=True)
    assert token_macs(shape, **options).total == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("scope", get_args(V2VScope))
@pytest.mark.parametrize(("frames", "tokens"), [(3, 4), (1, 1), (5, 25)])
def test_tiny_model_costs_what_the_counter_says(scope: str, frames: int, tokens: int) -> None:
    model = tiny_model(v2v_scope=scope)
    check(model, shape_of(model), frames=frames, budget=tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {"v2v_scope": "video"},
        {"v2v_scope": "frame", "t2v_cache": "projected"},
        {"v2v_scope": "past"},
        {"v2v_scope": "member"},
        {"t2v_frames": 2},
        {"t2v_frames": 2, "t2v_cache": "projected"},
        {"projector_order": "project_first", "video_newline": True, "projector_bias": False},
        {"vision_feature_layer": -2},
        {"cross_kv": "shared"},
        {"cross_kv": "shared", "v2v_scope": "frame", "t2v_frames": 2},
    ],
    ids=lambda changes: ",".join(map(str, changes.values())),
)
@pytest.mark.parametrize("batch", [1, 2])
def test_middle_model_costs_what_the_counter_says(changes: dict[str, Any], batch: int) -> None:
    model = tiny_model(**MIDDLE | changes)
    check(model, shape_of(model), frames=6, budget=9, batch=batch)


@pytest.mark.parametrize("kind", ["per_layer", "shared"])
@pytest.mark.parametrize("frames", [None, 2])
def test_packed_features_cost_the_same(kind: str, frames: int | None) -> None:
    model = tiny_model(**MIDDLE | {"cross_kv": kind, "t2v_frames": frames})
    model.model.feature_bits = 8
    check(model, shape_of(model), frames=6, budget=9)


# Of UNEVEN ones the frames have unequal numbers, which the count with two of the scopes does not know.
UNEVEN = ("random", "tree", "pool")


MERGINGS = [(method, "video") for method in COUNTED if method != "pool"]
MERGINGS += [(method, "frame") for method in COUNTED if method not in UNEVEN]
MERGINGS += [("weighted", "past"), ("uniform", "past"), ("tree", "member"), ("folder", "member")]


@pytest.mark.parametrize(("method", "scope"), MERGINGS)
def test_merged_videos_cost_what_the_counter_says(method: str, scope: str) -> None:
    model = tiny_model(v2v_scope=scope, tokens_per_frame=25)
    batch = 2 if scope == "frame" else 1
    budgets = [TokenBudget(25, method, tokens_per_frame=9)]
    if method not in ("area", "weighted"):  # these need as many in each frame
        budgets.append(TokenBudget(25, method, keep=3))
    if method == "folder":
        budgets.append(TokenBudget(25, method, keep="11%"))
    for budget in budgets:
        check(model, shape_of(model), frames=4, budget=budget, batch=batch)


@pytest.mark.parametrize("keep", [3, 40])
def test_pool_costs_at_most_what_is_counted(keep: int) -> None:
    torch.manual_seed(0)
    tokens, budget = torch.randn(4, 25, 64), TokenBudget(25, "pool", keep=keep)
    for seen in (tokens, tokens[:1].expand(4, -1, -1)):  # whose pool is soon full, or never
        measured, _ = counted(merge_tokens, tokens=seen, budget=keep, method="pool")
        assert 0 < measured <= merging_macs(budget, frames=4, width=64)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_other_language_models(kind: str) -> None:
    model = tiny_model(text=text_config(kind, head_dim=32))
    check(model, shape_of(model), frames=3, budget=4)


def test_projecting_in_slices_costs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslmm.gated_attention.SLICE_BYTES", 0)
    model = tiny_model()
    check(model, shape_of(model), frames=3, budget=4)


def test_closed_gates_cost_nothing() -> None:
    model = tiny_model(gates=False).requires_grad_(False)
    shape = replace(shape_of(model), open_v2v=0, open_t2v=0)
    check(model, shape, frames=3, budget=4)
    macs = prefill_macs(shape, frames=3)
    assert macs.v2v_projection == macs.t2v_projection == macs.t2v_attention == 0


def test_some_gates_closed() -> None:
    model = tiny_model().requires_grad_(False)
    torch.nn.init.zeros_(next(iter(model.model.cross_attention_layers.values())).t2v.gate)
    check(model, replace(shape_of(model), open_t2v=1), frames=3, budget=4)


@pytest.mark.parametrize("changes", [{}, MIDDLE], ids=["tiny", "middle"])
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_models_cost_the_same(
    tmp_path: Path, changes: dict[str, Any], quantization: Any
) -> None:
    from crosslmm.checkpoints.loading import load_model

    tiny_model(**changes).save_pretrained(tmp_path)
    model = load_model(
        tmp_path,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        quantization=quantization,
    )
    shape = shape_of(model)
    parts = {part.name: part for part in weight_parts(shape, quantization=quantization)}
    # Before the first pass, which lays 4-bit weights out anew on some processors.
    stored = sum(_stored_bytes(module) for module in model.model.language_model.layers.modules())
    stored += model.model.language_model.norm.weight.nbytes
    assert parts["decoder"].bytes == pytest.approx(stored, rel=0.001)
    check(model, shape, frames=3, budget=4)


def _stored_bytes(module: torch.nn.Module) -> int:
    """A module's own parameters and bitsandbytes' scales beside them."""
    total = sum(parameter.nbytes for parameter in module.parameters(recurse=False))
    weight = getattr(module, "weight", None)
    if (scales := getattr(weight, "SCB", None)) is not None:
        total += scales.nbytes
    if (state := getattr(weight, "quant_state", None)) is not None:
        nested = state.state2
        tables = [state.absmax, state.code, nested.absmax, nested.code, state.offset]
        total += sum(table.nbytes for table in tables)
    return total


def test_peer_costs_what_the_counter_says() -> None:
    """transformers' own LLaVA-OneVision, as the peers are accounted."""
    config = LlavaOnevisionConfig(
        vision_config=vision_config(image_size=42),
        text_config=text_config(),
        video_token_index=VIDEO_TOKEN,
        vision_feature_layer=-1,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    shape = ModelShape.from_config(json.loads(config.to_json_string()))
    frames, tokens = 3, shape.tokens_per_frame
    assert tokens == 16  # 7 x 7 patches, pooled to 4 x 4
    ids = torch.full((1, frames * tokens + 1 + TEXT), 20)
    ids[:, 2 : 3 + frames * tokens] = VIDEO_TOKEN
    measured, output = counted(
        model,
        input_ids=ids,
        pixel_values_videos=torch.rand(1, frames, 3, 42, 42),
        use_cache=True,
        logits_to_keep=1,
    )
    expected = prefill_macs(shape, frames=frames, text_tokens=TEXT).total
    assert expected == pytest.approx(measured, rel=0.01)
    step = {"input_ids": ids[:, -1:], "past_key_values": output.past_key_values}
    measured, _ = counted(model, **step)
    expected = token_macs(shape, frames=frames, text_tokens=TEXT).total
    assert expected == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        MIDDLE,
        {"text": text_config("qwen3", head_dim=32)},
        {"text": text_config("llama", attention_bias=True, mlp_bias=True)},
        {"vision": vision_config(vision_use_head=True), "video_newline": True},
        {"text": text_config(tie_word_embeddings=False), "projector_bias": False},
        {"cross_kv": "shared", "text": text_config("qwen3", head_dim=32)},
    ],
)
def test_parameters_are_those_of_the_model(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    parts = {part.name: part.parameters for part in weight_parts(shape_of(model))}
    inner, language = model.model, model.model.language_model

    def count(*modules: Any) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    newline = 0 if inner.image_newline is None else inner.image_newline.numel()
    shared = [] if inner.cross_attention_kv is None else [inner.cross_attention_kv]
    assert parts == {
        "vision": count(inner.vision_tower),
        "projector": count(inner.multi_modal_projector) + newline,
        "decoder": count(language.layers, language.norm),
        "embeddings": count(language.embed_tokens),
        "head": 0 if model.config.tie_word_embeddings else count(model.lm_head),
        "cross-attention": count(inner.cross_attention_layers, inner.feature_norm, *shared),
    }


def test_defaults_left_out_of_a_configuration_are_the_librarys() -> None:
    for kind in ("qwen2", "qwen3", "llama", "mistral"):
        whole = AutoConfig.for_model(kind).to_dict()
        assert LanguageShape.from_config({"model_type": kind}) == LanguageShape.from_config(whole)
    whole = AutoConfig.for_model("siglip_vision_model").to_dict()
    assert VisionShape.from_config({}) == VisionShape.from_config(whole)
    for config in (CrossLMMConfig(), LlavaOnevisionConfig()):
        whole = json.loads(config.to_json_string())
        bare = ModelShape.from_config({"model_type": config.model_type})
        assert bare == ModelShape.from_config(whole)


def test_recipes_are_the_papers() -> None:
    assert ModelShape.from_config(CrossLMMConfig().to_dict()) == RECIPES["crosslmm-2b"]
    assert RECIPES["crosslmm-7b"].cross_layers == 7
    parameters = {
        name: sum(part.parameters for part in weight_parts(shape))
        for name, shape in RECIPES.items()
    }
    assert {name: round(count / 1e9, 1) for name, count in parameters.items()} == {
        "crosslmm-2b": 2.0,
        "crosslmm-7b": 8.4,
        "llava-onevision-0.5b": 0.9,
        "llava-onevision-7b": 8.0,
    }


def test_a_merging_that_is_not_counted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs all the same; only what needs its cost refuses it."""
    assert set(COUNTED) <= set(MERGERS)
    monkeypatch.setitem(MERGERS, "new", MERGERS["uniform"])
    assistant = crosslmm.load(checkpoint, merge="new", keep="50%")
    with pytest.raises(
        UsageError, match="what `merge` new takes is not counted; what area, weighted"
    ):
        assistant.most_frames()
    assert assistant.runtime.budget.count(4) == 8


def test_frames_that_t2v_chooses_bound_the_cost_of_a_token() -> None:
    shape = replace(RECIPES["crosslmm-7b"], t2v_frames=8)
    short, long = token_macs(shape, frames=8), token_macs(shape, frames=256)
    assert short.t2v_attention == long.t2v_attention
    assert short == token_macs(RECIPES["crosslmm-7b"], frames=8)
    needed = memory_needed(replace(shape, t2v_frames=200), frames=256)
    assert needed.activations >= needed.features * 200 // 256, "of which copies are read"


@pytest.mark.parametrize("scope", get_args(V2VScope))
def test_no_frames_are_counted_too(scope: V2VScope) -> None:
    shape = replace(RECIPES["crosslmm-2b"], v2v_scope=scope)
    needed = memory_needed(shape, frames=0, text_tokens=10)
    assert needed.features == 0 < needed.kv_cache


def test_refusals() -> None:
    shape = RECIPES["crosslmm-2b"]
    with pytest.raises(
        UsageError, match="`tokens_per_frame` 8 is not a perfect square from 1 to 729"
    ):
        prefill_macs(shape, frames=8, budget=TokenBudget(8))
    with pytest.raises(UsageError, match="float7"):
        memory_needed(shape, frames=8, dtype="float7")
    with pytest.raises(CheckpointError, match="'bert'"):
        ModelShape.from_config({"model_type": "bert"})
    with pytest.raises(CheckpointError, match="'gpt2'"):
        ModelShape.from_config({"model_type": "crosslmm", "text_config": {"model_type": "gpt2"}})
    with pytest.raises(CheckpointError, match="clip_vision_model"):
        ModelShape.from_config(
            {"model_type": "crosslmm", "vision_config": {"model_type": "clip_vision_model"}}
        )
