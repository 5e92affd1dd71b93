"""Recall stages: who proposes the candidates that the reranker orders. Importing this loads no implicit."""

from candidate_gen.als import ALSRecall
from candidate_gen.co_visit import CoVisitGenerator
from candidate_gen.item_knn import ItemKNNRecall
from candidate_gen.popularity import PopularityRecall
from candidate_gen.reciprocal_rank import BlendRecall
from candidate_gen.registry import can_load, load_recall, register_recall

for _stage_class in (ALSRecall, BlendRecall, CoVisitGenerator, ItemKNNRecall, PopularityRecall):
    register_recall(_stage_class)

__all__ = [
    "ALSRecall",
    "BlendRecall",
    "CoVisitGenerator",
    "ItemKNNRecall",
    "PopularityRecall",
    "can_load",
    "load_recall",
    "register_recall",
]
