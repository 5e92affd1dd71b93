"""Candidate generators: who proposes the candidates that the reranker orders. Importing this loads no implicit."""

from candidate_gen.als import ALSGenerator
from candidate_gen.co_visit import CoVisitGenerator
from candidate_gen.item_knn import ItemKNNGenerator
from candidate_gen.methods import DEFAULT_METHOD, METHODS, make_generator
from candidate_gen.own import as_generator
from candidate_gen.popularity import PopularityGenerator
from candidate_gen.reciprocal_rank import ReciprocalRankFusion
from candidate_gen.registry import can_load, load_generator, register_generator
from candidate_gen.text import TextGenerator

for _stage_class in (
    ALSGenerator,
    ReciprocalRankFusion,
    CoVisitGenerator,
    ItemKNNGenerator,
    PopularityGenerator,
    TextGenerator,
):
    register_generator(_stage_class)

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "ALSGenerator",
    "CoVisitGenerator",
    "ItemKNNGenerator",
    "PopularityGenerator",
    "ReciprocalRankFusion",
    "TextGenerator",
    "as_generator",
    "can_load",
    "load_generator",
    "make_generator",
    "register_generator",
]
