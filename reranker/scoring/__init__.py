"""Scorers: how preferences are read from a causal LM."""

from reranker.scoring.base import ListScores, Scorer, ScoringList
from reranker.scoring.baseline import NoScorer
from reranker.scoring.calibration import PriorStore, calibration_histories
from reranker.scoring.combined import CombinedScorer
from reranker.scoring.embedding import EmbeddingScorer
from reranker.scoring.labels import LabelScorer
from reranker.scoring.likelihood import LikelihoodScorer
from reranker.scoring.listwise import ListwiseScorer
from reranker.scoring.state_cache import StateCache, TextsRead
from reranker.scoring.state_store import StateStore
from reranker.utils.spaces import EmbeddingSpace

__all__ = [
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
