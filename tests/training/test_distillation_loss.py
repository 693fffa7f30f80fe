"""The loss of distillation: of few answers, and of more than are looked at together."""

import pytest
import torch
from torch import nn

from crosslmm.limits import LOGITS_TOGETHER
from crosslmm.training.distillation_loss import Predictions, distillation_terms

# A head that gives what it is given.
SAME = nn.Linear(2, 2, bias=False).requires_grad_(False)
nn.init.eye_(SAME.weight)


def test_nothing_is_left_to_learn_from_oneself() -> None:
    head = nn.Linear(8, 7, bias=False).requires_grad_(False)
    own = Predictions(head, torch.randn(3, 8), torch.randn(4, 8))
    terms = distillation_terms(own, own, torch.tensor([1, 2, 3]), 2.0)
    assert float(terms["divergence"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["hidden"]) == pytest.approx(0, abs=1e-6)


def test_the_divergence_is_the_teachers_from_the_students() -> None:
    teacher, student = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    merged = torch.ones(1, 2)
    terms = distillation_terms(
        Predictions(SAME, student, merged), Predictions(SAME, teacher, -merged),
        torch.tensor([0]), 2.0,
    )  # fmt: skip
    p, q = teacher.div(2).softmax(-1), student.div(2).softmax(-1)
    assert float(terms["divergence"]) == pytest.approx(4 * float((p * (p / q).log()).sum()))
    assert float(terms["hidden"]) == pytest.approx(2)


def test_many_answers_are_the_sum_of_their_parts() -> None:
    torch.manual_seed(0)
    count, head = 2 * LOGITS_TOGETHER + 3, nn.Linear(8, 20, bias=False)
    teacher = Predictions(head, torch.randn(count, 8), torch.randn(5, 8))
    answer, merged = torch.arange(count) % 20, torch.randn(5, 8)
    together = torch.randn(count, 8, requires_grad=True)
    apart = together.detach().clone().requires_grad_()

    def of(states: torch.Tensor, part: slice) -> torch.Tensor:
        terms = distillation_terms(
            Predictions(head, states[part], merged),
            Predictions(head, teacher.states[part], teacher.merged), answer[part], 1.0,
        )  # fmt: skip
        return terms["divergence"] + 3 * terms["answer"]

    total = of(together, slice(None))
    single = torch.stack([of(apart, slice(index, index + 1)) for index in range(count)]).sum()
    torch.testing.assert_close(total, single)
    total.backward()
    single.backward()
    torch.testing.assert_close(together.grad, apart.grad)


def test_a_step_without_answers_has_a_loss_of_zero_with_a_gradient() -> None:
    states, head = torch.zeros(0, 8, requires_grad=True), nn.Linear(8, 20, bias=False)
    own = Predictions(head, states, torch.ones(1, 8))
    terms = distillation_terms(own, own, torch.zeros(0, dtype=torch.long), 1.0)
    loss = terms["divergence"] + terms["answer"]
    loss.backward()
    assert loss.item() == 0
    assert states.grad is not None
