"""The trainable parameters of the paper's two stages, and their learning rates.

`align`: the projector and V2V. `tune`: everything, T2V included. Of what the two branches share,
the norm before both, the norm of the features and, with `cross_kv="shared"`, the keys and values, the
paper says nothing; they are trained in `align` too, since V2V reads through them there and T2V is still
closed; except the last layer's norm, as below. `distill`, which is not the paper's: the cross-attention
alone, T2V included.

Weights without influence on the loss are frozen in both: the encoder's layers above the one that is
read, and V2V after the *last* decoder layer (the seventh in the paper's models), as nothing reads
the visual positions after it. Frozen with its gate closed, that branch is not computed either, and
in `align` nothing reads the norm before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crosslmm.checkpoints.headers import PARTS, Branch, PartName, parse_gate, part_of
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.recipe import Recipe, Stage

_ALIGNED: frozenset[PartName] = frozenset(
    {"projector", "shared keys and values", "cross-attention norms", "V2V cross-attention"}
)


_CROSS_ATTENTION: frozenset[PartName] = _ALIGNED - {"projector"} | {"T2V cross-attention"}
_TRAINED: dict[Stage, frozenset[PartName]] = {
    "align": _ALIGNED,
    "tune": frozenset(PARTS),
    "distill": _CROSS_ATTENTION,
}


@dataclass(frozen=True)
class TrainablePart:
    """A part of the model, and how many of its parameters are trainable."""

    name: PartName
    trained: int
    total: int


def trainable_parts(stage: Stage) -> frozenset[PartName]:
    return _TRAINED[stage]


def freeze(model: CrossLMMForConditionalGeneration, stage: Stage) -> None:
    """Make exactly the stage's parameters trainable."""
    trainable = trainable_parts(stage)
    last_norm = f"cross_attention_layers.{_last_layer(model.config)}.norm."
    for name, parameter in model.named_parameters():
        idle = stage == "align" and last_norm in name  # it serves neither branch there
        parameter.requires_grad_(part_of(name) in trainable and not idle)
    finalize_trainable(model, model.config)


def finalize_trainable(model: nn.Module, config: CrossLMMConfig) -> None:
    """Freeze what has no influence on the loss and make the other trainable parameters float32; frozen
    ones stay as stored.

    Small steps vanish in bfloat16: 1e-5 added to a gate of 0.1 is 0.1 again.
    """
    unread = _unread(config)
    for name, parameter in model.named_parameters():
        if unread.search(name):
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            parameter.data = parameter.data.float()


def _unread(config: CrossLMMConfig) -> re.Pattern[str]:
    """The names of parameters without any influence on the loss."""
    names = [r"vision_tower\.(post_layernorm|head)"]
    above = range(config.vision_layers, int(config.vision.num_hidden_layers))
    names += [rf"vision_tower\.encoder\.layers\.{layer}" for layer in above]
    last = _last_layer(config)
    names.append(rf"cross_attention_layers\.{last}\.(modules_to_save\.\w+\.)?v2v")
    return re.compile("|".join(rf"\b{name}\." for name in names))


def _last_layer(config: CrossLMMConfig) -> int:
    return int(config.text.num_hidden_layers) - 1


def summarise(model: nn.Module) -> list[TrainablePart]:
    """Every part with its trained and total parameter counts; PEFT's frozen copies not counted."""
    trained: dict[PartName, int] = {}
    total: dict[PartName, int] = {}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        part = part_of(name)
        count = _count(parameter)
        total[part] = total.get(part, 0) + count
        trained[part] = trained.get(part, 0) + count * parameter.requires_grad
    return [TrainablePart(part, trained[part], total[part]) for part in dict.fromkeys(total)]


def group_names(model: nn.Module, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every trainable parameter, by its name.

    Biases, norms and gates are not decayed.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate: float | None = None
        if name.endswith(".gate"):
            rate = recipe.gate_learning_rate
        elif part_of(name) == "vision encoder":
            rate = recipe.vision_learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups[name] = (recipe.learning_rate if rate is None else rate, decay)
    return groups


def parameter_groups(
    model: nn.Module, groups: dict[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """The groups of `group_names` for an optimizer, from the model or a wrapped one."""
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = name.replace("_fsdp_wrapped_module.", "").removeprefix("module.")
            members.setdefault(groups[plain], []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in sorted(members.items(), key=lambda item: item[0])
    ]


def gate_values(model: nn.Module) -> dict[str, list[float]]:
    """tanh of every gate, from the first layer to the last: {"v2v": […], "t2v": […]}."""
    values: dict[str, list[float]] = {"v2v": [], "t2v": []}
    for branch, gate in _gates(model):
        values[branch].append(round(float(torch.tanh(gate.float())), 6))
    return values


def _gates(model: nn.Module) -> Iterator[tuple[Branch, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if gate := parse_gate(name):
            full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            if full.numel():  # DeepSpeed leaves an empty one where it keeps the weight elsewhere
                yield gate[1], full.detach()


def _count(parameter: torch.Tensor) -> int:
    # bitsandbytes packs two 4-bit weights into a byte.
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()
