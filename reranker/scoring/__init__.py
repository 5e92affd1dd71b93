"""Scorers: how preferences are read from a causal LM."""

from reranker.scoring.base import ListScores, Scorer, ScoringList
from reranker.scoring.baseline import NoScorer
from reranker.scoring.calibration import PriorStore, calibration_histories
from reranker.scoring.combined import CombinedScorer
from reranker.scoring.embedding import EMBEDDING_COMPONENTS, EmbeddingScorer
from reranker.scoring.labels import LabelScorer
from reranker.scoring.likelihood import LIKELIHOOD_COMPONENTS, LikelihoodScorer
from reranker.scoring.listwise import LISTWISE_COMPONENTS, ListwiseScorer
from reranker.scoring.state_cache import StateCache, TextsRead
from reranker.scoring.state_store import StateStore
from reranker.utils.spaces import EmbeddingSpace

COMPONENTS = {
    "baseline": {},
    "embedding": EMBEDDING_COMPONENTS,
    "likelihood": LIKELIHOOD_COMPONENTS,
    "listwise": LISTWISE_COMPONENTS,
}
"""Scorer -> its components in their order; those of "labels" are the words of a template."""

__all__ = [
    "COMPONENTS",
    "CombinedScorer",
    "EmbeddingScorer",
    "EmbeddingSpace",
    "LabelScorer",
    "LikelihoodScorer",
    "ListScores",
    "ListwiseScorer",
    "NoScorer",
    "PriorStore",
    "Scorer",
    "ScoringList",
    "StateCache",
    "StateStore",
    "TextsRead",
    "calibration_histories",
]
