"""The students of `benchmarks.distillation`: a teacher's weights, and what of them an arm trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from benchmarks.distillation_arms import Arm
from benchmarks.packed_clips import POOLED, Clip, pack, states_of, visual_tokens
from crosslmm.checkpoints import loading
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.demo.plain_attention import PLAIN
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration

_RIDGE = 1e-3  # of the mean variance of a feature


def load_student(teacher: Path, *, kv: str = "per_layer", every: int | None = None) -> Any:
    """The teacher, frozen; with other keys and values or another interval of the cross-attention than
    its file has, that of a new model."""
    model: Any = loading.load_model(teacher, device=torch.device("cpu"), dtype=torch.float32)
    every = every or model.config.cross_attention_interval
    if (kv, every) != (model.config.cross_kv, model.config.cross_attention_interval):
        weights = model.state_dict()
        if every != model.config.cross_attention_interval:
            weights = {n: w for n, w in weights.items() if "cross_attention_layers" not in n}
        changed = {"cross_kv": kv, "cross_attention_interval": every}
        if kv == "shared":
            changed["t2v_cache"] = "features"
        model = CrossLMMForConditionalGeneration(
            CrossLMMConfig.from_dict(model.config.to_dict() | changed)
        )
        model.load_state_dict(weights, strict=False)
    model.set_attn_implementation(PLAIN)
    return model.requires_grad_(False).eval()


def build_student(teacher: Path, arm: Arm, seed: int, clips: Sequence[Clip] = ()) -> Any:
    """A student before its training; what an arm trains asks for gradients.

    clips: unlabelled, of which a warm start learns; not needed otherwise.
    """
    torch.manual_seed(seed)
    model = load_student(teacher, kv=arm.kv, every=arm.every)
    model.config.v2v_scope = arm.scope
    if arm.fresh:
        _init_cross_attention(model)
    if arm.warm:
        warm_start(model, clips, gate=arm.warm)
    for layer in model.model.cross_attention_layers.values() if arm.joint else ():
        if arm.joint == "module":
            layer.t2v = layer.v2v
        else:
            layer.t2v.gate = layer.v2v.gate
    if arm.lora:
        options = LoraConfig(
            r=arm.lora, lora_alpha=2 * arm.lora, target_modules=r".*self_attn\.[qv]_proj"
        )
        inject_adapter_in_model(options, model.model.language_model)
    last = int(model.config.text.num_hidden_layers) - 1
    for name, weight in model.named_parameters():
        in_branch = any(f".{branch}." in name for branch in arm.branches)
        common = bool(arm.branches) and ("feature_norm" in name or "cross_attention" in name)
        common = common and ".v2v." not in name and ".t2v." not in name
        # Nothing reads what V2V adds after the last layer, but where T2V is the same.
        unread = f"cross_attention_layers.{last}.v2v." in name
        unread &= arm.joint != "module" and not (arm.joint and name.endswith(".gate"))
        weight.requires_grad_(("lora_" in name or in_branch or common) and not unread)
    return model


def _init_cross_attention(model: Any) -> None:
    for name, module in model.model.named_modules():
        if not name.startswith(("cross_attention", "feature_norm")):
            continue
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(getattr(module, "weight", None), nn.Parameter):
            nn.init.ones_(module.weight)


@torch.no_grad()
def warm_start(model: Any, clips: Sequence[Clip], *, gate: float) -> None:
    """Let each branch begin as the self-attention of the decoder layer that follows it (of the last
    layer, its own): that layer's queries and output, and keys and values of the features that come
    closest to those which it has of the projected visual tokens. Ridge regression, in closed form.

    gate: of all branches, before the tanh.
    """
    decoder = model.model.language_model.layers
    inputs: dict[int, torch.Tensor] = {}
    hooks = [
        layer.input_layernorm.register_forward_hook(
            lambda _module, _inputs, output, index=index: inputs.__setitem__(index, output)
        )
        for index, layer in enumerate(decoder)
    ]
    full = clips[0].full
    rows = pack(clips, [[] for _ in clips], full, model.config)
    states_of(model, rows, visual_tokens(model, clips, full, POOLED))
    for hook in hooks:
        hook.remove()
    features = model.model.prepare_features(torch.stack([clip.features.float() for clip in clips]))
    tokens = pool_squares(features, full)
    for index, layer in model.model.cross_attention_layers.items():
        owner = min(int(index) + 1, len(decoder) - 1)
        attention = decoder[owner].self_attn
        read = inputs[owner][rows.is_visual]
        layer.norm.weight.copy_(decoder[owner].input_layernorm.weight)
        for branch in (layer.v2v, layer.t2v):
            branch.q_proj.weight.copy_(attention.q_proj.weight)
            branch.o_proj.weight.copy_(attention.o_proj.weight)
            for name in ("k_proj", "v_proj"):
                target = read @ getattr(attention, name).weight.T
                getattr(branch, name).weight.copy_(fit_ridge(tokens, target))
            branch.gate.fill_(gate)


def pool_squares(features: torch.Tensor, tokens: int) -> torch.Tensor:
    """(B, T, N, D) → (B·T·tokens, D), means of the squares that tokens are projected of."""
    grid = features.flatten(0, 1).transpose(1, 2)
    side = round(grid.shape[-1] ** 0.5)
    pooled = nn.functional.adaptive_avg_pool2d(grid.unflatten(-1, (side, side)), round(tokens**0.5))
    return pooled.flatten(2).transpose(1, 2).flatten(0, 1)


def fit_ridge(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N, D), (N, K) → the weight (K, D) of least squared error, its length penalized."""
    gram = inputs.T @ inputs
    penalty = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram + penalty, inputs.T @ targets).T
