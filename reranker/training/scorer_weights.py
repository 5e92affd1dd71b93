"""Coefficients of the scorer, fitted in closed form beside the prompt, on the lists that were read last."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from reranker.fusion import ConditionalLogit
from reranker.training.tasks import Episode
from reranker.training.torch_loss import Part, Values, list_losses
from reranker.types import IntArray

_WINDOW_LISTS = 512
_RIDGE = 3.0  # of coefficients at the components' spread within a list; heavier, the loss was above that without LLM
_FOLDS = 10  # under coefficients of half of 80 lists, the same prompt had 1.97 or 2.12 nats, by which half was which


ReadList = dict[str, torch.Tensor]
"""What was read of a list: components (n_candidates, 3), baseline and chosen (n_candidates,)."""


class ListReader(Protocol):
    """Reads lists under a prompt: `TorchLoss`, `ContextReader`."""

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Part]:
        """The episodes in groups, each read once."""


class Recording:
    """A reader that remembers what it read.

    Attributes:
        window: the newest lists.
    """

    def __init__(self, reader: ListReader) -> None:
        self.window: list[ReadList] = []
        self._reader = reader

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Part]:
        """As the reader reads them."""
        for part in self._reader.parts(values, episodes):
            self.window += _read_lists(part)
            yield part
        del self.window[:-_WINDOW_LISTS]

    def fit(self, around: Sequence[float], baseline: bool) -> tuple[float, float, float]:
        """Those that fit the window best, as `fit_coefficients` has them."""
        return fit_coefficients(self.window, around, baseline)


def fit_coefficients(lists: Sequence[ReadList], around: Sequence[float], baseline: bool) -> tuple[float, float, float]:
    """Coefficients of sum, mean and gain that fit the lists best, near `around`.

    Args:
        lists: at least one.
        around: (3,) coefficients that the ridge pulls to.
        baseline: whether the baseline's log-odds stand in the utility; it has a weight of its own here, pulled to 1.
    """
    raw = torch.cat([one["components"] for one in lists]).numpy()
    offsets = torch.cat([one["baseline"] for one in lists]).numpy()
    chosen = torch.cat([one["chosen"] for one in lists]).numpy()
    list_index = np.repeat(np.arange(len(lists)), [len(one["baseline"]) for one in lists])
    within = torch.cat([one["components"] - one["components"].mean(dim=0) for one in lists]).numpy()
    spread = np.maximum(within.std(axis=0), 1e-9)
    features = np.column_stack([raw / spread, offsets if baseline else np.zeros(len(raw))])
    centre = np.array([*(np.array(around) * spread), 1.0])
    fitted = ConditionalLogit.fit(features, list_index, chosen, _RIDGE, centre)
    a, b, c = (float(one) for one in fitted.weights[:3] / spread)
    return a, b, c


def cross_fitted_losses(parts: Sequence[Part], around: Sequence[float], baseline: bool) -> torch.Tensor:
    """(lists,) losses in the order of the parts, each tenth under coefficients that were fitted on the others.

    So prompts are compared by what a head makes of them that is fitted to each, as `Reranker.fit` will; under common
    coefficients, those of the one that they fit would win.

    Args:
        parts: lists that were read under one prompt; the tenths are the same for the same lists in any order.
        around: (3,) coefficients that the ridge pulls to; those of a single list.
        baseline: whether the baseline's log-odds stand in the utility.
    """
    components = [one for part in parts for one in part.components]
    episodes = [one for part in parts for one in part.episodes]
    lists = [one for part in parts for one in _read_lists(part)]
    folds = _folds(episodes)
    losses = torch.zeros(len(lists), dtype=torch.float64)
    for fold in np.unique(folds):
        mine, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fitted = fit_coefficients([lists[n] for n in others], around, baseline) if len(others) else around
        read = list_losses([components[n] for n in mine], [episodes[n] for n in mine], fitted, baseline)
        losses[torch.from_numpy(mine)] = read.detach().cpu().double()
    return losses


def _folds(episodes: Sequence[Episode]) -> IntArray:
    """(lists,) fold of each; readers group lists each in their own way."""
    known = [f"{one.domain} {one.user_id!r} {one.candidate_ids!r}" for one in episodes]
    folds = np.empty(len(known), dtype=np.int64)
    folds[sorted(range(len(known)), key=known.__getitem__)] = np.random.default_rng(0).permutation(len(known)) % _FOLDS
    return folds


def _read_lists(part: Part) -> list[ReadList]:
    return [
        {
            "components": components.cpu().double(),
            "baseline": torch.from_numpy(episode.baseline),
            "chosen": torch.from_numpy(episode.chosen),
        }
        for components, episode in zip(part.components, part.episodes, strict=True)
    ]
