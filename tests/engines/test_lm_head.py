"""The output head, against a float64 log-softmax."""

import pytest
import torch

from reranker.engines.lm_head import Head


def expected(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: float, cap: float | None
) -> torch.Tensor:
    logits = (hidden.double() @ weight.double().T + bias.double()) * scale
    return (logits if cap is None else cap * torch.tanh(logits / cap)).log_softmax(dim=-1)


@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 5.0)])
def test_log_probs(scale: float, cap: float | None) -> None:
    random = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(shape, generator=random) for shape in ((300, 16), (50, 16), (50,)))
    targets = torch.arange(300) % 50
    log_probs = expected(hidden, weight, bias, scale, cap)
    values = Head(weight, bias, scale=scale, softcap=cap).log_probs(hidden, targets)
    torch.testing.assert_close(values.double(), log_probs[torch.arange(300), targets], atol=1e-5, rtol=0)


def test_several_tokens_at_chosen_states() -> None:
    random = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn((4, 8), generator=random), torch.randn((20, 8), generator=random)
    reads, targets = torch.tensor([3, 0, 3]), torch.tensor([[1, 2], [3, 4], [5, 19]])
    log_probs = expected(hidden, weight, torch.zeros(20), 1.0, None)
    values = Head(weight).log_probs(hidden, targets, reads)
    torch.testing.assert_close(values.double(), log_probs[reads[:, None], targets], atol=1e-5, rtol=0)


def test_bfloat16_makes_no_ties() -> None:
    """Near-equal logits that bfloat16 cannot tell apart."""
    weight = torch.tensor([[1.0, 0.0], [1.0, 2.0**-7], [0.0, 0.0]]).bfloat16()
    hidden = torch.tensor([[8.0, 1.0], [8.0, 1.0]]).bfloat16()
    first, second = Head(weight).log_probs(hidden, torch.tensor([0, 1])).tolist()
    assert torch.nn.functional.linear(hidden, weight)[0, :2].unique().numel() == 1
    assert second - first == pytest.approx(2.0**-7, abs=1e-6)
