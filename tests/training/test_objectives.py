"""Objectives against values by hand."""

import itertools
import math

import pytest
import torch

from reranker.training.objectives import Objective, bce, conditional_logit, lambdarank, objective_named, plackett_luce

NAMES = ["conditional_logit", "bce", "lambdarank", "plackett_luce"]


def one_list(utilities: list[float], chosen: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values = torch.tensor([utilities], dtype=torch.float64, requires_grad=True)
    flags = torch.zeros(values.shape, dtype=torch.bool)
    flags[0, chosen] = True
    return values, flags, torch.ones_like(flags)


def test_conditional_logit_by_hand() -> None:
    loss = conditional_logit(*one_list([math.log(2), 0.0, 0.0], 0))
    assert loss.item() == pytest.approx(math.log(2))


def test_bce_by_hand() -> None:
    # Centred: 1 and -1, the first chosen: both terms are log(1 + e^-1).
    assert bce(*one_list([5.0, 3.0], 0)).item() == pytest.approx(math.log1p(math.exp(-1)))


def test_lambdarank_by_hand() -> None:
    # The chosen one is second of two: |ΔNDCG| = 1 − 1/log2(3).
    loss = lambdarank(*one_list([1.0, 0.0], 1))
    assert loss.item() == pytest.approx((1 - 1 / math.log2(3)) * math.log1p(math.exp(1)))


@pytest.mark.parametrize("name", NAMES)
def test_masked_candidates_count_for_nothing(name: str) -> None:
    def gradient(values: list[float], present: list[bool]) -> list[float]:
        objective = objective_named(name, generator=torch.Generator().manual_seed(0))
        utilities, chosen, there = one_list(values, 0)
        there[0] = torch.tensor(present)
        torch.autograd.backward(objective(utilities, chosen, there).sum())
        assert utilities.grad is not None
        return [float(one) for one in utilities.grad[0]]

    masked = gradient([0.3, 0.1, 50.0], [True, True, False])
    assert masked[2] == 0.0
    if name != "plackett_luce":  # which draws other noise for other shapes
        assert masked[:2] == pytest.approx(gradient([0.3, 0.1], [True, True]))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_raise_the_chosen(name: str) -> None:
    objective: Objective = objective_named(name, samples=64, generator=torch.Generator().manual_seed(0))
    utilities, chosen, present = one_list([0.0, 0.2, -0.1], 2)
    torch.autograd.backward(objective(utilities, chosen, present).sum())
    assert utilities.grad is not None
    assert int(utilities.grad[0].argmin()) == 2


def test_plackett_luce_estimates_the_gradient_of_expected_ndcg() -> None:
    def expected(values: torch.Tensor) -> torch.Tensor:
        """Over all 6 rankings; the item 0 is the chosen one."""
        total = values.new_zeros(())
        for order in itertools.permutations(range(3)):
            remaining = values[list(order)]
            log_p = sum((remaining[place] - remaining[place:].logsumexp(0) for place in range(3)), values.new_zeros(()))
            total = total + log_p.exp() / math.log2(order.index(0) + 2)
        return total

    exact = torch.tensor([0.2, -0.3, 0.4], dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(-expected(exact))
    utilities, chosen, present = one_list([0.2, -0.3, 0.4], 0)
    loss = plackett_luce(100_000, torch.Generator().manual_seed(0))(utilities, chosen, present)
    torch.autograd.backward(loss.sum())
    assert exact.grad is not None and utilities.grad is not None
    assert loss.item() == pytest.approx(-expected(exact).item(), abs=5e-3)
    torch.testing.assert_close(utilities.grad[0], exact.grad, atol=5e-3, rtol=0)
