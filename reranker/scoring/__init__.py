"""Read-outs: how preferences are read from a causal LM."""

from reranker.scoring.labels import LabelScoring
from reranker.scoring.likelihood import LikelihoodScoring
from reranker.scoring.listwise import ListwiseScoring
from reranker.scoring.priors import PriorStore
from reranker.scoring.protocol import ListReading, Scoring, ScoringList

__all__ = [
    "LabelScoring",
    "LikelihoodScoring",
    "ListReading",
    "ListwiseScoring",
    "PriorStore",
    "Scoring",
    "ScoringList",
]
