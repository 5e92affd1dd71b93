"""Outer algorithms: each fills the gradients of the parameters for one optimizer step.

Pooled multi-task training is the baseline. First-order MAML (Finn et al. 2017) learns a prompt that a few gradient
steps adapt to a domain. All read the same number of lists a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch

from reranker.training.tasks import Episode, TaskSampler

PROMPT = "prompt"
Values = Mapping[str, torch.Tensor]


class LossPart(Protocol):
    """Some episodes, read."""

    @property
    def loss(self) -> torch.Tensor:
        """Summed over the episodes, a graph of its own."""


class EpisodeLoss(Protocol):
    """What the algorithms need of `TorchLoss`."""

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[LossPart]:
        """The episodes in groups, each read once."""


class OuterAlgorithm(Protocol):
    """One way to learn a prompt."""

    name: str

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        """Fills `.grad` of the leaves in `values` for a 0-based step; returns the mean loss of the query lists."""


class Pooled:
    """The mean loss over lists of all domains; under a loss that adapts users' contexts this is CAVIA."""

    def __init__(self, loss: EpisodeLoss, sampler: TaskSampler, lists: int, name: str = "pooled") -> None:
        self.name = name
        self._loss, self._sampler, self._lists = loss, sampler, lists

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        return backward(self._loss, values, self._sampler.batch(step, self._lists))


class FOMAML:
    """The query loss after inner steps on the support lists, its gradient taken at the adapted prompt."""

    name = "fomaml"

    def __init__(self, loss: EpisodeLoss, sampler: TaskSampler, lists: int, inner_steps: int, rate: float) -> None:
        self._loss, self._sampler, self._lists = loss, sampler, lists
        self._inner_steps, self._rate = inner_steps, rate

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        _, support, query = self._sampler.task(step, max(1, self._lists // (self._inner_steps + 1)))
        adapted = adapt(self._loss, values, support, self._inner_steps, self._rate).requires_grad_()
        loss = backward(self._loss, {**values, PROMPT: adapted}, query)
        values[PROMPT].grad = adapted.grad
        return loss


def backward(loss: EpisodeLoss, values: Values, episodes: Sequence[Episode]) -> float:
    """Adds the gradient of the episodes' mean loss to the leaves; returns that loss."""
    total = 0.0
    for part in loss.parts(values, episodes):
        mean = part.loss / len(episodes)
        torch.autograd.backward(mean)
        total += mean.item()
    return total


def adapt(loss: EpisodeLoss, values: Values, support: Sequence[Episode], steps: int, rate: float) -> torch.Tensor:
    """The (k, dim) prompt after gradient steps on the support lists, detached.

    A step is `rate` times the prompt's root mean square times the gradient scaled to unit root mean square, so that one
    step size means the same for every model and task.
    """
    start = values[PROMPT].detach()
    prompt = start.clone()
    for _ in range(steps):
        current = prompt.clone().requires_grad_()
        gradient = torch.zeros_like(prompt)
        for part in loss.parts({**values, PROMPT: current}, support):
            gradient += torch.autograd.grad(part.loss / len(support), current)[0]
        prompt = prompt - rate * root_mean_square(start) * gradient / root_mean_square(gradient).clamp_min(1e-12)
    return prompt


def root_mean_square(values: torch.Tensor) -> torch.Tensor:
    """Of all elements, detached."""
    return values.detach().square().mean().sqrt()


def algorithm_named(
    name: str, loss: EpisodeLoss, sampler: TaskSampler, lists: int, inner_steps: int, rate: float
) -> OuterAlgorithm:
    """One of "pooled", "cavia", "fomaml"."""
    if name == "pooled":
        return Pooled(loss, sampler, lists)
    if name == "cavia":  # an inner step reads a history without candidates: about half a list
        return Pooled(loss, sampler, max(1, round(lists / (1 + inner_steps / 2))), name)
    return FOMAML(loss, sampler, lists, inner_steps, rate)
