"""What training minimises: how far utilities are from what was chosen. One list a row, shorter lists masked."""

from collections.abc import Callable

import torch
from torch.nn import functional

Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(utilities (lists, candidates), chosen (same, bool), present (same, bool)) -> (lists,) losses."""

_ABSENT = -1e9


def conditional_logit(utilities: torch.Tensor, chosen: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """−log P(chosen | list), summed over the choices of a list (McFadden 1974), in nats."""
    log_p = utilities.masked_fill(~present, _ABSENT).log_softmax(dim=-1)
    return -(log_p * chosen).sum(dim=-1)


def bce(utilities: torch.Tensor, chosen: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of a list's candidates, the list's mean utility taken out: only order can matter."""
    count = present.sum(dim=-1, keepdim=True)
    centred = utilities - (utilities * present).sum(dim=-1, keepdim=True) / count
    losses = functional.binary_cross_entropy_with_logits(centred, chosen.to(centred), reduction="none")
    return (losses * present).sum(dim=-1) / count[:, 0]


def lambdarank(utilities: torch.Tensor, chosen: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Σ |ΔNDCG| · log(1 + exp(u_j − u_i)) over pairs of a chosen i and another j (Burges 2010)."""
    with torch.no_grad():
        masked = utilities.masked_fill(~present, _ABSENT)
        ranks = masked.argsort(dim=-1, descending=True).argsort(dim=-1)
        discounts = 1.0 / torch.log2(ranks.to(utilities) + 2.0)
        places = torch.arange(utilities.shape[-1], device=utilities.device)
        ideal = 1.0 / torch.log2(places.to(utilities) + 2.0)
        best = (ideal * (places < chosen.sum(dim=-1, keepdim=True))).sum(dim=-1)
        delta = (discounts[:, :, None] - discounts[:, None, :]).abs() / best[:, None, None]
        pairs = chosen[:, :, None] & (present & ~chosen)[:, None, :]
    losses = functional.softplus(utilities[:, None, :] - utilities[:, :, None])
    return (losses * delta * pairs).sum(dim=(-2, -1))


def plackett_luce(samples: int, generator: torch.Generator | None = None) -> Objective:
    """REINFORCE on NDCG of rankings drawn from a Plackett-Luce model, with the samples' mean as the baseline.

    The value is −(expected NDCG) up to a constant gradient-free part; its gradient is the score-function estimate.

    Args:
        samples: rankings drawn a list; at least 2.
        generator: of the draws, on the CPU: the same for a model on any device.
    """

    def loss(utilities: torch.Tensor, chosen: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        masked = utilities.masked_fill(~present, _ABSENT)
        noise = torch.rand((samples, *utilities.shape), generator=generator).to(utilities.device)
        gumbel = -torch.log(-torch.log(noise.clamp_(1e-9, 1 - 1e-7)))
        order = (masked.detach() + gumbel).argsort(dim=-1, descending=True)  # a ranking a sample (Gumbel top-k)
        ranked = masked.expand_as(order).gather(-1, order)
        remaining = ranked.flip(-1).logcumsumexp(dim=-1).flip(-1)
        there = present.expand_as(order).gather(-1, order)
        log_p = ((ranked - remaining) * there).sum(dim=-1)  # (samples, lists)
        discounts = 1.0 / torch.log2(torch.arange(order.shape[-1], device=order.device).to(masked) + 2.0)
        gains = (chosen.expand_as(order).gather(-1, order) * discounts).sum(dim=-1)
        ideal = discounts.cumsum(0)[chosen.sum(dim=-1) - 1]
        ndcg = gains / ideal
        advantage = (ndcg - ndcg.mean(dim=0)) * samples / (samples - 1)  # leave-one-out baseline
        surrogate = -(advantage.detach() * log_p).mean(dim=0)
        return surrogate - surrogate.detach() - ndcg.mean(dim=0)

    return loss


def objective_named(name: str, samples: int = 8, generator: torch.Generator | None = None) -> Objective:
    """One of "conditional_logit", "bce", "lambdarank", "plackett_luce"."""
    known: dict[str, Objective] = {
        "conditional_logit": conditional_logit,
        "bce": bce,
        "lambdarank": lambdarank,
        "plackett_luce": plackett_luce(samples, generator),
    }
    return known[name]
