"""Read-outs: how preferences are read from a causal LM."""

from reranker.scoring.base import ListScores, Scoring, ScoringList
from reranker.scoring.baseline import NoReadOut
from reranker.scoring.calibration import PriorStore, reference_histories
from reranker.scoring.combined import CombinedScoring
from reranker.scoring.embedding import EmbeddingScoring
from reranker.scoring.labels import LabelScoring
from reranker.scoring.likelihood import LikelihoodScoring
from reranker.scoring.listwise import ListwiseScoring
from reranker.scoring.state_cache import StateCache, TextsRead
from reranker.scoring.state_store import StateStore
from reranker.scoring.text_spaces import EmbeddingSpace

__all__ = [
    "CombinedScoring",
    "EmbeddingScoring",
    "EmbeddingSpace",
    "LabelScoring",
    "LikelihoodScoring",
    "ListScores",
    "ListwiseScoring",
    "NoReadOut",
    "PriorStore",
    "Scoring",
    "ScoringList",
    "StateCache",
    "StateStore",
    "TextsRead",
    "reference_histories",
]
