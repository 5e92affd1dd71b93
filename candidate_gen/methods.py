"""Candidate generators by name, as the command line and the endpoint's tools offer them."""

from collections.abc import Callable

import pandas as pd

from candidate_gen.als import ALSGenerator
from candidate_gen.co_visit import CoVisitGenerator
from candidate_gen.item_knn import ItemKNNGenerator
from candidate_gen.popularity import PopularityGenerator
from candidate_gen.reciprocal_rank import ReciprocalRankFusion
from candidate_gen.text import TextGenerator
from reranker.errors import ConfigError
from reranker.protocols import CandidateGenerator

DEFAULT_METHOD = "als-co-visit"
"""Where none is named: better served lists than ALS on the temporal split and on leave-last, at an equal length
(`python -m eval.benchmark --table candidates`)."""

_PARTS: dict[str, Callable[[int], CandidateGenerator]] = {
    "als": lambda seed: ALSGenerator(seed=seed),
    "item-knn": lambda seed: ItemKNNGenerator(),
    "popularity": lambda seed: PopularityGenerator(),
    "co-visit": lambda seed: CoVisitGenerator(),
}
METHODS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in _PARTS},
    DEFAULT_METHOD: ("als", "co-visit"),
    "als-item-knn": ("als", "item-knn"),
    "als-item-knn-popularity": ("als", "item-knn", "popularity"),
}
"""Method -> what it is made of; several are fused by reciprocal rank."""


def make_generator(
    method: str = DEFAULT_METHOD, *, seed: int = 0, items: pd.DataFrame | None = None, new_share: float = 0.0
) -> CandidateGenerator:
    """An unfitted generator.

    Args:
        method: of `METHODS`.
        seed: of ALS.
        items: the item table, whose texts tell who chooses new items; needed for `new_share`.
        new_share: share of each list's places for items that nobody chose yet, by their texts; the last places of a
            list, where they are not in it already.

    Raises:
        ConfigError: an unknown method, or places for new items without the item table.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown candidate generator {method!r}; there are {', '.join(METHODS)}")
    parts = [_PARTS[name](seed) for name in METHODS[method]]
    if not new_share:
        return parts[0] if len(parts) == 1 else ReciprocalRankFusion(parts)
    if items is None:
        raise ConfigError("places for new items (new_share) need the item table: nobody chose them, so texts must tell")
    new = TextGenerator(items, new_share=1.0, seed=seed)
    return ReciprocalRankFusion([*parts, new], reserved=[*(0.0 for _ in parts), new_share])
