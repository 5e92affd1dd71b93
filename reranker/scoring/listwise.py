"""Listwise scorer: all candidates in one prompt, labelled; the fast mode, averaged over permutations.

Label position biases the answer, so each permutation shuffles the candidates and the average is taken (permutation
self-consistency, Tang et al. 2023, arXiv:2310.07712).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.engines.slices import in_slices
from reranker.errors import ConfigError
from reranker.prompting import PromptRenderer
from reranker.protocols import Engine
from reranker.scoring.base import ListScores, Scorer, ScoringList
from reranker.types import IntArray, ScoringRequest

LISTWISE_COMPONENTS = {"llm_listwise": "the label the model picks among all candidates, over permutations"}


class ListwiseScorer(Scorer):
    """Mean over permutations of log p(label), minus the mean label log-probability of the same window.

    Lists longer than `window` are cut into windows after each shuffle, so a candidate meets other rivals every time.
    Permutations are drawn from the list's content in a canonical order, and candidates that the prompt tells no
    difference of share the mean of their scores: the order of the list that comes in does not change what comes out.

    Args:
        permutations: shuffles averaged; cost grows in proportion.
        window: candidates in one prompt, at most; also bounded by the one-token labels that the tokenizer has.
    """

    name = "listwise"

    def __init__(
        self, engine: Engine, renderer: PromptRenderer, permutations: int = 4, window: int = 20, seed: int = 0
    ) -> None:
        if permutations < 1 or window < 2:
            raise ConfigError(f"listwise needs permutations >= 1 and window >= 2, got {permutations} and {window}")
        self.components = dict(LISTWISE_COMPONENTS)
        self.default_coefficients = np.array([1.0])
        self._engine = engine
        self._renderer = renderer
        self._permutations = permutations
        self._window = window
        self._seed = seed
        self._label_token_ids = renderer.listwise_label_ids(window)

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """Per list: (n_candidates, 1) in nats above the window's mean."""
        requests: list[ScoringRequest] = []
        places: list[tuple[int, IntArray]] = []
        shown = [_shown(one) for one in lists]
        for number, one in enumerate(lists):
            for members in self._windows(shown[number]):
                rendered = self._renderer.listwise(
                    one.history,
                    [one.candidates[member] for member in members],
                    soft_prompt=one.soft_prompt,
                    user_tokens=one.user_tokens,
                    query=one.query,
                )
                requests.append(rendered.request)
                places.append((number, members))
        totals, tokens = [np.zeros(len(one.candidates)) for one in lists], [0] * len(lists)
        scores = in_slices(lambda part: self._engine.label_log_probs(part, self._label_token_ids), requests)
        for (number, members), request, log_probs in zip(places, requests, scores, strict=True):
            labels = log_probs[0, : len(members)]
            totals[number][members] += labels - labels.mean()
            tokens[number] += request.tokens
        return [
            ListScores(components=_shared(total / self._permutations, keys)[:, None], prompt_tokens=count)
            for total, keys, count in zip(totals, shown, tokens, strict=True)
        ]

    def _windows(self, keys: Sequence[str]) -> list[IntArray]:
        canonical = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        content = hashlib.sha256("\0".join(keys[position] for position in canonical).encode()).digest()
        rng = np.random.default_rng([self._seed, int.from_bytes(content[:8], "little")])
        n_windows = -(-len(keys) // self._window)
        return [
            part
            for _ in range(self._permutations)
            for part in np.array_split(canonical[rng.permutation(len(keys))], n_windows)
        ]


def _shown(one: ScoringList) -> list[str]:
    """Per candidate all that a prompt may show of it."""
    return [repr(sorted((str(name), str(value)) for name, value in item.items())) for item in one.candidates]


def _shared(values: NDArray[np.float64], keys: Sequence[str]) -> NDArray[np.float64]:
    """(n,) each the mean of those with the same key."""
    group, counts = np.unique(keys, return_inverse=True, return_counts=True)[1:]
    means: NDArray[np.float64] = np.bincount(group, weights=values)[group] / counts[group]
    return means
