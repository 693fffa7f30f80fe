"""The demo's optimizer: its steps are those of torch's Muon, and it resumes."""

import copy
from collections.abc import Callable

import pytest
import torch

from crosslmm.demo.encoder import PatchClassifier
from crosslmm.demo.loss import AnswerLoss
from crosslmm.demo.optimizer import MuonAdamW, Rates, make_optimizer
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration


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
