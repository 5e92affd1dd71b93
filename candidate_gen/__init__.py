"""Recall stages: who proposes the candidates that the reranker orders. Importing this loads no implicit."""

from candidate_gen.als import ALSRecall
from candidate_gen.item_knn import ItemKNNRecall
from candidate_gen.popularity import PopularityRecall

__all__ = ["ALSRecall", "ItemKNNRecall", "PopularityRecall"]
