"""Embedding scorer: how near the model places a candidate's text to those of the history.

The state of a text is the mean of the LM's last hidden states over its tokens, read by itself: without history, soft
prompt or instruction (behind these, texts were placed worse). Details (a description) follow the text
and have a state of their own. States belong to the item, are computed once and kept, and a list of known items costs no
pass of the model. Items are compared in two spaces: one is learned from the catalogue's texts, the other tells from
text and details who chooses them. From these it is told, too, how often such an item is chosen.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.data.schema import TITLE, UNTITLED
from reranker.engines.encoder import ENCODER
from reranker.engines.lexical import LEXICAL
from reranker.prompting import Item, ItemTexts, PromptRenderer
from reranker.prompting.text import field_text
from reranker.protocols import Engine
from reranker.scoring.base import ListScores, Scorer, ScoringList
from reranker.scoring.state_store import StateStore
from reranker.types import IntArray
from reranker.utils.spaces import (
    FEW,
    NEWEST,
    CFProjection,
    PopularityProjection,
    Vectors,
    most_chosen,
    nearness,
    sampled,
)

_READERS = {LEXICAL: "words", ENCODER: "its sentence embeddings"}  # what tells in an LM's place


EMBEDDING_COMPONENTS = {
    "llm_near_last": "nearness of its text to the newest item's, in the LM's hidden states",
    "llm_near_best": f"nearness of its text to the nearest of the last {FEW}",
    "llm_near_mean": f"mean nearness of its text to the last {FEW}",
    "llm_near_recent": f"mean nearness of its text to the last {NEWEST}, newer ones first",
    "llm_near_any": f"soft maximum of the nearness of its text to the last {NEWEST}",
    "cf_projection_last": "likeness of who chooses it and the newest item, as the LM's hidden states tell",
    "cf_projection_best": f"likeness of who chooses it and the most alike of the last {FEW}, as the LM tells",
    "cf_projection_mean": f"mean likeness of who chooses it and the last {FEW}, as the LM tells",
    "cf_projection_recent": f"mean likeness of who chooses it and the last {NEWEST}, newer ones first",
    "cf_projection_any": f"soft maximum of the likeness of who chooses it and the last {NEWEST}",
    "predicted_popularity": "how often items with such texts are chosen (log), as the LM's hidden states tell",
}


class EmbeddingScorer(Scorer):
    """Cosines of the candidate and the user's newest items in two spaces, in five ways each; and predicted popularity.

    A query counts as the newest item. Without any history every cosine is 0. Before a catalogue was learned, states are
    compared as they are, which says little; before choices were shown, projections and predicted popularity are 0.
    """

    name = "embedding"

    def __init__(self, engine: Engine, renderer: PromptRenderer, states: StateStore | None = None) -> None:
        self.components = dict(EMBEDDING_COMPONENTS)
        if reader := _READERS.get(engine.name):
            for name, words in self.components.items():
                words = words.replace(", in the LM's hidden states", "").replace(
                    "the LM's hidden states tell", f"{reader} tell"
                )
                self.components[name] = words.replace("the LM tells", f"{reader} tell")
        self.default_coefficients = np.array([*([1.0, 2.0, 1.0, 2.0, 2.0] * 2), 0.0])
        self.states = StateStore() if states is None else states
        self._engine = engine
        self._renderer = renderer

    def for_catalog(self, items: Sequence[Item], seed: int = 0) -> "EmbeddingScorer":
        """With the space of a catalogue, learned from a random `MOST_LEARNED_FROM` of it where it is larger."""
        texts = self._texts(items, sampled(len(items), seed))
        return EmbeddingScorer(self._engine, self._renderer, self.states.for_catalog(self._engine, texts))

    def for_window(
        self,
        items: Sequence[Item],
        vectors: Vectors,
        counts: NDArray[np.float64],
        seed: int = 0,
        same_penalties: bool = False,
    ) -> "EmbeddingScorer":
        """With who chooses which texts, learned from the `MOST_LEARNED_FROM` items that were chosen most, and how often
        texts are chosen, from those of a random `MOST_LEARNED_FROM` that were.

        Args:
            items: the catalogue, as `for_catalog` had it.
            vectors: (n_items, n_factors) of them in the collaborative space; those of zeros, or without any factor, say
                nothing.
            counts: (n_items,) how often each was chosen.
            seed: as in `for_catalog`, so that these texts are known already.
            same_penalties: take those of the projections that were learned before, where there are such; finding the
                best anew takes longer than all the rest.

        Raises:
            ConfigError: the space of the catalogue was not learned before.
        """
        known = np.flatnonzero((counts > 0) & vectors.any(axis=1))
        most = most_chosen(known, counts)
        sample = sampled(len(items), seed)
        chosen = sample[counts[sample] > 0]
        rows = np.union1d(most, chosen)  # mostly the same items: each is looked up once
        cf_projection, predicted_popularity = None, None
        if len(rows):
            placed = self.states.whole(self._engine, self._texts(items, rows))
            of_cf, of_popularity = self.states.penalties if same_penalties else (0.0, 0.0)
            if len(most):
                placed_most = placed[np.searchsorted(rows, most)]
                cf_projection = CFProjection.fit(placed_most, vectors[most], counts[most], of_cf)
            if len(chosen):
                placed_chosen = placed[np.searchsorted(rows, chosen)]
                predicted_popularity = PopularityProjection.fit(placed_chosen, counts[chosen], of_popularity)
        states = self.states.for_choices(cf_projection, predicted_popularity)
        return EmbeddingScorer(self._engine, self._renderer, states)

    def _texts(self, items: Sequence[Item], rows: IntArray) -> ItemTexts:
        return self._renderer.item_texts([items[row] for row in rows])

    def keep(self, items: Sequence[Item]) -> None:
        """Reads the items' texts now, so that no list waits for it."""
        self.states.look_up(self._engine, self._renderer.item_texts(items))

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """Per list: (n_candidates, 11). States belong to items: no token is read for a list."""
        if not lists:
            return []
        texts = [[*one.candidates, *_chosen(one)] for one in lists]
        ends = np.cumsum([len(part) for part in texts])[:-1]
        every = [item for part in texts for item in part]
        # The same items stand in many lists; a catalogue gives each as one object.
        place: dict[int, int] = {}
        for item in every:
            place.setdefault(id(item), len(place))
        different = list({id(item): item for item in every}.values())
        rows = np.array([place[id(item)] for item in every], dtype=np.int64)
        placed = self.states.look_up(self._engine, self._renderer.item_texts(different)).take(rows)
        silent = np.array([not _says_something(item) for item in different])[rows]
        placed.near[silent] = placed.cf_projection[silent] = 0  # else all items without a text would be alike
        placed.predicted_popularity[silent] = 0
        readings = []
        for one, near, cf_projection, predicted_popularity in zip(
            lists,
            *(np.split(part, ends) for part in (placed.near, placed.cf_projection, placed.predicted_popularity)),
            strict=True,
        ):
            n = len(one.candidates)
            columns = [
                nearness(near[:n], near[n:]),
                nearness(cf_projection[:n], cf_projection[n:]),
                predicted_popularity[:n, None],
            ]
            readings.append(ListScores(components=np.hstack(columns).astype(np.float64), prompt_tokens=0))
        return readings


def _chosen(one: ScoringList) -> list[Item]:
    asked: list[Item] = [{TITLE: one.query}] if one.query and one.query.strip() else []
    return [*filter(_says_something, list(one.history)[-NEWEST:]), *asked]


def _says_something(item: Item) -> bool:
    """Whether there is a text to read: an item that is missing from the catalogue has none."""
    if field_text(item.get(TITLE)).strip() not in ("", UNTITLED):
        return True
    return any(field_text(value).strip() for name, value in item.items() if name != TITLE)
