"""Coefficients of the read-out, fitted in closed form beside the prompt, on the lists that were read last."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from reranker.fusion import ConditionalLogit
from reranker.meta.reading import Part, Values
from reranker.meta.tasks import Episode

_WINDOW_LISTS = 512
_RIDGE = 3.0  # of coefficients at the components' spread within a list; heavier, the loss was above that without LLM


class ListReader(Protocol):
    """Reads lists under a prompt: `EpisodeReader`, `ContextReader`, `EngineReader`."""

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Part]:
        """The episodes in groups, each read once."""


class Recording:
    """A reader that remembers what it read.

    Attributes:
        window: the newest lists: components (n_candidates, 3), evidence and chosen (n_candidates,).
    """

    def __init__(self, reader: ListReader) -> None:
        self.window: list[dict[str, torch.Tensor]] = []
        self._reader = reader

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Part]:
        """As the reader reads them."""
        for part in self._reader.parts(values, episodes):
            for components, episode in zip(part.components, part.episodes, strict=True):
                self.window.append(
                    {
                        "components": components.cpu().double(),
                        "evidence": torch.from_numpy(episode.evidence),
                        "chosen": torch.from_numpy(episode.chosen),
                    }
                )
            yield part
        del self.window[:-_WINDOW_LISTS]

    def fit(self, around: Sequence[float], evidence: bool) -> tuple[float, float, float]:
        """Coefficients of sum, mean and prior that fit the window best, near `around`.

        Args:
            around: (3,) coefficients that the ridge pulls to.
            evidence: whether the evidence stands in the utility; it has a weight of its own here, pulled to 1.
        """
        raw = torch.cat([one["components"] for one in self.window]).numpy()
        offsets = torch.cat([one["evidence"] for one in self.window]).numpy()
        chosen = torch.cat([one["chosen"] for one in self.window]).numpy()
        list_index = np.repeat(np.arange(len(self.window)), [len(one["evidence"]) for one in self.window])
        within = torch.cat([one["components"] - one["components"].mean(dim=0) for one in self.window]).numpy()
        spread = np.maximum(within.std(axis=0), 1e-9)
        features = np.column_stack([raw / spread, offsets if evidence else np.zeros(len(raw))])
        centre = np.array([*(np.array(around) * spread), 1.0])
        fitted = ConditionalLogit.fit(features, list_index, chosen, _RIDGE, centre)
        a, b, c = (float(one) for one in fitted.weights[:3] / spread)
        return a, b, c
