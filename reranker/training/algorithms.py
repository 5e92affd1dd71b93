"""Outer algorithms: each fills the gradients of the parameters for one optimizer step.

Pooled multi-task training is the honest baseline. Reptile (Nichol et al. 2018), first-order MAML and MAML (Finn et al.
2017) learn a prompt that a few gradient steps adapt; Meta-SGD (Li et al. 2017) learns the step sizes too. All read the
same number of lists a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from reranker.training.tasks import Episode, TaskSampler

PROMPT, RATE = "prompt", "inner_rate"
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
        """Fills `.grad` of the leaves in `values` for a 0-based step; returns the mean loss of the query lists.

        A leaf without a gradient is left alone by the optimizer: an algorithm without gradients moves it itself.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """What it must remember from step to step beside the leaves, for a checkpoint."""

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from a `state`."""


class _Memoryless:
    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Nothing to restore."""


class Pooled(_Memoryless):
    """The mean loss over lists of all domains; under a loss that adapts users' contexts this is CAVIA."""

    def __init__(self, loss: EpisodeLoss, sampler: TaskSampler, lists: int, name: str = "pooled") -> None:
        self.name = name
        self._loss, self._sampler, self._lists = loss, sampler, lists

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        return backward(self._loss, values, self._sampler.batch(step, self._lists))


class Reptile(_Memoryless):
    """Moves the prompt towards where a few steps on a domain's lists take it."""

    name = "reptile"

    def __init__(self, loss: EpisodeLoss, sampler: TaskSampler, lists: int, inner_steps: int, rate: float) -> None:
        self._loss, self._sampler, self._lists = loss, sampler, lists
        self._inner_steps, self._rate = inner_steps, rate

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        size = max(1, self._lists // (2 * (self._inner_steps + 1)))
        _, support, query = self._sampler.task(step, size * (self._inner_steps + 1))
        episodes = support + query
        fast = dict(values)
        per_step = -(-len(episodes) // (self._inner_steps + 1))
        total = 0.0
        for begin in range(0, len(episodes), per_step):
            part = episodes[begin : begin + per_step]
            leaf = fast[PROMPT].detach().requires_grad_()
            fast[PROMPT] = leaf
            total += backward(self._loss, fast, part) * len(part)
            assert leaf.grad is not None
            fast[PROMPT] = leaf.detach() - self._rate * root_mean_square(leaf) * _unit(leaf.grad)
        values[PROMPT].grad = (values[PROMPT] - fast[PROMPT]).detach()
        return total / len(episodes)


class MAML(_Memoryless):
    """The query loss after inner steps on the support lists, by first or second order.

    Args:
        second_order: differentiate through the inner steps; needs attention without a fused kernel.
    """

    def __init__(
        self,
        loss: EpisodeLoss,
        sampler: TaskSampler,
        lists: int,
        inner_steps: int,
        rate: float,
        *,
        second_order: bool,
    ) -> None:
        self.name = "maml" if second_order else "fomaml"
        self._loss, self._sampler, self._lists = loss, sampler, lists
        self._inner_steps, self._rate, self._second_order = inner_steps, rate, second_order

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        _, support, query = self._sampler.task(step, max(1, self._lists // (self._inner_steps + 1)))
        backend: Any = sdpa_kernel(SDPBackend.MATH) if self._second_order else nullcontext()
        with backend:
            adapted = adapt(self._loss, values, support, self._inner_steps, self._rate, second_order=self._second_order)
            leaf = adapted.detach().requires_grad_()
            loss = backward(self._loss, {**values, PROMPT: leaf}, query)
            torch.autograd.backward(adapted, leaf.grad)
        return loss


def backward(loss: EpisodeLoss, values: Values, episodes: Sequence[Episode]) -> float:
    """Adds the gradient of the episodes' mean loss to the leaves; returns that loss."""
    total = 0.0
    for part in loss.parts(values, episodes):
        mean = part.loss / len(episodes)
        torch.autograd.backward(mean)
        total += mean.item()
    return total


def adapt(
    loss: EpisodeLoss,
    values: Values,
    support: Sequence[Episode],
    steps: int,
    rate: float,
    *,
    second_order: bool = False,
) -> torch.Tensor:
    """The prompt after gradient steps on the support lists, with a graph back to the parameters.

    A step is `rate` (or the learned `inner_rate`, by coordinate) times the prompt's root mean square times the gradient
    scaled to unit root mean square, so that one step size means the same for every model and task.

    Args:
        second_order: keep the graph of the gradients too.
    """
    prompt = values[PROMPT]
    for _ in range(steps):
        current = prompt if second_order else prompt.detach().requires_grad_()
        gradient = torch.zeros_like(prompt)
        for part in loss.parts({**values, PROMPT: current}, support):
            mean = part.loss / len(support)
            gradient = gradient + torch.autograd.grad(mean, current, create_graph=second_order)[0]
        prompt = prompt - values.get(RATE, rate) * root_mean_square(values[PROMPT]).detach() * _unit(gradient)
    return prompt


def root_mean_square(values: torch.Tensor) -> torch.Tensor:
    """Of all elements, detached."""
    return values.detach().square().mean().sqrt()


def _unit(gradient: torch.Tensor) -> torch.Tensor:
    return gradient / gradient.square().mean().sqrt().clamp_min(1e-12)


def algorithm_named(
    name: str, loss: EpisodeLoss, sampler: TaskSampler, lists: int, inner_steps: int, rate: float
) -> OuterAlgorithm:
    """One of "pooled", "cavia", "reptile", "fomaml", "maml"."""
    if name == "pooled":
        return Pooled(loss, sampler, lists)
    if name == "cavia":  # an inner step reads a history without candidates: about half a list
        return Pooled(loss, sampler, max(1, round(lists / (1 + inner_steps / 2))), name)
    if name == "reptile":
        return Reptile(loss, sampler, lists, inner_steps, rate)
    return MAML(loss, sampler, lists, inner_steps, rate, second_order=name == "maml")
